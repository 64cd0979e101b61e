"""Attention for inference: prompts, single tokens and both, with padding and paged caches, without quantisation."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from longcat.emulator.operators.attention import write
from longcat.emulator.operators.attention_options import COMPRESSED, NO_LIMIT, ends_of
from longcat.emulator.operators.softmax import Masked, attend, band
from longcat.emulator.reference import check, reference

_LAYOUTS = {
    "BSH": ("BSH", "BSH"), "BSND": ("BSND", "BSND"), "BNSD": ("BNSD", "BNSD"), "TND": ("TND", "TND"),
    "NTD": ("NTD", "NTD"), "NSD": ("NSD", "NSD"), "SH": ("SH", "SH"), "BNSD_BSND": ("BNSD", "BSND"),
    "BSH_BNSD": ("BSH", "BNSD"), "BSND_BNSD": ("BSND", "BNSD"), "NTD_TND": ("NTD", "TND"),
    "TND_NTD": ("TND", "NTD"), "BSH_NBSD": ("BSH", "NBSD"), "BSND_NBSD": ("BSND", "NBSD"),
    "BNSD_NBSD": ("BNSD", "NBSD"),
}  # fmt: skip
"""Layouts of the query and of the result."""
_DIMENSIONS = {"BSH": 3, "BSND": 4, "BNSD": 4, "TND": 3, "NTD": 3, "NSD": 3, "SH": 2}
_PACKED = ("TND", "NTD")
_QUANTISATION = {
    "dequant_scale1", "quant_scale1", "dequant_scale2", "quant_scale2", "quant_offset2", "antiquant_scale",
    "antiquant_offset", "key_antiquant_scale", "key_antiquant_offset", "value_antiquant_scale",
    "value_antiquant_offset", "key_rope_antiquant_scale", "deq_scale1", "deq_scale2", "dequant_scale_query",
    "dequant_scale_key", "dequant_offset_key", "dequant_scale_value", "dequant_offset_value",
    "dequant_scale_key_rope", "quant_scale_out", "quant_offset_out", "quant_scale_p",
}  # fmt: skip
"""Options that come with quantised tensors."""
_NAMES = {
    "num_query_heads": "heads", "num_heads": "heads", "num_key_value_heads": "key_heads", "scale_value": "scale",
    "softmax_scale": "scale", "actual_seq_qlen": "query_lengths", "actual_seq_lengths": "query_lengths",
    "actual_seq_kvlen": "key_lengths", "actual_seq_lengths_kv": "key_lengths", "return_softmax_lse": "wants_lse",
    "softmax_lse_flag": "wants_lse", "learnable_sink": "sink", "actual_shared_prefix_len": "prefix_lengths",
}  # fmt: skip
"""The versions' names of options, and ours."""
_UNUSED = (
    "inner_precise", "antiquant_mode", "key_antiquant_mode", "value_antiquant_mode", "query_quant_mode",
    "key_quant_mode", "value_quant_mode", "out_dtype", "query_dtype", "key_dtype", "value_dtype", "query_rope_dtype",
    "key_rope_dtype", "key_shared_prefix_dtype", "value_shared_prefix_dtype", "dequant_scale_query_dtype",
    "dequant_scale_key_dtype", "dequant_scale_value_dtype", "dequant_scale_key_rope_dtype", "workspace",
)  # fmt: skip
"""Options that change nothing without quantisation."""


@dataclass
class Options:
    """What is chosen about an attention, under one name for all operators."""

    operator: str
    heads: int = 1
    key_heads: int = 0
    scale: float = 1.0
    input_layout: str = "BSH"
    query_lengths: Any = None
    key_lengths: Any = None
    atten_mask: Tensor | None = None
    pse_shift: Tensor | None = None
    padding_mask: Tensor | None = None
    sparse_mode: int = 0
    pre_tokens: int = NO_LIMIT
    next_tokens: int = NO_LIMIT
    block_table: Tensor | None = None
    block_size: int = 0
    query_padding_size: Tensor | None = None
    kv_padding_size: Tensor | None = None
    key_shared_prefix: Tensor | None = None
    value_shared_prefix: Tensor | None = None
    prefix_lengths: Any = None
    query_rope: Tensor | None = None
    key_rope: Tensor | None = None
    sink: Tensor | None = None
    wants_lse: bool = False

    @classmethod
    def of(cls, operator: str, query: Tensor, key: Tensor, value: Tensor, options: dict[str, Any]) -> Options:
        """Rename the operators' options to one name each, and check them.

        Raises:
            NotImplementedError: for quantised tensors.
            RuntimeError: for what the wheel's documentation excludes.
        """
        quantised = [name for name in _QUANTISATION if options.get(name) is not None]
        floats = (torch.float16, torch.bfloat16, torch.float32)
        if quantised or any(tensor.dtype not in floats for tensor in (query, key, value)):
            raise NotImplementedError(f"{operator}: quantised attention ({', '.join(quantised)}) is not emulated")
        kept = {
            _NAMES.get(name, name): given
            for name, given in options.items()
            if name not in _UNUSED and name not in _QUANTISATION
        }
        chosen = cls(operator, **kept)
        chosen._check(query, key, value)
        return chosen

    @property
    def layouts(self) -> tuple[str, str]:
        """Layouts of query and result."""
        return _LAYOUTS[self.input_layout]

    @property
    def packed(self) -> bool:
        """Whether sequences lie one behind the other."""
        return self.layouts[0] in _PACKED

    def need(self, condition: bool, reason: str) -> None:
        """Raise RuntimeError with the operator's name unless the condition holds."""
        check(condition, self.operator, reason)

    def _check(self, query: Tensor, key: Tensor, value: Tensor) -> None:
        need = self.need
        need(self.input_layout in _LAYOUTS, f"layout {self.input_layout} is not supported")
        need(self.heads > 0, f"the number of heads must be positive, got {self.heads}")
        self.key_heads = self.key_heads or self.heads
        need(
            self.heads % self.key_heads == 0 and self.heads // self.key_heads <= 64,
            f"heads ({self.heads}) must be a multiple of those of keys ({self.key_heads}), at most 64 times as many",
        )
        layout = self.layouts[0]
        need(
            query.dim() == _DIMENSIONS[layout],
            f"query must have {_DIMENSIONS[layout]} dimensions in layout {layout}, got {query.dim()}",
        )
        need(
            query.dtype == key.dtype == value.dtype,
            f"query, key and value must have one dtype, got {query.dtype}, {key.dtype} and {value.dtype}",
        )
        if self.block_table is None:
            need(key.dim() == value.dim() == query.dim(), "key and value must have as many dimensions as query")
        else:
            need(self.key_lengths is not None, "a block_table needs the lengths of keys")
            need(self.block_table.dtype == torch.int32, f"block_table must be int32, got {self.block_table.dtype}")
            need(key.dim() in (3, 4, 5), f"a paged cache must have 3, 4 or 5 dimensions, got {key.dim()}")
        need((self.query_rope is None) == (self.key_rope is None), "query_rope and key_rope belong together")
        need(self.sparse_mode in (0, 1, 2, 3, 4, 9), f"sparse_mode must be 0 to 4 or 9, got {self.sparse_mode}")
        if self.atten_mask is not None:
            need(
                self.atten_mask.dtype in (torch.bool, torch.int8, torch.uint8, torch.float16),
                f"atten_mask must be bool, int8 or uint8, got {self.atten_mask.dtype}",
            )
            compressed = self.atten_mask.shape[-2:] == (COMPRESSED, COMPRESSED)
            need(
                self.sparse_mode not in (2, 3, 4) or compressed,
                f"atten_mask must be the compressed [2048, 2048] in sparse_mode {self.sparse_mode}",
            )
        need(not self.packed or self.query_lengths is not None, f"layout {self.input_layout} needs lengths")


def infer_attention(operator: str, query: Tensor, key: Tensor, value: Tensor, **options: Any) -> tuple[Tensor, Tensor]:
    """Compute `softmax(scale * query key^T + pse_shift) value` for each sequence as far as it is valid.

    Returns:
        The result in its layout, 0 behind the sequences; the logarithm of the sum of exponentials in float32,
        `[batch, heads, tokens, 1]`, packed `[tokens, heads, 1]`, if it is wanted, else nothing.
    """
    chosen = Options.of(operator, query, key, value, options)
    queries = _Queries(chosen, query)
    rows: list[Tensor] = []
    sums: list[Tensor] = []
    for number, (q, k, v) in enumerate(_sequences(chosen, queries, key, value)):
        attended = attend(q, k, v, _masked(chosen, q.shape[2], k.shape[2], number))
        rows.append(attended.result[0].to(query.dtype))
        sums.append(attended.lse[0])
    lse = queries.joined(sums, torch.inf)
    if chosen.packed:
        lse = lse[0].transpose(0, 1)
    result = _laid_out(queries.joined(rows, 0.0), chosen.layouts[1])
    return result, lse if chosen.wants_lse else query.new_empty(0, dtype=torch.float32)


@reference("npu_fused_infer_attention_score")
def fused_infer_attention_score(query: Tensor, key: Tensor, value: Tensor, **options: Any) -> tuple[Tensor, Tensor]:
    """See `infer_attention`."""
    return infer_attention("npu_fused_infer_attention_score", query, key, value, **options)


@reference("npu_fused_infer_attention_score_v2")
def fused_infer_attention_score_v2(query: Tensor, key: Tensor, value: Tensor, **options: Any) -> tuple[Tensor, Tensor]:
    """See `infer_attention`."""
    return infer_attention("npu_fused_infer_attention_score_v2", query, key, value, **options)


@reference("npu_fused_infer_attention_score.out", "npu_fused_infer_attention_score_v2.out")
def fused_infer_attention_score_out(
    query: Tensor, key: Tensor, value: Tensor, *, out: list[Tensor], **options: Any
) -> tuple[Tensor, ...]:
    """Write the results into given tensors."""
    return write(out, list(infer_attention("npu_fused_infer_attention_score", query, key, value, **options)))


@reference("_npu_fused_infer_attention_score_infer_output", "_npu_fused_infer_attention_score_v2_infer_output")
def fused_infer_output(query: Tensor, value: Tensor, *arguments: Any, **options: Any) -> tuple[Tensor, Tensor]:
    """Make tensors for the results."""
    chosen = Options("npu_fused_infer_attention_score")
    chosen.heads = options.get("num_heads", options.get("num_query_heads", 1))
    chosen.input_layout = options.get("input_layout", "BSH")
    chosen.key_heads = options.get("num_key_value_heads") or chosen.heads
    queries = _Queries(chosen, query)
    if options.get("block_table") is not None and value.dim() in (3, 5):
        width = value.shape[2] // chosen.key_heads if value.dim() == 3 else value.shape[2] * value.shape[4]
    else:
        width = value.shape[-1] // (chosen.key_heads if chosen.layouts[0] in ("BSH", "SH") else 1)
    whole = query.new_zeros(*queries.whole.shape[:3], width)
    lse = torch.zeros(*queries.whole.shape[:3], 1)
    lse = lse[0].transpose(0, 1) if chosen.packed else lse
    wanted = options.get("softmax_lse_flag", options.get("return_softmax_lse", False))
    return _laid_out(whole, chosen.layouts[1]), lse if wanted else torch.empty(0)


@reference("npu_prompt_flash_attention")
def prompt_flash_attention(
    query: Tensor, key: Tensor, value: Tensor, *, next_tokens: int = 0, **options: Any
) -> Tensor:
    """Attend from whole prompts; see `infer_attention`."""
    return infer_attention("npu_prompt_flash_attention", query, key, value, next_tokens=next_tokens, **options)[0]


@reference("npu_incre_flash_attention")
def incre_flash_attention(
    query: Tensor, key: Tensor, value: Tensor, *, actual_seq_lengths: Any = None, **options: Any
) -> Tensor:
    """Attend from one token for each sequence; lengths are those of keys."""
    layout = options.get("input_layout", "BSH")
    axis = {"BSH": 1, "BSND": 1, "BNSD": 2}.get(layout)
    check(axis is not None, "npu_incre_flash_attention", f"layout {layout} is not supported")
    assert axis is not None
    check(
        query.dim() == _DIMENSIONS[layout] and query.shape[axis] == 1,
        "npu_incre_flash_attention",
        f"takes one token for each sequence, got query {list(query.shape)} in layout {layout}",
    )
    options = {**options, "actual_seq_lengths_kv": actual_seq_lengths}
    return infer_attention("npu_incre_flash_attention", query, key, value, **options)[0]


class _Queries:
    """Queries as `[batch, heads, tokens, size]`, packed ones as one batch, and where their sequences lie."""

    def __init__(self, chosen: Options, query: Tensor) -> None:
        self.chosen = chosen
        self.whole = _apart(query, chosen.layouts[0], chosen.heads)
        self.spans: list[slice] = []
        tokens = self.whole.shape[2]
        if chosen.packed and chosen.query_lengths is not None:
            ends = ends_of(chosen.query_lengths)
            self.spans = [slice(first, last) for first, last in zip([0, *ends[:-1]], ends, strict=True)]
            return
        padding = 0 if chosen.query_padding_size is None else int(chosen.query_padding_size)
        for length in _lengths(chosen.query_lengths, self.whole.shape[0], tokens):
            start = tokens - padding - length if chosen.query_padding_size is not None else 0
            self.spans.append(slice(start, start + length))

    def parts(self, tensor: Tensor | None = None) -> list[Tensor]:
        """Split the queries, or another tensor of their layout, by sequences."""
        apart = self.whole if tensor is None else _apart(tensor, self.chosen.layouts[0], self.chosen.heads)
        rows = [0] * len(self.spans) if self.chosen.packed else range(len(self.spans))
        return [apart[row : row + 1, :, span] for row, span in zip(rows, self.spans, strict=True)]

    def joined(self, rows: list[Tensor], fill: float) -> Tensor:
        """Put sequences `[heads, tokens, size]` back where they lie."""
        width = rows[0].shape[-1] if rows else self.whole.shape[-1]
        dtype = rows[0].dtype if rows else self.whole.dtype
        whole = torch.full((*self.whole.shape[:3], width), fill, dtype=dtype)
        for number, (row, span) in enumerate(zip(rows, self.spans, strict=True)):
            whole[0 if self.chosen.packed else number, :, span] = row
        return whole


def _sequences(
    chosen: Options, queries: _Queries, key: Tensor, value: Tensor
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yield query, key and value of each sequence as `[1, heads, tokens, size]`."""
    parts = queries.parts()
    ropes = [] if chosen.query_rope is None else queries.parts(chosen.query_rope)
    keys, values = _keys(chosen, key, len(parts)), _keys(chosen, value, len(parts))
    key_ropes = [] if chosen.key_rope is None else _keys(chosen, chosen.key_rope, len(parts))
    for number, (q, k, v) in enumerate(zip(parts, keys, values, strict=True)):
        if ropes:
            q, k = torch.cat((q, ropes[number]), -1), torch.cat((k, key_ropes[number]), -1)
        if chosen.key_shared_prefix is not None and chosen.value_shared_prefix is not None:
            layout = chosen.layouts[0]
            k, v = (
                torch.cat((_apart(prefix, layout, chosen.key_heads)[:, :, : _prefix_length(chosen)], t), 2)
                for prefix, t in ((chosen.key_shared_prefix, k), (chosen.value_shared_prefix, v))
            )
        yield q, k, v


def _prefix_length(chosen: Options) -> int | None:
    return None if chosen.prefix_lengths is None else ends_of(chosen.prefix_lengths)[0]


def _keys(chosen: Options, tensor: Tensor, sequences: int) -> list[Tensor]:
    """Return the valid keys or values of each sequence, `[1, heads, tokens, size]`."""
    if chosen.block_table is not None:
        lengths = _lengths(chosen.key_lengths, sequences, 0)
        return [_paged(chosen, tensor, row, length) for row, length in zip(chosen.block_table, lengths, strict=True)]
    apart = _apart(tensor, chosen.layouts[0], chosen.key_heads)
    if chosen.packed:
        lengths = chosen.key_lengths if chosen.key_lengths is not None else chosen.query_lengths
        ends = ends_of(lengths)
        return [apart[:, :, first:last] for first, last in zip([0, *ends[:-1]], ends, strict=True)]
    tokens, parts = apart.shape[2], []
    for row, length in enumerate(_lengths(chosen.key_lengths, sequences, tokens)):
        padding = 0 if chosen.kv_padding_size is None else int(chosen.kv_padding_size)
        start = tokens - padding - length if chosen.kv_padding_size is not None else 0
        parts.append(apart[row : row + 1, :, start : start + length])
    return parts


def _paged(chosen: Options, cache: Tensor, blocks: Tensor, length: int) -> Tensor:
    """Gather a sequence from a cache `[blocks, size, width]`, `[blocks, heads, size, width]` or the NZ form of that."""
    if cache.dim() == 5:  # [blocks, heads, width / 16, size, 16]
        cache = cache.transpose(2, 3).flatten(3)
    if cache.dim() == 3:
        cache = cache.unflatten(-1, (chosen.key_heads, -1)).transpose(1, 2)
    wanted = blocks[: -(-length // cache.shape[2])].long()
    return cache[wanted].transpose(0, 1).flatten(1, 2)[None, :, :length]


def _lengths(given: Any, batch: int, whole: int) -> list[int]:
    lengths = [whole] if given is None else ends_of(given)
    return lengths * batch if len(lengths) == 1 else lengths[:batch]


def _masked(chosen: Options, queries: int, keys: int, number: int) -> Masked:
    bias = chosen.pse_shift
    if bias is not None:
        bias = bias[number : number + 1] if bias.shape[0] > 1 else bias
        bias = bias[..., :queries, :keys]
    return Masked(chosen.scale, _hidden(chosen, queries, keys, number), bias, sink=chosen.sink)


def _hidden(chosen: Options, queries: int, keys: int, number: int) -> Tensor | None:
    mask, mode = chosen.atten_mask, chosen.sparse_mode
    if mask is None:
        return None
    limits = chosen.pre_tokens, chosen.next_tokens
    if mode == 2:
        return band(queries, keys, None, 0, last=False)
    if mode == 3:
        return band(queries, keys, None, 0, last=True)
    if mode == 4:
        return band(queries, keys, *limits, last=True)
    if mode == 9:  # the last queries' own tree; what is before them is seen
        tree = _tree(chosen, mask, queries, number)
        return torch.cat((torch.zeros(queries, keys - queries, dtype=torch.bool), tree), 1)
    if (mask.dim() == 2 and mask.shape[0] != queries) or (mask.dim() == 2 and queries == 1):
        mask = mask[min(number, len(mask) - 1)][None]  # [batch, keys] for one query each
    if mask.dim() > 2:
        mask = mask[number] if mask.shape[0] > 1 else mask[0]
    whole = mask[..., :queries, :keys].bool()
    chosen.need(
        whole.shape[-2:] == (queries, keys), f"atten_mask {list(mask.shape)} is smaller than [{queries}, {keys}]"
    )
    return whole | band(queries, keys, *limits, last=False) if mode == 0 and queries > 1 else whole


def _tree(chosen: Options, mask: Tensor, queries: int, number: int) -> Tensor:
    if mask.dim() > 1:
        return mask[number, :queries, :queries].bool()
    ends = [0, *ends_of(chosen.query_lengths)]
    sizes = [(last - first) ** 2 for first, last in pairwise(ends)]
    start = sum(sizes[:number])
    return mask[start : start + sizes[number]].view(queries, queries).bool()


def _apart(tensor: Tensor, layout: str, heads: int) -> Tensor:
    """Return a tensor as `[batch, heads, tokens, size]`."""
    if layout == "BSH":
        return tensor.unflatten(-1, (heads, -1)).transpose(1, 2)
    if layout == "SH":
        return tensor.unflatten(-1, (heads, -1)).transpose(0, 1)[None]
    if layout == "BSND":
        return tensor.transpose(1, 2)
    if layout == "TND":
        return tensor.transpose(0, 1)[None]
    return tensor if layout == "BNSD" else tensor[None]


def _laid_out(tensor: Tensor, layout: str) -> Tensor:
    """Return `[batch, heads, tokens, size]` in a layout."""
    if layout == "BSH":
        return tensor.transpose(1, 2).flatten(2)
    if layout == "SH":
        return tensor[0].transpose(0, 1).flatten(1)
    if layout == "BSND":
        return tensor.transpose(1, 2)
    if layout == "NBSD":
        return tensor.transpose(0, 1)
    if layout == "TND":
        return tensor[0].transpose(0, 1)
    return tensor if layout == "BNSD" else tensor[0]
