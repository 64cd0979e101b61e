"""Fused attention for training: `npu_fusion_attention` in its versions, with gradients."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from longcat.emulator.operators.attention_layout import STATISTICS, Layout
from longcat.emulator.operators.attention_options import Options
from longcat.emulator.operators.softmax import attend, attend_backward
from longcat.emulator.reference import OnHost, draw, gradients, reference

_ORDER = (
    "pse", "padding_mask", "atten_mask", "scale", "keep_prob", "pre_tockens", "next_tockens", "inner_precise", "prefix",
    "actual_seq_qlen", "actual_seq_kvlen", "sparse_mode", "gen_mask_parallel", "sync", "softmax_layout", "sink",
    "dropout_mask", "seed", "offset",
)  # fmt: skip
"""Options of the first and third version, in the order of their positional arguments."""


@reference("npu_fusion_attention", "npu_fusion_attention_v2")
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


@reference("npu_fusion_attention_v3")
def fusion_attention_v3(*arguments: Any, **named: Any) -> tuple[Any, ...]:
    """Do the same with lengths in tensors of the host; seed and offset are tensors of the host too."""
    *results, seed, offset, _ = fusion_attention(*arguments, **named)
    return *results, OnHost(torch.tensor([seed])), OnHost(torch.tensor([offset]))


@reference("npu_fusion_attention_v3.out")
def fusion_attention_v3_out(
    *arguments: Any, out: list[Tensor], workspace: Tensor | None = None, **named: Any
) -> tuple[Any, ...]:
    """Write the results into given tensors."""
    *results, seed, offset, _ = fusion_attention(*arguments, **named)
    return write(out, [*results, torch.tensor([seed]), torch.tensor([offset])])


@reference("npu_fusion_attention_grad")
def fusion_attention_grad(*arguments: Any, **named: Any) -> tuple[Any, ...]:
    """Return the gradients of query, key, value, pse and sink."""
    query, key, value, pse, _, _, sink = _gradients(*arguments, **named)
    return query, key, value, pse, torch.empty(0) if sink is None else sink


@reference("npu_fusion_attention_grad_v2")
def fusion_attention_grad_v2(*arguments: Any, **named: Any) -> tuple[Any, ...]:
    """Return the gradients of query, key, value, pse, the rotary parts and sink."""
    query, key, value, pse, query_rope, key_rope, sink = _gradients(*arguments, **named)
    empty = query.new_empty(0)
    ropes = (empty if rope is None else rope for rope in (query_rope, key_rope))
    return query, key, value, empty if pse is None else pse, *ropes, sink


@reference("npu_fusion_attention_grad_v3")
def fusion_attention_grad_v3(
    *arguments: Any, seed: Tensor | None = None, offset: Tensor | None = None, **named: Any
) -> tuple[Any, ...]:
    """Return the gradients of query, key, value, pse and sink; seed and offset are tensors."""
    named["seed"], named["offset"] = (0 if number is None else int(number) for number in (seed, offset))
    query, key, value, pse, _, _, sink = _gradients(*arguments, **named)
    return query, key, value, query.new_empty(0) if pse is None else pse, torch.empty(()) if sink is None else sink


@reference("npu_fusion_attention_grad_v3.out")
def fusion_attention_grad_v3_out(
    *arguments: Any, out: list[Tensor], workspace: Tensor | None = None, **named: Any
) -> tuple[Any, ...]:
    """Write the gradients into given tensors."""
    return write(out, list(fusion_attention_grad_v3(*arguments, **named)))


@reference(
    "_npu_fusion_attention_v3_get_max_workspace", "_npu_fusion_attention_grad_v3_get_max_workspace",
    "_npu_fused_infer_attention_score_get_max_workspace", "_npu_fused_infer_attention_score_v2_get_max_workspace",
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
        if chosen.pse is not None and found[-1].bias is not None:
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
