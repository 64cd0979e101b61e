"""Fused attention for training: `npu_fusion_attention` in its versions, with gradients."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from longcat.emulator.operators.dropout import unpacked
from longcat.emulator.operators.softmax import Masked, attend, attend_backward, band
from longcat.emulator.reference import OnHost, check, draw, gradients, kept, reference

STATISTICS = 8
"""Number of copies of each row's maximum and sum that the device stores."""
COMPRESSED = 2048
"""Size of the causal mask that stands for one of any length."""
COMPRESSED_PREFIX = 3072
"""Rows of the mask that stands for a causal one with a prefix."""
FLOATS = (torch.float16, torch.bfloat16, torch.float32)
NO_LIMIT = 2**31 - 1
_LAYOUTS = {"BNSD": 4, "BSND": 4, "BSH": 3, "SBH": 3, "TND": 3}
_HEAD_AXIS = {"BNSD": 1, "BSND": 2, "TND": 1}
ALIBI_ROWS = 1024
"""Rows of a compressed ALiBi bias."""
_ORDER = (
    "pse", "padding_mask", "atten_mask", "scale", "keep_prob", "pre_tockens", "next_tockens", "inner_precise", "prefix",
    "actual_seq_qlen", "actual_seq_kvlen", "sparse_mode", "gen_mask_parallel", "sync", "softmax_layout", "sink",
    "dropout_mask", "seed", "offset",
)  # fmt: skip
"""Options of the first and third version, in the order of their positional arguments."""


@reference("npu_fusion_attention", "npu_fusion_attention_v2", mixed=True)
def fusion_attention(
    query: Tensor, key: Tensor, value: Tensor, head_num: int, input_layout: str, *options: Any, **named: Any
) -> tuple[Any, ...]:
    """Compute `softmax(scale * (query key^T + pse)) value`, or pse added after the scale; see `Options`.

    Returns:
        The result in the query's layout; each row's maximum and sum (float32, `[batch, heads, tokens, 8]`, packed
        `[tokens, heads, 8]`); an empty tensor; seed, offset and number of elements of the dropout mask.

    Raises:
        RuntimeError: for arguments that the wheel's documentation excludes.
    """
    chosen = Options.of(
        query, key, value, head_num, input_layout, {**dict(zip(_ORDER, options, strict=False)), **named}
    )
    layout = Layout(chosen, query, key)
    seed, offset = chosen.seed, chosen.offset
    if chosen.keep_prob < 1 and chosen.dropout_mask is None and not seed:
        seed, offset = draw()
    elif chosen.keep_prob >= 1:
        seed = offset = 0
    mask = layout.dropout(seed, offset)
    parts, maxima, sums = [], [], []
    for part in layout.parts(query, key, value, mask):
        attended = attend(part.query, part.key, part.value, part.masked)
        parts.append(attended.result.to(query.dtype))
        maxima.append(attended.maximum)
        sums.append(attended.total)
    statistics = (layout.join_statistics(maxima), layout.join_statistics(sums))
    return layout.join(parts, query), *statistics, query.new_empty(0), seed, offset, layout.elements


@reference("npu_fusion_attention_v3", mixed=True)
def fusion_attention_v3(*arguments: Any, **named: Any) -> tuple[Any, ...]:
    """Do the same with lengths in tensors of the host; seed and offset are tensors of the host too."""
    *results, seed, offset, _ = fusion_attention(*arguments, **named)
    return *results, OnHost(torch.tensor([seed])), OnHost(torch.tensor([offset]))


@reference("npu_fusion_attention_v3.out", mixed=True)
def fusion_attention_v3_out(
    *arguments: Any, out: list[Tensor], workspace: Tensor | None = None, **named: Any
) -> tuple[Any, ...]:
    """Write the results into given tensors."""
    *results, seed, offset, _ = fusion_attention(*arguments, **named)
    return write(out, [*results, torch.tensor([seed]), torch.tensor([offset])])


@reference("npu_fusion_attention_grad", mixed=True)
def fusion_attention_grad(*arguments: Any, **named: Any) -> tuple[Any, ...]:
    """Return the gradients of query, key, value, pse and sink."""
    query, key, value, pse, _, _, sink = _gradients(*arguments, **named)
    return query, key, value, pse, torch.empty(0) if sink is None else sink


@reference("npu_fusion_attention_grad_v2", mixed=True)
def fusion_attention_grad_v2(*arguments: Any, **named: Any) -> tuple[Any, ...]:
    """Return the gradients of query, key, value, pse, the rotary parts and sink."""
    query, key, value, pse, query_rope, key_rope, sink = _gradients(*arguments, **named)
    empty = query.new_empty(0)
    ropes = (empty if rope is None else rope for rope in (query_rope, key_rope))
    return query, key, value, empty if pse is None else pse, *ropes, sink


@reference("npu_fusion_attention_grad_v3", mixed=True)
def fusion_attention_grad_v3(
    *arguments: Any, seed: Tensor | None = None, offset: Tensor | None = None, **named: Any
) -> tuple[Any, ...]:
    """Return the gradients of query, key, value, pse and sink; seed and offset are tensors."""
    named["seed"], named["offset"] = (0 if number is None else int(number) for number in (seed, offset))
    query, key, value, pse, _, _, sink = _gradients(*arguments, **named)
    return query, key, value, query.new_empty(0) if pse is None else pse, torch.empty(()) if sink is None else sink


@reference("npu_fusion_attention_grad_v3.out", mixed=True)
def fusion_attention_grad_v3_out(
    *arguments: Any, out: list[Tensor], workspace: Tensor | None = None, **named: Any
) -> tuple[Any, ...]:
    """Write the gradients into given tensors."""
    return write(out, list(fusion_attention_grad_v3(*arguments, **named)))


@reference(
    "_npu_fusion_attention_v3_get_max_workspace", "_npu_fusion_attention_grad_v3_get_max_workspace",
    "_npu_fused_infer_attention_score_get_max_workspace", "_npu_fused_infer_attention_score_v2_get_max_workspace",
    mixed=True,
)  # fmt: skip
def no_workspace(*arguments: Any, **named: Any) -> Tensor:
    """Return a workspace of no bytes: none is needed here."""
    return torch.empty(0, dtype=torch.uint8)


@reference("_npu_fusion_attention_v3_infer_output")
def infer_output(
    query: Tensor, key: Tensor, value: Tensor, head_num: int, input_layout: str
) -> tuple[Tensor, Tensor, Tensor]:
    """Make tensors for the result, and the maximum and sum of each row."""
    chosen = Options(head_num, input_layout.upper())
    size = query.shape[-1] // (head_num if len(chosen.layout) == 3 and chosen.layout != "TND" else 1)
    if chosen.layout in ("BSH", "SBH"):
        width = head_num * (value.shape[2] // (key.shape[2] // size))
    else:
        width = value.shape[-1]
    tokens = query.shape[{"BNSD": 2, "BSND": 1, "BSH": 1, "SBH": 0, "TND": 0}[chosen.layout]]
    batch = query.shape[1 if chosen.layout == "SBH" else 0]
    statistics = (tokens, query.shape[1]) if chosen.layout == "TND" else (batch, head_num, tokens)
    rows = [torch.zeros(*statistics, STATISTICS) for _ in range(2)]
    return query.new_zeros(*query.shape[:-1], width), rows[0], rows[1]


@reference("_npu_fusion_attention_grad_v3_infer_output")
def infer_gradients(
    query: Tensor, key: Tensor, value: Tensor, pse: Tensor | None = None, sink: Tensor | None = None
) -> tuple[Tensor, ...]:
    """Make tensors for the gradients."""
    made = [torch.zeros_like(tensor) for tensor in (query, key, value)]
    return *made, *(query.new_zeros(0) if tensor is None else torch.zeros_like(tensor) for tensor in (pse, sink))


def write(out: list[Tensor], results: list[Tensor]) -> tuple[Tensor, ...]:
    """Write results into given tensors; one of another size, which the caller does not want, stays as it is."""
    for target, result in zip(out, results, strict=False):
        if target.numel() == result.numel():
            target.copy_(result.reshape(target.shape))
    return *out, *results[len(out) :]


@dataclass
class Options:
    """What is chosen about an attention, under one name for all versions.

    Sparse modes: 0, 1 the mask as it is; 2, 3 causal, first or last rows aligned; 4 band; 5 the mask as it is; 6 causal
    with a visible prefix; 7, 8 packed, causal but for the last or the first sequence, which is a band. Without a mask,
    all is seen in every mode. Types of pse: 0 added after the scale, 1 before it, 2 ALiBi from slopes, 3 from the root
    of the distance.
    """

    heads: int
    layout: str
    pse: Tensor | None = None
    padding_mask: Tensor | None = None
    atten_mask: Tensor | None = None
    scale: float = 1.0
    keep_prob: float = 1.0
    pre_tokens: int = NO_LIMIT
    next_tokens: int = NO_LIMIT
    inner_precise: int = 0
    prefix: Any = None
    actual_seq_qlen: Any = None
    actual_seq_kvlen: Any = None
    sparse_mode: int = 0
    gen_mask_parallel: bool = True
    sync: bool = False
    softmax_layout: str = ""
    sink: Tensor | None = None
    dropout_mask: Tensor | None = None
    seed: int = 0
    offset: int = 0
    query_rope: Tensor | None = None
    key_rope: Tensor | None = None
    pse_type: int = 1
    q_start_idx: Any = None
    kv_start_idx: Any = None

    @classmethod
    def of(cls, query: Tensor, key: Tensor, value: Tensor, heads: int, layout: str, options: dict[str, Any]) -> Options:
        """Rename the versions' options to one name each, and check them all."""
        renamed = {"pre_tockens": "pre_tokens", "next_tockens": "next_tokens", "scale_value": "scale"}
        chosen = cls(heads, layout.upper(), **{renamed.get(name, name): value for name, value in options.items()})
        chosen.check(query, key, value)
        return chosen

    @property
    def packed(self) -> bool:
        """Whether sequences lie one behind the other."""
        return self.layout == "TND"

    def check(self, query: Tensor, key: Tensor, value: Tensor) -> None:
        """Refuse what the wheel's documentation of the operator excludes."""

        def need(condition: bool, reason: str) -> None:
            check(condition, "npu_fusion_attention", reason)

        need(self.layout in _LAYOUTS, f"input_layout must be one of {', '.join(_LAYOUTS)}, got {self.layout}")
        for name, tensor in (("query", query), ("key", key), ("value", value)):
            need(
                tensor.dim() == _LAYOUTS[self.layout],
                f"{name} must have {_LAYOUTS[self.layout]} dimensions in layout {self.layout}, got {tensor.dim()}",
            )
        need(query.dtype in FLOATS, f"query must be float16, bfloat16 or float32, got {query.dtype}")
        need(
            query.dtype == key.dtype == value.dtype,
            f"query, key and value must have one dtype, got {query.dtype}, {key.dtype} and {value.dtype}",
        )
        need(self.heads >= 1, f"head_num must be positive, got {self.heads}")
        need(0 < self.keep_prob <= 1, f"keep_prob must be in (0, 1], got {self.keep_prob}")
        modes = (0, 1, 2, 3, 4, 6, 7, 8) if self.packed else (0, 1, 2, 3, 4, 5, 6)
        need(self.sparse_mode in modes, f"sparse_mode must be one of {modes} in {self.layout}, got {self.sparse_mode}")
        need(self.padding_mask is None, "padding_mask is reserved and must be None")
        allowed = ("", "TND") if self.packed else ("",)
        need(self.softmax_layout in allowed, f"softmax_layout must be one of {allowed}, got {self.softmax_layout!r}")
        if self.sink is not None:
            need(
                self.sink.dtype == torch.float32 and self.sink.shape == (self.heads,),
                f"sink must be float32 [{self.heads}], got {self.sink.dtype} {list(self.sink.shape)}",
            )
        self._check_heads(query, key, value, need)
        self._check_packed(query, key, need)
        self._check_mask(need)
        self._check_pse(query, need)

    def _check_heads(self, query: Tensor, key: Tensor, value: Tensor, need: Any) -> None:
        if self.layout in ("BSH", "SBH"):
            need(query.shape[-1] % self.heads == 0, f"head_num {self.heads} does not divide {query.shape[-1]}")
            size = query.shape[-1] // self.heads
            need(key.shape[-1] % size == 0, f"key's width {key.shape[-1]} is no multiple of the head's, {size}")
            key_heads = key.shape[-1] // size
            need(key_heads == 0 or value.shape[-1] % key_heads == 0, "value's width is no multiple of key's heads")
            key_size, value_size = size, value.shape[-1] // max(key_heads, 1)
        else:
            axis = _HEAD_AXIS[self.layout]
            need(query.shape[axis] == self.heads, f"head_num is {self.heads}, but query has {query.shape[axis]} heads")
            need(key.shape[axis] == value.shape[axis], "key and value must have the same number of heads")
            key_heads, size, key_size, value_size = key.shape[axis], query.shape[-1], key.shape[-1], value.shape[-1]
        need(
            key_heads > 0 and self.heads % key_heads == 0,
            f"query's heads ({self.heads}) must be a multiple of key's ({key_heads})",
        )
        need(
            size == key_size >= value_size and size <= 768,
            f"head sizes must be equal for query ({size}) and key ({key_size}), at most 768, and not less than value's "
            f"({value_size})",
        )
        if not self.packed:
            batch = 1 if self.layout == "SBH" else 0
            need(query.shape[batch] == key.shape[batch] == value.shape[batch], "batch sizes must be equal")

    def _check_packed(self, query: Tensor, key: Tensor, need: Any) -> None:
        if self.packed:
            need(
                self.actual_seq_qlen is not None and self.actual_seq_kvlen is not None,
                "layout TND needs actual_seq_qlen and actual_seq_kvlen",
            )
            ends = [ends_of(self.actual_seq_qlen), ends_of(self.actual_seq_kvlen)]
            need(len(ends[0]) == len(ends[1]) > 0, "actual_seq_qlen and actual_seq_kvlen must be of one length, not 0")
            for tensor, stops in ((query, ends[0]), (key, ends[1])):
                need(
                    stops == sorted(stops) and stops[-1] <= tensor.shape[0],
                    f"lengths {stops} must be running totals up to {tensor.shape[0]} tokens",
                )
        if self.query_rope is not None or self.key_rope is not None:
            need(self.query_rope is not None and self.key_rope is not None, "query_rope and key_rope belong together")
            need(self.packed and self.atten_mask is not None, "query_rope needs layout TND and an atten_mask")
            need(query.dtype == torch.bfloat16, f"query_rope needs bfloat16, got {query.dtype}")
            need(self.keep_prob == 1 and self.pse is None, "query_rope goes with neither dropout nor pse")

    def _check_mask(self, need: Any) -> None:
        if self.atten_mask is None:
            return
        need(
            self.atten_mask.dtype in (torch.bool, torch.uint8),
            f"atten_mask must be bool or uint8, got {self.atten_mask.dtype}",
        )
        shape = tuple(self.atten_mask.shape[-2:])
        if self.sparse_mode in (2, 3, 4, 7, 8):
            need(
                shape == (COMPRESSED, COMPRESSED),
                f"atten_mask must be the compressed [2048, 2048] in sparse_mode {self.sparse_mode}, got {list(shape)}",
            )
        if self.sparse_mode == 6:
            need(shape == (COMPRESSED_PREFIX, COMPRESSED), "atten_mask must be the compressed [3072, 2048] with prefix")
        if self.sparse_mode in (5, 6):
            need(self.prefix is not None, f"sparse_mode {self.sparse_mode} needs prefix")

    def _check_pse(self, query: Tensor, need: Any) -> None:
        need(self.pse_type in (0, 1, 2, 3), f"pse_type must be 0 to 3, got {self.pse_type}")
        if self.pse is None:
            need(self.pse_type in (0, 1), f"pse_type {self.pse_type} needs pse, the slopes")
            return
        need(self.sparse_mode not in (7, 8), f"sparse_mode {self.sparse_mode} goes without pse")
        if self.pse_type in (2, 3):
            need(
                self.pse.dtype == torch.float32 and self.pse.dim() in (1, 2) and self.pse.shape[-1] == self.heads,
                "pse must be float32 slopes, [heads] or [batch, heads], with pse_type 2 and 3",
            )
        else:
            need(self.pse.dtype == query.dtype, f"pse must have query's dtype {query.dtype}, got {self.pse.dtype}")


@dataclass
class Part:
    """One batch of equally long sequences, or one of packed sequences: all `[batch, heads, tokens, size]`."""

    query: Tensor
    key: Tensor
    value: Tensor
    masked: Masked


class Layout:
    """Memory layout of queries, keys and values, and the sequences in it."""

    def __init__(self, options: Options, query: Tensor, key: Tensor) -> None:
        self.options, self.heads = options, options.heads
        wide = options.layout in ("BSH", "SBH")
        size = query.shape[-1] // self.heads
        self.key_heads = key.shape[-1] // size if wide else key.shape[_HEAD_AXIS[options.layout]]
        if options.packed:
            stops = ends_of(options.actual_seq_qlen), ends_of(options.actual_seq_kvlen)
            self.spans = [
                [slice(first, last) for first, last in zip([0, *ends[:-1]], ends, strict=True)] for ends in stops
            ]
            lengths = [[span.stop - span.start for span in spans] for spans in self.spans]
            self.elements = self.heads * sum(q * k for q, k in zip(*lengths, strict=True))
            if options.pse is not None:
                check(0 not in lengths[0], "npu_fusion_attention", "empty sequences go without pse")
        else:
            batch, _, queries, _ = self.of_queries(query)[0].shape
            self.elements = batch * self.heads * queries * self.of_keys(key)[0].shape[2]

    def of_queries(self, tensor: Tensor) -> list[Tensor]:
        """Return a tensor of queries as `[batch, heads, tokens, size]`, one for each packed sequence or one for all."""
        return self._apart(tensor, self.heads, 0)

    def of_keys(self, tensor: Tensor) -> list[Tensor]:
        """Return a tensor of keys or values so."""
        return self._apart(tensor, self.key_heads, 1)

    def _apart(self, tensor: Tensor, heads: int, side: int) -> list[Tensor]:
        layout = self.options.layout
        if layout == "TND":
            return [tensor[span].transpose(0, 1)[None] for span in self.spans[side]]
        if layout == "BNSD":
            return [tensor]
        if layout == "BSND":
            return [tensor.transpose(1, 2)]
        by_heads = tensor.unflatten(-1, (heads, -1))
        return [by_heads.transpose(1, 2) if layout == "BSH" else by_heads.permute(1, 2, 0, 3)]

    def dropout(self, seed: int, offset: int) -> Tensor | None:
        """Return which probabilities dropout keeps, of all sequences in a row; None for all."""
        if self.options.keep_prob >= 1:
            return None
        if self.options.dropout_mask is not None:
            return unpacked(self.options.dropout_mask, self.elements)
        return kept(seed, offset, self.elements, self.options.keep_prob)

    def parts(self, query: Tensor, key: Tensor, value: Tensor, dropout: Tensor | None) -> Iterator[Part]:
        """Yield the sequences, or all at once where they are equally long."""
        chosen, taken = self.options, 0
        queries, keys, values = self.of_queries(query), self.of_keys(key), self.of_keys(value)
        if chosen.query_rope is not None and chosen.key_rope is not None:
            queries = [torch.cat(pair, -1) for pair in zip(queries, self.of_queries(chosen.query_rope), strict=True)]
            keys = [torch.cat(pair, -1) for pair in zip(keys, self.of_keys(chosen.key_rope), strict=True)]
        for number, (q, k, v) in enumerate(zip(queries, keys, values, strict=True)):
            shape = (*q.shape[:3], k.shape[2])
            count = math.prod(shape)
            keep = None if dropout is None else dropout[taken : taken + count].view(shape)
            taken += count
            yield Part(q, k, v, self._masked(q, k, number, keep))

    def join(self, parts: list[Tensor], like: Tensor) -> Tensor:
        """Join results `[batch, heads, tokens, size]` of all sequences in the layout; tokens of none are 0."""
        layout = self.options.layout
        if self.options.packed:
            rows = torch.cat([part[0].transpose(0, 1) for part in parts])
            return torch.cat((rows, rows.new_zeros(len(like) - len(rows), *rows.shape[1:])))
        if layout == "BSND":
            return parts[0].transpose(1, 2)
        if layout == "BSH":
            return parts[0].transpose(1, 2).flatten(2)
        return parts[0].permute(2, 0, 1, 3).flatten(2) if layout == "SBH" else parts[0]

    def join_statistics(self, parts: list[Tensor]) -> Tensor:
        """Join `[batch, heads, tokens, 1]`; packed ones lie by heads in each sequence unless softmax_layout is TND."""
        repeats = [part.expand(*part.shape[:-1], STATISTICS) for part in parts]
        if not self.options.packed:
            return repeats[0]
        if self.options.softmax_layout == "TND":
            return torch.cat([part[0].transpose(0, 1) for part in repeats])
        return torch.cat([part.reshape(-1, STATISTICS) for part in repeats]).view(-1, self.heads, STATISTICS)

    def split_statistics(self, statistics: Tensor) -> list[Tensor]:
        """Undo `join_statistics`."""
        if not self.options.packed:
            return [statistics[..., :1]]
        if self.options.softmax_layout == "TND":
            return [part[..., :1] for part in self.of_queries(statistics)]
        rows = statistics.reshape(-1, STATISTICS)
        return [
            rows[span.start * self.heads : span.stop * self.heads, :1].view(1, self.heads, -1, 1)
            for span in self.spans[0]
        ]

    def bias(self, pse: Tensor, queries: int, keys: int, number: int) -> Tensor:
        """Return what is added to the scores of a sequence."""
        chosen = self.options
        distance = torch.arange(keys) - torch.arange(queries)[:, None]
        if chosen.pse_type in (2, 3):
            starts = [_at(indices, number) for indices in (chosen.kv_start_idx, chosen.q_start_idx)]
            away = (distance + starts[0] - starts[1]).abs().float()
            slopes = pse[number : number + 1] if chosen.packed and pse.dim() == 2 else pse
            return -slopes[..., None, None] * (away.sqrt() if chosen.pse_type == 3 else away)
        check(pse.dim() == 4, "npu_fusion_attention", f"pse must have 4 dimensions, got {pse.dim()}")
        pse = pse[number : number + 1] if chosen.packed and pse.shape[0] > 1 else pse
        if pse.shape[2] in (1, queries) and pse.shape[3] == keys:
            return pse
        check(
            pse.shape[2] == ALIBI_ROWS and queries == keys and chosen.sparse_mode in (0, 2, 3),
            "npu_fusion_attention",
            f"pse must be [batch or 1, heads, {queries} or 1, {keys}], or the last 1024 rows of ALiBi, got "
            f"{list(pse.shape)}",
        )  # ALiBi is a function of the distance
        rows = (ALIBI_ROWS - 1 + distance).clamp(0, ALIBI_ROWS - 1)
        return pse[:, :, torch.where(distance < 0, ALIBI_ROWS - 1, rows), pse.shape[3] - 1 + distance.clamp_max(0)]

    def _masked(self, query: Tensor, key: Tensor, number: int, keep: Tensor | None) -> Masked:
        queries, keys, chosen = query.shape[2], key.shape[2], self.options
        bias = None if chosen.pse is None else self.bias(chosen.pse, queries, keys, number)
        hidden = self._hidden(queries, keys, number)
        return Masked(chosen.scale, hidden, bias, chosen.pse_type == 1, chosen.sink, keep, chosen.keep_prob)

    def _hidden(self, queries: int, keys: int, number: int) -> Tensor | None:
        chosen, mask = self.options, self.options.atten_mask
        if mask is None:
            return None
        mode, limits = chosen.sparse_mode, (chosen.pre_tokens, chosen.next_tokens)
        if mode in (0, 1, 5):
            check(
                mask.shape[-2] >= queries and mask.shape[-1] >= keys if chosen.packed
                else mask.shape[-2:] == (queries, keys),
                "npu_fusion_attention",
                f"atten_mask must end in [{queries}, {keys}] in sparse_mode {mode}, got {list(mask.shape)}",
            )  # fmt: skip
            return mask[..., :queries, :keys].bool()
        if mode == 2:
            return band(queries, keys, None, 0, last=False)
        if mode in (7, 8):
            odd = len(self.spans[0]) - 1 if mode == 7 else 0
            if number == odd:
                return band(queries, keys, *limits, last=True)
            return band(queries, keys, None, 0, last=mode == 7)
        if mode == 4:
            return band(queries, keys, *limits, last=True)
        causal = band(queries, keys, None, 0, last=True)
        if mode == 3:
            return causal
        prefix = torch.tensor(ends_of(chosen.prefix))
        prefix = prefix[number : number + 1] if chosen.packed else prefix
        return causal & (torch.arange(keys) >= prefix[:, None, None, None])


def ends_of(lengths: Any) -> list[int]:
    """Return lengths or running totals, given as a tensor or a list, as numbers."""
    return [int(length) for length in (lengths.tolist() if isinstance(lengths, Tensor) else lengths)]


def _at(indices: Any, number: int) -> int:
    numbers = ends_of(indices) if indices is not None else [0]
    return numbers[min(number, len(numbers) - 1)] if numbers else 0


def _gradients(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    dy: Tensor,
    head_num: int,
    input_layout: str,
    *,
    softmax_max: Tensor | None = None,
    softmax_sum: Tensor | None = None,
    softmax_in: Tensor | None = None,
    attention_in: Tensor | None = None,
    numels: int = 0,
    **options: Any,
) -> tuple[Any, ...]:
    """Return the gradients of query, key, value, pse, both rotary parts and sink, None where these were not given.

    Maxima, sums and the result are those of all keys where the attention is a part of a ring.
    """
    chosen = Options.of(query, key, value, head_num, input_layout, options)
    layout = Layout(chosen, query, key)
    d_outs = layout.of_queries(dy)
    outs: list[Any] = [None] * len(d_outs) if attention_in is None else layout.of_queries(attention_in)
    rows: list[Any] = [None] * len(d_outs)
    if softmax_max is not None and softmax_sum is not None:
        both = (layout.split_statistics(tensor) for tensor in (softmax_max, softmax_sum))
        rows = list(zip(*both, strict=True))
    found = []
    d_pse: Tensor | None = None
    for number, part in enumerate(layout.parts(query, key, value, layout.dropout(chosen.seed, chosen.offset))):
        found.append(
            attend_backward(part.query, part.key, part.value, part.masked, d_outs[number], outs[number], rows[number])
        )
        if chosen.pse is not None:
            d_pse = _sum(d_pse, _pse_gradient(layout, chosen.pse, found[-1].bias, number))
    d_query = layout.join([gradient.query for gradient in found], query)
    d_key = layout.join([gradient.key for gradient in found], key)
    d_value = layout.join([gradient.value for gradient in found], value)
    d_ropes: tuple[Tensor | None, Tensor | None] = None, None
    if chosen.query_rope is not None:
        (d_query, d_query_rope), (d_key, d_key_rope) = (
            t.tensor_split([of.shape[-1]], -1) for t, of in ((d_query, query), (d_key, key))
        )
        d_ropes = d_query_rope.to(query.dtype), d_key_rope.to(key.dtype)
    d_sink = None
    for gradient in found:
        d_sink = d_sink if gradient.sink is None else _sum(d_sink, gradient.sink)
    results = (t.to(query.dtype) for t in (d_query, d_key, d_value))
    return *results, None if d_pse is None else d_pse.to(query.dtype), *d_ropes, d_sink


def _pse_gradient(layout: Layout, pse: Tensor, d_bias: Tensor, number: int) -> Tensor:
    def bias(tensor: Tensor) -> Tensor:
        return layout.bias(tensor, d_bias.shape[2], d_bias.shape[3], number).expand(d_bias.shape)

    (gradient,) = gradients(bias, [pse.float()], d_bias)
    assert gradient is not None
    return gradient


def _sum(total: Tensor | None, term: Tensor) -> Tensor:
    return term if total is None else total + term
