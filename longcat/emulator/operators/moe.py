"""Routing: choice of experts from scores, and permutation of tokens to experts and back."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from longcat.emulator.reference import gradients, reference


@reference("npu_moe_gating_top_k")
def gating_top_k(
    x: Tensor,
    k: int,
    *,
    bias: Tensor | None = None,
    input_ids: Tensor | None = None,
    tid2eid: Tensor | None = None,
    k_group: int = 1,
    group_count: int = 1,
    group_select_mode: int = 0,
    renorm: int = 0,
    norm_type: int = 0,
    out_flag: bool = False,
    routed_scaling_factor: float = 1.0,
    eps: float = 1e-20,
) -> tuple[Tensor, Tensor, Tensor]:
    """Choose the k experts with the highest score plus bias; returns their scores without bias.

    Args:
        x: logits `[tokens, experts]`.
        k: experts of a token.
        bias: `[experts]`, for the choice only.
        input_ids: choice by token: not emulated.
        tid2eid: likewise.
        k_group: groups of experts a token may choose from.
        group_count: number of groups.
        group_select_mode: a group counts with its best (0) or the sum of its two best (1).
        renorm: 1 makes the chosen scores' sum 1, as `norm_type` 1 does.
        norm_type: scores are a softmax (0) or sigmoids (1).
        out_flag: whether all scores are wanted.
        routed_scaling_factor: of the chosen scores.
        eps: added to their sum.

    Returns:
        Chosen scores `[tokens, k]` in x's type, experts `[tokens, k]` int32, all scores `[tokens, experts]` float32.
    """
    if input_ids is not None or tid2eid is not None:
        raise NotImplementedError("npu_moe_gating_top_k: input_ids are not emulated")
    scores = torch.sigmoid(x.float()) if norm_type == 1 else x.float().softmax(-1)
    choice = scores if bias is None else scores + bias.float()
    if group_count > 1:
        groups = choice.unflatten(-1, (group_count, -1))
        value = groups.amax(-1) if group_select_mode == 0 else groups.topk(2).values.sum(-1)
        allowed = torch.zeros_like(value, dtype=torch.bool).scatter_(-1, value.topk(k_group).indices, True)
        choice = groups.masked_fill(~allowed[..., None], -torch.inf).flatten(-2)
    experts = choice.sort(dim=-1, descending=True, stable=True).indices[:, :k]
    chosen = _chosen(scores, experts, renorm, norm_type, routed_scaling_factor, eps)
    return chosen.to(x.dtype), experts.to(torch.int32), scores


def _chosen(
    scores: Tensor, experts: Tensor, renorm: int, norm_type: int, routed_scaling_factor: float, eps: float
) -> Tensor:
    chosen = scores.gather(-1, experts.long())
    if norm_type == 1 or renorm == 1:
        chosen = chosen / (chosen.sum(-1, keepdim=True) + eps)
    return chosen * routed_scaling_factor


@reference("npu_moe_gating_top_k_backward")
def gating_top_k_backward(
    scores: Tensor,
    d_chosen: Tensor,
    experts: Tensor,
    *,
    renorm: int = 0,
    norm_type: int = 0,
    routed_scaling_factor: float = 1.0,
    eps: float = 1e-20,
) -> Tensor:
    """Return the gradient of the logits, from all scores, in the type of the incoming gradient."""
    options = renorm, norm_type, routed_scaling_factor, eps
    (d_scores,) = gradients(lambda all_: _chosen(all_, experts, *options), [scores], d_chosen.float())
    assert d_scores is not None
    if norm_type == 1:
        d_x = d_scores * scores * (1 - scores)
    else:
        d_x = scores * (d_scores - (d_scores * scores).sum(-1, keepdim=True))
    return d_x.to(d_chosen.dtype)


@reference("npu_moe_gating_top_k_softmax")
def gating_top_k_softmax(x: Tensor, finished: Tensor | None = None, k: int = 1) -> tuple[Tensor, Tensor, Tensor]:
    """Choose the k highest of a softmax; returns scores, experts (int32) and row indices sorted by choice (int32)."""
    if finished is not None:
        raise NotImplementedError("npu_moe_gating_top_k_softmax: finished is not emulated")
    probabilities = x.float().softmax(-1)
    ranked = probabilities.sort(dim=-1, descending=True, stable=True)
    rows = torch.arange(x.shape[0] * k, dtype=torch.int32).reshape(k, x.shape[0]).mT
    return ranked.values[:, :k].to(x.dtype), ranked.indices[:, :k].to(torch.int32), rows


@reference("npu_moe_token_permute")
def token_permute(
    tokens: Tensor, indices: Tensor, num_out_tokens: int | None = None, padded_mode: bool = False
) -> tuple[Tensor, Tensor]:
    """Copy each token once per expert, sorted by expert.

    Args:
        tokens: `[tokens, hidden]`.
        indices: experts `[tokens, k]` or `[tokens]`.
        num_out_tokens: rows that are kept; 0 keeps all.
        padded_mode: not emulated, nor is it on a device.

    Returns:
        `[rows, hidden]`, and for each choice its row (int32, `[tokens * k]`), beyond the end where it was dropped.
    """
    if padded_mode:
        raise NotImplementedError("npu_moe_token_permute: padded_mode is not supported")
    order = indices.flatten().argsort(stable=True)
    kept = order[: num_out_tokens or None]
    return tokens[kept // _choices(indices)], order.argsort().to(torch.int32)


@reference("npu_moe_token_permute_grad")
def token_permute_grad(
    tokens: Tensor, d_permuted: Tensor, indices: Tensor, rows: Tensor, padded_mode: bool = False
) -> Tensor:
    """Return the gradient of the tokens: each token's sum over its rows."""
    return _sums(d_permuted, rows, _choices(indices)).to(tokens.dtype)


@reference("npu_moe_token_permute_grad_v2")
def token_permute_grad_v2(
    d_permuted: Tensor, rows: Tensor, tokens: int, dtype: torch.dtype, k: int, padded_mode: bool = False
) -> Tensor:
    """Return the gradient of the tokens, as `token_permute_grad` does."""
    return _sums(d_permuted, rows, k).to(dtype)


@reference("npu_moe_token_unpermute")
def token_unpermute(
    permuted: Tensor,
    rows: Tensor,
    probs: Tensor | None = None,
    padded_mode: bool = False,
    restore_shape: list[int] | None = None,
) -> Tensor:
    """Sum each token's rows, weighted by `probs` `[tokens, k]`."""
    if padded_mode:
        raise NotImplementedError("npu_moe_token_unpermute: padded_mode is not supported")
    return _sums(permuted, rows, 1 if probs is None else probs.shape[1], probs).to(permuted.dtype)


@reference("_npu_moe_token_unpermute")
def token_unpermute_kept(permuted: Tensor, *arguments: Any, **options: Any) -> tuple[Tensor, Tensor]:
    """Sum each token's rows as `token_unpermute` does, and return the rows for the gradient."""
    return token_unpermute(permuted, *arguments, **options), permuted.clone()


@reference("npu_moe_token_unpermute_grad")
def token_unpermute_grad(
    permuted: Tensor,
    d_tokens: Tensor,
    rows: Tensor,
    probs: Tensor | None = None,
    padded_mode: bool = False,
    restore_shape: list[int] | None = None,
) -> tuple[Tensor | None, Tensor | None]:
    """Return the gradients of the rows and, if given, of the weights."""
    d_permuted, d_probs = gradients(lambda x, p: token_unpermute(x, rows, p), [permuted, probs], d_tokens)
    return d_permuted, permuted.new_empty(0) if d_probs is None else d_probs


@reference("npu_moe_token_unpermute_grad_v2")
def token_unpermute_grad_v2(
    d_tokens: Tensor,
    rows: Tensor,
    permuted_rows: int,
    dtype: torch.dtype,
    probs: Tensor | None = None,
    padded_mode: bool = False,
    restore_shape: list[int] | None = None,
    permuted: Tensor | None = None,
) -> tuple[Tensor | None, Tensor | None]:
    """Return the gradients of the rows and weights; without weights the rows themselves are not needed."""
    if permuted is None:
        permuted = d_tokens.new_zeros(permuted_rows, d_tokens.shape[-1], dtype=dtype)
    return token_unpermute_grad(permuted, d_tokens, rows, probs)


@reference("npu_moe_init_routing_v2")
def init_routing_v2(
    x: Tensor,
    expert_idx: Tensor,
    *,
    active_num: int = -1,
    expert_num: int = -1,
    drop_pad_mode: int = 0,
    expert_tokens_num_type: int = 0,
    expert_tokens_num_flag: bool = False,
    quant_mode: int = -1,
    active_expert_range: list[int] | None = None,
    row_idx_type: int = 0,
    **others: Any,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return tokens sorted by expert, the row of each choice, the tokens per expert (int64), and no scales."""
    first, last = active_expert_range or (0, expert_num)
    whole = (first, last) == (0, expert_num)
    if drop_pad_mode or quant_mode != -1 or others.get("scale") is not None or not whole or expert_tokens_num_type > 1:
        raise NotImplementedError(
            "npu_moe_init_routing_v2: only all experts, not dropped and not quantised, are emulated"
        )
    flat = expert_idx.flatten().long()
    order = flat.argsort(stable=True)
    counts = flat.bincount(minlength=expert_num)
    rows = order.argsort() if row_idx_type == 0 else order
    tokens = counts if expert_tokens_num_type == 1 else counts.cumsum(0)
    sorted_x = x[order // expert_idx.shape[1]]
    if active_num > 0:
        sorted_x = sorted_x[:active_num]
    return sorted_x, rows.to(torch.int32), tokens, x.new_empty(order.numel(), dtype=torch.float32)


@reference("npu_moe_compute_expert_tokens")
def compute_expert_tokens(sorted_experts: Tensor, num_expert: int) -> Tensor:
    """Return the end of each expert's rows, int32."""
    return sorted_experts.long().bincount(minlength=num_expert).cumsum(0).to(torch.int32)


def _choices(indices: Tensor) -> int:
    return indices.shape[1] if indices.dim() == 2 else 1


def _sums(permuted: Tensor, rows: Tensor, k: int, probs: Tensor | None = None) -> Tensor:
    """Sum `k` rows per token in float32; row indices beyond the end belong to dropped rows and count as 0."""
    kept = rows < permuted.shape[0]
    taken = permuted[rows.long().clamp_max(max(permuted.shape[0] - 1, 0))].float() * kept[:, None]
    apart = taken.unflatten(0, (-1, k))
    return (apart if probs is None else apart * probs.float()[..., None]).sum(1)
