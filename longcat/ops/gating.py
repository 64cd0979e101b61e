"""The router's choice: the best k experts by probability plus bias (arXiv 2509.01322, section 2.1)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from longcat.accelerator import npu_operator
from longcat.ops.registry import SampleInputs, operator

MOST_EXPERTS = 2048
"""npu_moe_gating_top_k accepts up to this many."""


def _sample_inputs(draw: SampleInputs) -> Iterator[tuple[Any, ...]]:
    yield draw(9, 24, dtype=torch.float32), 0.05 * draw(24, dtype=torch.float32, requires_grad=False), 4, 6.0


def _by_expert(result: tuple[Tensor, Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Spread the weights over all experts, 0 for those not chosen: the order of a token's experts does not matter."""
    weights, experts, probabilities = result
    return torch.zeros_like(probabilities).scatter(1, experts, weights), probabilities


@operator("gating", _sample_inputs, _by_expert)
def topk_gating(logits: Tensor, bias: Tensor, top_k: int, scale: float) -> tuple[Tensor, Tensor, Tensor]:
    """Choose the `top_k` experts with the largest softmax + bias; their weights are softmax * scale, not renormalised.

    Args:
        logits: fp32 `[tokens, experts]`.
        bias: fp32 `[experts]`, moves the choice only.
        top_k: experts of a token.
        scale: factor on the weights.

    Returns:
        Weights (fp32) and numbers (int64) of the chosen experts, both `[tokens, top_k]`, in any order, and all experts'
        probabilities, fp32 `[tokens, experts]`. Weights and probabilities have gradients.
    """
    probabilities = logits.softmax(dim=-1)
    wanted = probabilities.detach() + bias
    experts = wanted.topk(top_k, dim=-1, sorted=False).indices
    return probabilities.gather(1, experts) * scale, experts, probabilities


def _unsupported_reason(logits: Tensor, bias: Tensor, top_k: int, scale: float) -> str | None:
    experts = logits.shape[-1]
    return None if 2 < experts <= MOST_EXPERTS else f"{experts} experts, not 3 to {MOST_EXPERTS}"


@topk_gating.implementation("npu", unsupported_reason=_unsupported_reason)
def _npu_topk_gating(logits: Tensor, bias: Tensor, top_k: int, scale: float) -> tuple[Tensor, Tensor, Tensor]:
    result: tuple[Tensor, Tensor, Tensor] = _NpuGating.apply(logits, bias, top_k, scale)
    return result


class _NpuGating(torch.autograd.Function):
    """torch_npu differentiates the weights only; the balance loss needs the gradient of the probabilities as well."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, bias: Tensor, top_k: int, scale: float) -> tuple[Tensor, Tensor, Tensor]:
        weights, experts, probabilities = npu_operator("npu_moe_gating_top_k")(
            logits, top_k, bias=bias.to(logits.dtype), norm_type=0, out_flag=True, routed_scaling_factor=scale
        )
        experts = experts.long()
        ctx.save_for_backward(experts, probabilities)
        ctx.scale = scale
        ctx.mark_non_differentiable(experts)
        return weights, experts, probabilities

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        experts, probabilities = ctx.saved_tensors
        d_weights, _, d_probabilities = gradients
        d_probabilities = d_probabilities.scatter_add(1, experts, d_weights * ctx.scale)
        d_logits = probabilities * (d_probabilities - (d_probabilities * probabilities).sum(-1, keepdim=True))
        return d_logits, None, None, None
