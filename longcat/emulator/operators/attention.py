"""Fused attention: `npu_fusion_attention` in its versions, with gradients."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from longcat.emulator.reference import draw_seed, gradients, reference

STATISTICS = 8
"""Number of copies of each row's maximum and sum that the device stores."""


@reference("npu_fusion_attention", "npu_fusion_attention_v2")
def fusion_attention(
    query: Tensor, key: Tensor, value: Tensor, head_num: int, input_layout: str, *options: Any, **named: Any
) -> tuple[Any, ...]:
    """Compute `softmax(scale * (query key^T + pse)) value`.

    Returns:
        The result in the query's layout, each row's maximum and sum (float32, `[batch, heads, tokens, 8]`, packed
        `[tokens, heads, 8]`), an empty tensor, and seed, offset and count of the dropout mask.

    Raises:
        NotImplementedError: for an option of the device that is not emulated.
    """
    chosen = {**dict(zip(_ORDER, options, strict=False)), **named}
    seed = draw_seed() if chosen.get("keep_prob", 1.0) < 1.0 else 0
    parts, maxima, sums = [], [], []
    packed = input_layout.upper() == "TND"
    layout = Layout(input_layout, head_num, query, chosen)
    for index, (q, k, v, q_rope, k_rope) in enumerate(layout.sequences(query, key, value, chosen)):
        scores = _scores(q, k, q_rope, k_rope, chosen, index)
        maximum = scores.amax(-1, keepdim=True)
        maximum = maximum.masked_fill(maximum == -torch.inf, 0)  # a row that may see nothing
        probabilities = (scores - maximum).exp()
        total = probabilities.sum(-1, keepdim=True)
        kept = _dropout(probabilities / total.clamp_min(torch.finfo(torch.float32).tiny), chosen, seed + index)
        parts.append((kept @ v.float()).to(query.dtype))
        maxima.append(maximum)
        sums.append(total)
    statistics = [torch.cat([t[0].transpose(0, 1) for t in both]) if packed else both[0] for both in (maxima, sums)]
    repeated = [t.expand(*t.shape[:-1], STATISTICS) for t in statistics]
    return layout.joined(parts), *repeated, query.new_empty(0), seed, 0, 0


@reference("npu_fusion_attention_grad")
def fusion_attention_grad(query: Tensor, *arguments: Any, **chosen: Any) -> tuple[Any, ...]:
    """Return the gradients of query, key and value; pse and sink have none."""
    empty = query.new_empty(0)
    return *_gradients(query, *arguments, **chosen)[:3], empty, empty


@reference("npu_fusion_attention_grad_v2")
def fusion_attention_grad_v2(query: Tensor, *arguments: Any, **chosen: Any) -> tuple[Any, ...]:
    """Return the gradients of query, key, value and, if given, the rotary parts; pse and sink have none."""
    empty = query.new_empty(0)
    all_gradients = [empty if gradient is None else gradient for gradient in _gradients(query, *arguments, **chosen)]
    return *all_gradients[:3], empty, *all_gradients[3:], empty


def _gradients(
    query: Tensor, key: Tensor, value: Tensor, d_y: Tensor, head_num: int, input_layout: str, **chosen: Any
) -> list[Tensor | None]:
    chosen = {**chosen, "scale": chosen.get("scale_value", 1.0)}
    ropes = [chosen.get("query_rope"), chosen.get("key_rope")]
    layout = Layout(input_layout, head_num, query, chosen)

    def forward(q: Tensor, k: Tensor, v: Tensor, q_rope: Tensor | None, k_rope: Tensor | None) -> Tensor:
        options = {**chosen, "query_rope": q_rope, "key_rope": k_rope}
        parts = []
        for index, (q_, k_, v_, q_rope_, k_rope_) in enumerate(layout.sequences(q, k, v, options)):
            scores = _scores(q_, k_, q_rope_, k_rope_, options, index)
            masked = (scores == -torch.inf).all(-1, keepdim=True)
            probabilities = scores.masked_fill(masked, 0).softmax(-1).masked_fill(masked, 0)
            kept = _dropout(probabilities, options, chosen.get("seed", 0) + index)
            parts.append((kept @ v_.float()).to(q.dtype))
        return layout.joined(parts)

    return gradients(forward, [query, key, value, *ropes], d_y)


_ORDER = (
    "pse", "padding_mask", "atten_mask", "scale", "keep_prob", "pre_tockens", "next_tockens", "inner_precise", "prefix",
    "actual_seq_qlen", "actual_seq_kvlen", "sparse_mode", "gen_mask_parallel", "sync", "softmax_layout", "sink",
    "dropout_mask", "seed", "offset",
)  # fmt: skip
"""Options of the first version, in the order of its positional arguments."""


class Layout:
    """Memory layout of queries, keys and values, and the sequences in it."""

    def __init__(self, name: str, heads: int, query: Tensor, options: dict[str, Any]) -> None:
        self.name, self.heads = name.upper(), heads
        if self.name not in ("BNSD", "BSND", "BSH", "SBH", "TND"):
            raise NotImplementedError(f"npu_fusion_attention: layout {name} is not emulated")
        for option in ("padding_mask", "sink", "dropout_mask", "prefix"):
            if options.get(option) is not None and not (option == "prefix" and options[option] == []):
                raise NotImplementedError(f"npu_fusion_attention: {option} is not emulated")
        self.size = query.shape[-1] // heads if self.name in ("BSH", "SBH") else query.shape[-1]

    def sequences(self, query: Tensor, key: Tensor, value: Tensor, options: dict[str, Any]) -> list[list[Any]]:
        """Yield query, key, value and rotary parts as `[batch, heads, tokens, size]`, keys repeated per query head."""
        given = [query, key, value, options.get("query_rope"), options.get("key_rope")]
        if self.name != "TND":
            return [self._whole(given)]
        ends = [_ends(options["actual_seq_qlen"]), _ends(options["actual_seq_kvlen"])]
        sequences, starts = [], (0, 0)
        for stops in zip(*ends, strict=True):
            spans = [slice(first, last) for first, last in zip(starts, stops, strict=True)]
            which = (0, 1, 1, 0, 1)
            parts = [
                None if t is None else t[spans[side]].transpose(0, 1)[None]
                for t, side in zip(given, which, strict=True)
            ]
            sequences.append(self._grouped(parts))
            starts = stops
        return sequences

    def joined(self, parts: list[Tensor]) -> Tensor:
        """Join the results `[batch, heads, tokens, size]` of all sequences in the layout."""
        if self.name == "TND":
            return torch.cat([part[0].transpose(0, 1) for part in parts])
        result = parts[0]
        if self.name == "BSND":
            return result.transpose(1, 2)
        if self.name == "BSH":
            return result.transpose(1, 2).flatten(2)
        return result.permute(2, 0, 1, 3).flatten(2) if self.name == "SBH" else result

    def _whole(self, given: list[Any]) -> list[Any]:
        def move(tensor: Tensor | None) -> Tensor | None:
            if tensor is None or self.name == "BNSD":
                return tensor
            if self.name == "BSND":
                return tensor.transpose(1, 2)
            apart = tensor.unflatten(-1, (-1, self.size))
            return apart.transpose(1, 2) if self.name == "BSH" else apart.permute(1, 2, 0, 3)

        return self._grouped([move(tensor) for tensor in given])

    def _grouped(self, parts: list[Any]) -> list[Any]:
        query, *rest = parts
        return [query, *(t if t is None else t.repeat_interleave(query.shape[1] // t.shape[1], 1) for t in rest)]


def _ends(lengths: Any) -> list[int]:
    return lengths.tolist() if isinstance(lengths, Tensor) else list(lengths)


def _scores(query: Any, key: Any, query_rope: Any, key_rope: Any, options: dict[str, Any], sequence: int) -> Tensor:
    """Return scaled and masked float32 scores, `[batch, heads, queries, keys]`."""
    scores: Tensor = query.float() @ key.float().mT
    if query_rope is not None:
        scores = scores + query_rope.float() @ key_rope.float().mT
    pse, scale = options.get("pse"), options.get("scale", 1.0)
    if pse is None:
        scores = scores * scale
    elif options.get("pse_type", 1) == 1:
        scores = (scores + pse.float()) * scale
    elif options["pse_type"] == 0:
        scores = scores * scale + pse.float()
    else:
        raise NotImplementedError(f"npu_fusion_attention: pse_type {options['pse_type']} is not emulated")
    mask = _mask(scores, options, sequence)
    return scores if mask is None else scores.masked_fill(mask, -torch.inf)


def _mask(scores: Tensor, options: dict[str, Any], sequence: int) -> Tensor | None:
    """Return the mask of keys to exclude; `sparse_mode` determines the meaning of the given mask."""
    mode, given = options.get("sparse_mode", 0), options.get("atten_mask")
    queries, keys = scores.shape[-2:]
    if mode in (0, 1):  # the mask as it is
        return None if given is None else given.bool()
    distance = torch.arange(keys) - torch.arange(queries)[:, None]  # how far a key is ahead of its query
    if mode == 2:
        return distance > 0
    distance = distance - (keys - queries)  # from here on the last query sees the last key
    if mode == 3:
        return distance > 0
    if mode == 4:
        before = options.get("pre_tockens", options.get("pre_tokens", 2**31 - 1))
        after = options.get("next_tockens", options.get("next_tokens", 2**31 - 1))
        return (distance > after) | (distance < -before)
    raise NotImplementedError(f"npu_fusion_attention: sparse_mode {mode} is not emulated")


def _dropout(probabilities: Tensor, options: dict[str, Any], seed: int) -> Tensor:
    """Apply dropout with a mask that is a function of the seed, so that the gradient uses the same mask."""
    keep = options.get("keep_prob", 1.0)
    if keep >= 1.0:
        return probabilities
    mask = torch.rand(probabilities.shape, generator=torch.Generator().manual_seed(seed)) < keep
    return probabilities * mask / keep
