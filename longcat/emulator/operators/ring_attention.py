"""Joining attention over parts of the keys, as rings and sequence-parallel decoding do."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor

from longcat.emulator.operators.attention_layout import STATISTICS
from longcat.emulator.operators.attention_options import ends_of
from longcat.emulator.reference import check, reference


@reference("npu_ring_attention_update")
def ring_attention_update(
    prev_attn_out: Tensor,
    prev_softmax_max: Tensor,
    prev_softmax_sum: Tensor,
    cur_attn_out: Tensor,
    cur_softmax_max: Tensor,
    cur_softmax_sum: Tensor,
    *,
    actual_seq_qlen: Tensor | None = None,
    input_layout: str = "SBH",
    input_softmax_layout: str = "",
) -> tuple[Tensor, Tensor, Tensor]:
    """Join the results of two parts of the keys by the maximum and sum of each row.

    Args:
        prev_attn_out: `[tokens, batch, width]`, packed `[tokens, heads, size]`.
        prev_softmax_max: `[batch, heads, tokens, 8]`, packed `[tokens, heads, 8]`, as fused attention returns it.
        prev_softmax_sum: likewise.
        cur_attn_out: of the other part.
        cur_softmax_max: likewise.
        cur_softmax_sum: likewise.
        actual_seq_qlen: where packed sequences end; a leading 0 may be among them.
        input_layout: SBH or TND.
        input_softmax_layout: TND if packed rows lie by tokens, else by heads in each sequence.
    """

    def need(condition: bool, reason: str) -> None:
        check(condition, "npu_ring_attention_update", reason)

    rows = (prev_softmax_max, prev_softmax_sum, cur_softmax_max, cur_softmax_sum)
    need(input_layout in ("SBH", "TND"), f"input_layout only supports 'SBH' or 'TND', but got {input_layout}.")
    need(input_softmax_layout in ("", "SBH", "TND"), "input_softmax_layout only supports '', 'SBH' or 'TND'.")
    need(prev_attn_out.shape == cur_attn_out.shape, "prev_attn_out and cur_attn_out must have the same shape.")
    need(prev_attn_out.dtype == cur_attn_out.dtype, "prev_attn_out and cur_attn_out must have the same dtype.")
    need(prev_attn_out.dim() == 3, "attention tensors must be 3D.")
    need(
        prev_attn_out.dtype in (torch.float16, torch.float32, torch.bfloat16),
        "attn_out dtype only supports float16, float32 or bfloat16.",
    )
    need(len({tensor.shape for tensor in rows}) == 1, "softmax tensors must keep the same shape.")
    need(all(tensor.dtype == torch.float32 for tensor in rows), "softmax tensors must use float32.")
    need(prev_softmax_max.shape[-1:] == (STATISTICS,), "softmax tensors require the last dimension to be 8.")
    dimensions = 4 if input_layout == "SBH" else 3
    need(prev_softmax_max.dim() == dimensions, f"softmax tensors must be {dimensions}D in layout {input_layout}.")
    need(input_layout == "SBH" or actual_seq_qlen is not None, "actual_seq_qlen is required in layout TND.")

    maximum = torch.maximum(prev_softmax_max, cur_softmax_max)
    shares = (prev_softmax_max - maximum).exp() * prev_softmax_sum, (cur_softmax_max - maximum).exp() * cur_softmax_sum
    total = shares[0] + shares[1]
    weights = [share / total.clamp_min(torch.finfo(torch.float32).tiny) for share in shares]
    out = sum(
        _weighted(part, weight[..., 0], input_layout, input_softmax_layout, actual_seq_qlen)
        for part, weight in zip((prev_attn_out, cur_attn_out), weights, strict=True)
    )
    assert isinstance(out, Tensor)
    return out.to(prev_attn_out.dtype), maximum, total


def _weighted(part: Tensor, weight: Tensor, layout: str, softmax_layout: str, ends: Tensor | None) -> Tensor:
    if layout == "SBH":
        batch, heads, tokens = weight.shape
        by_heads = part.float().view(tokens, batch, heads, -1)
        return (by_heads * weight.permute(2, 0, 1).unsqueeze(-1)).view(part.shape)
    if softmax_layout != "TND":
        heads, flat = weight.shape[1], weight.flatten()
        stops = [0, *(end for end in ends_of(ends) if end)]
        rows = [flat[first * heads : last * heads].view(heads, -1).T for first, last in pairwise(stops)]
        weight = torch.cat(rows)
    return part.float() * weight.unsqueeze(-1)


@reference("npu_attention_update")
def attention_update(lse: list[Tensor], local_out: list[Tensor], update_type: int) -> tuple[Tensor, Tensor]:
    """Join results `[rows, size]` of parts of the keys by their logarithms of sums `[rows]`; return the joined ones."""

    def need(condition: bool, reason: str) -> None:
        check(condition, "npu_attention_update", reason)

    need(1 <= len(lse) == len(local_out) <= 16, "takes 1 to 16 parts, as many lse as results")
    need(update_type in (0, 1), f"update_type must be 0 or 1, got {update_type}")
    need(all(t.dtype == torch.float32 and t.shape == lse[0].shape for t in lse), "lse must be float32 of one shape")
    size = local_out[0].shape[-1]
    need(
        all(t.dim() == 2 and t.shape == (lse[0].numel(), size) for t in local_out),
        "results must be [rows, size] with one row for each lse",
    )
    need(8 <= size <= 512 and size % 8 == 0, f"size must be a multiple of 8 from 8 to 512, got {size}")
    parts = torch.stack(lse)
    joined = parts.logsumexp(0)
    out = (torch.stack(local_out).float() * (parts - joined).exp().unsqueeze(-1)).sum(0)
    return out.to(local_out[0].dtype), joined
