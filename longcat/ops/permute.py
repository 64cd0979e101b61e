"""Sorting tokens by expert, and summing the experts' outputs per token."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from longcat.accelerator import npu_operator
from longcat.ops.registry import SampleInputs, operator

Compute = Callable[[Tensor, Tensor], Tensor]
"""Rows `[n, hidden]` sorted by expert, and how many each expert has, to the experts' outputs in the same order."""
MOST_SLOTS = 16_777_215
"""npu_moe_token_permute sorts up to this many."""
MOST_CHOICES = 512
"""npu_moe_token_permute accepts up to this many experts per token."""


def _sample_inputs(draw: SampleInputs) -> Iterator[tuple[Any, ...]]:
    """Draw tokens for seven experts: the third has none, the last three are zero experts, and number 7 is padding's."""
    experts = torch.tensor([[0, 5], [1, 0], [4, 6], [3, 1], [0, 3], [7, 7]])
    weights = draw(6, 2, dtype=torch.float32)
    yield draw(6, 32), experts, weights, experts.flatten().bincount()[:4], _square, draw(6, 32)


def _square(rows: Tensor, counts: Tensor) -> Tensor:
    return rows * rows


@operator("permute", _sample_inputs)
def permute_and_combine(
    tokens: Tensor, experts: Tensor, weights: Tensor, counts: Tensor, compute: Compute, zero_expert_output: Tensor
) -> Tensor:
    """Add the sum over a token's routed experts of weight * expert(token) to `zero_expert_output`.

    Slots of zero-computation experts, which have the highest numbers, are neither sorted into the rows nor computed.

    Args:
        tokens: `[tokens, hidden]`.
        experts: int64 `[tokens, top_k]`, numbers of the chosen experts.
        weights: fp32, the same shape.
        counts: integer `[routed experts]`, slots given to each.
        compute: the experts.
        zero_expert_output: `[tokens, hidden]`, the output of zero-computation experts.

    Returns:
        `[tokens, hidden]`.
    """
    slots = experts.flatten().argsort(stable=True)[: int(counts.sum())]  # zero experts are last: cut off
    owners = slots // experts.shape[-1]
    outputs = compute(tokens.index_select(0, owners), counts)
    outputs = outputs * weights.flatten()[slots, None].to(tokens.dtype)
    return zero_expert_output.index_add(0, owners, outputs)


def _unsupported_reason(
    tokens: Tensor, experts: Tensor, weights: Tensor, counts: Tensor, compute: Compute, zero_expert_output: Tensor
) -> str | None:
    if tokens.dtype != torch.bfloat16:
        return f"tokens are {tokens.dtype}, not bfloat16"
    if experts.numel() >= MOST_SLOTS or experts.shape[-1] > MOST_CHOICES:
        return f"{experts.shape[0]} tokens with {experts.shape[-1]} experts each are too many"
    return None


@permute_and_combine.implementation("npu", unsupported_reason=_unsupported_reason)
def _npu_permute_and_combine(
    tokens: Tensor, experts: Tensor, weights: Tensor, counts: Tensor, compute: Compute, zero_expert_output: Tensor
) -> Tensor:
    rows = int(counts.sum())
    if rows == 0:  # to the operator 0 means all of them
        return permute_and_combine.reference(tokens, experts, weights, counts, compute, zero_expert_output)
    permuted, places = npu_operator("npu_moe_token_permute")(tokens, experts, rows)
    outputs = compute(permuted, counts)
    # places from `rows` on are those of zero experts: the kernel skips them
    result: Tensor = zero_expert_output + npu_operator("npu_moe_token_unpermute")(
        outputs, places, weights.to(tokens.dtype)
    )
    return result
