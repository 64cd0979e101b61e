"""Sorting tokens by expert, and summing the experts' outputs per token."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from longcat.accelerator import npu_operator
from longcat.ops.fusion import fusible
from longcat.ops.registry import SampleInputs, operator

MOST_SLOTS = 16_777_215
"""npu_moe_token_permute sorts up to this many."""
MOST_CHOICES = 512
"""npu_moe_token_permute accepts up to this many experts per token."""


def _sample_experts() -> Tensor:
    """Choose between seven experts: the third has no token, the last three are zero experts, and number 7 is padding's."""
    return torch.tensor([[0, 5], [1, 0], [4, 6], [3, 1], [0, 3], [7, 7]])


def _sample_tokens(draw: SampleInputs) -> Iterator[tuple[Any, ...]]:
    yield draw(6, 32), _sample_experts(), 7


@operator("permute", _sample_tokens, compared=lambda result: result[0])
def permute(tokens: Tensor, experts: Tensor, rows: int) -> tuple[Tensor, Tensor]:
    """Copy each token once for each of its routed experts, sorted by expert and for one expert by token.

    Slots of zero-computation experts, which have the highest numbers, are last in that order and are cut off.

    Args:
        tokens: `[tokens, hidden]`.
        experts: int64 `[tokens, top_k]`, numbers of the chosen experts.
        rows: slots given to routed experts.

    Returns:
        The copies `[rows, hidden]`, and the place of each slot in the order, integer `[tokens * top_k]`.
    """
    order = experts.flatten().argsort(stable=True)
    owners = order[:rows] // experts.shape[-1]
    return tokens.index_select(0, owners), inverse(order)


def inverse(order: Tensor) -> Tensor:
    """Return the place of each number in an order `[n]` of the numbers 0 to n - 1."""
    return torch.empty_like(order).scatter_(0, order, torch.arange(len(order), device=order.device))


def _unsupported_reason(tokens: Tensor, experts: Tensor, rows: int) -> str | None:
    if tokens.dtype != torch.bfloat16:
        return f"tokens are {tokens.dtype}, not bfloat16"
    if experts.numel() >= MOST_SLOTS or experts.shape[-1] > MOST_CHOICES:
        return f"{experts.shape[0]} tokens with {experts.shape[-1]} experts each are too many"
    return None


@permute.implementation("npu", unsupported_reason=_unsupported_reason)
def _npu_permute(tokens: Tensor, experts: Tensor, rows: int) -> tuple[Tensor, Tensor]:
    if rows == 0:  # to the operator 0 means all of them
        return permute.reference(tokens, experts, rows)
    permuted, places = npu_operator("npu_moe_token_permute")(tokens, experts, rows)
    return permuted, places


@permute.implementation("cuda")
def _cuda_permute(tokens: Tensor, experts: Tensor, rows: int) -> tuple[Tensor, Tensor]:
    if rows == 0:
        return permute.reference(tokens, experts, rows)
    order = experts.flatten().argsort(stable=True)
    places = inverse(order)
    permuted: Tensor = _Permute.apply(tokens, order[:rows] // experts.shape[-1], places.view(experts.shape))
    return permuted, places


class _Permute(torch.autograd.Function):
    """Copies tokens; a token's gradient is gathered from its copies, where `index_select` adds them up in any order."""

    @staticmethod
    def forward(ctx: Any, tokens: Tensor, owners: Tensor, places: Tensor) -> Tensor:
        ctx.save_for_backward(places)
        return tokens.index_select(0, owners)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (places,) = ctx.saved_tensors
        return _sums(gradients[0], places, None, None), None, None


@fusible
def _sums(rows: Tensor, places: Tensor, weights: Tensor | None, rest: Tensor | None) -> Tensor:
    """Add up the rows `[n, hidden]` of each token, which lie at `places` `[tokens, top_k]` below n, in fp32."""
    last = rows.shape[0] - 1
    total = None if rest is None else rest.float()
    for choice in range(places.shape[1]):
        place = places[:, choice]
        row = rows[place.clamp(max=last)].float()
        if weights is not None:
            row = row * weights[:, choice, None]
        row = row.masked_fill((place > last)[:, None], 0.0)
        total = row if total is None else total + row
    assert total is not None
    return total.to(rows.dtype)


def _sample_outputs(draw: SampleInputs) -> Iterator[tuple[Any, ...]]:
    places = inverse(_sample_experts().flatten().argsort(stable=True))
    yield draw(7, 32), places, draw(6, 2, dtype=torch.float32), draw(6, 32)


@operator("combine", _sample_outputs)
def combine(outputs: Tensor, places: Tensor, weights: Tensor, rest: Tensor) -> Tensor:
    """Add the sum over a token's routed experts of weight * output to `rest`.

    Args:
        outputs: of the experts, `[rows, hidden]`, in the order of `permute`.
        places: of each slot in that order, integer `[tokens * top_k]`; those from `rows` on have no output.
        weights: fp32 `[tokens, top_k]`.
        rest: `[tokens, hidden]`, the outputs of other slots.

    Returns:
        `[tokens, hidden]`.
    """
    order = inverse(places.long())[: outputs.shape[0]]
    weighted = outputs * weights.flatten()[order, None].to(outputs.dtype)
    return rest.index_add(0, order // weights.shape[-1], weighted)


@combine.implementation("cuda")
def _cuda_combine(outputs: Tensor, places: Tensor, weights: Tensor, rest: Tensor) -> Tensor:
    if outputs.shape[0] == 0:
        return combine.reference(outputs, places, weights, rest)
    combined: Tensor = _Combine.apply(outputs, places.view(weights.shape), weights, rest)
    return combined


class _Combine(torch.autograd.Function):
    """Gathers a token's outputs, and in the backward pass an output's gradient: what is scattered is added up in any order."""

    @staticmethod
    def forward(ctx: Any, outputs: Tensor, places: Tensor, weights: Tensor, rest: Tensor) -> Tensor:
        ctx.save_for_backward(outputs, places, weights)
        return _sums(outputs, places, weights, rest)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        outputs, places, weights = ctx.saved_tensors
        slots = inverse(places.flatten())[: outputs.shape[0]]
        d_outputs, products = _spread(gradients[0], outputs, slots, weights)
        d_weights = products.new_zeros(weights.numel()).scatter_(0, slots, products)
        return d_outputs, None, d_weights.view(weights.shape), gradients[0]


@fusible
def _spread(gradient: Tensor, outputs: Tensor, slots: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Compute the gradients of outputs `[n, hidden]`, and of the weights of their slots `[n]`."""
    rows = gradient[slots // weights.shape[1]].float()
    d_outputs = rows * weights.flatten()[slots, None]
    return d_outputs.to(outputs.dtype), (rows * outputs).sum(-1)


def _combine_unsupported_reason(outputs: Tensor, places: Tensor, weights: Tensor, rest: Tensor) -> str | None:
    if outputs.dtype != torch.bfloat16:
        return f"outputs are {outputs.dtype}, not bfloat16"
    if places.numel() >= MOST_SLOTS or weights.shape[-1] > MOST_CHOICES:
        return f"{weights.shape[0]} tokens with {weights.shape[-1]} experts each are too many"
    return None


@combine.implementation("npu", unsupported_reason=_combine_unsupported_reason)
def _npu_combine(outputs: Tensor, places: Tensor, weights: Tensor, rest: Tensor) -> Tensor:
    if outputs.shape[0] == 0:
        return combine.reference(outputs, places, weights, rest)
    # places from `rows` on are those of zero experts: the kernel skips them
    unpermute = npu_operator("npu_moe_token_unpermute")
    result: Tensor = rest + unpermute(outputs, places.to(torch.int32), weights.to(outputs.dtype))
    return result
