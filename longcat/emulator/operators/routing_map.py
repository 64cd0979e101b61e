"""Permutation of tokens to experts and back by a map `[tokens, experts]` that says which expert each token has."""

from __future__ import annotations

import torch
from torch import Tensor

from longcat.emulator.reference import FLOATS, check, reference


@reference("npu_moe_token_permute_with_routing_map")
def permute(
    tokens: Tensor,
    routing_map: Tensor,
    *,
    probs: Tensor | None = None,
    num_out_tokens: int | None = None,
    drop_and_pad: bool = False,
) -> tuple[Tensor, Tensor | None, Tensor]:
    """Copy each token once per expert, sorted by expert.

    Args:
        tokens: `[tokens, hidden]`.
        routing_map: bool or int8 `[tokens, experts]`, with as many experts in each row unless `drop_and_pad`.
        probs: `[tokens, experts]`.
        num_out_tokens: rows, one a token by default; without `drop_and_pad` a token's experts times all tokens.
        drop_and_pad: each expert has `num_out_tokens // experts` rows: its first tokens, then others to fill up.

    Returns:
        Rows, their probs or None, and int32: with `drop_and_pad` the token of each row, else the row of each token's
        experts, token by token.
    """
    operator = "npu_moe_token_permute_with_routing_map"
    _check_map(operator, routing_map)
    check(tokens.dim() == 2 and tokens.dtype in FLOATS, operator, "tokens are 2-dimensional in a floating point type")
    check(routing_map.shape[0] == tokens.shape[0], operator, "routing_map has one row a token")
    check(probs is None or probs.numel() == routing_map.numel(), operator, "probs have as many elements as routing_map")
    _check_probs(operator, probs, tokens)
    number, experts = routing_map.shape
    rows = number if num_out_tokens is None else num_out_tokens
    check(0 <= rows <= number * experts, operator, f"num_out_tokens is within 0 and {number * experts}, found {rows}")
    by_expert = routing_map.bool().mT
    if drop_and_pad:
        token = (~by_expert).to(torch.int8).argsort(dim=-1, stable=True)[:, : rows // max(experts, 1)]
        taken = None if probs is None else probs.reshape(number, experts).mT.gather(1, token).flatten()
        return tokens[token.flatten()], taken, token.flatten().to(torch.int32)
    choices = rows // max(number, 1)
    check(
        bool((by_expert.sum(0) == choices).all()),
        operator,
        f"each row of routing_map has num_out_tokens // tokens = {choices} experts",
    )
    token = by_expert.nonzero()[:, 1]
    taken = None if probs is None else probs.reshape(number, experts).mT[by_expert]
    return tokens[token], taken, token.argsort(stable=True).to(torch.int32)


@reference("npu_moe_token_permute_with_routing_map_grad")
def permute_grad(
    d_rows: Tensor,
    d_taken: Tensor | None,
    sorted_indices: Tensor,
    routing_map: Tensor,
    experts_num: int,
    tokens_num: int,
    drop_and_pad: bool,
) -> tuple[Tensor, Tensor | None]:
    """Return the gradients of tokens `[tokens, hidden]` and, if there is one of the rows' probs, of probs."""
    by_expert = routing_map.bool().mT
    if drop_and_pad:
        token = sorted_indices.long()
        expert = torch.arange(experts_num).repeat_interleave(len(token) // max(experts_num, 1))
    else:
        expert, token = by_expert.nonzero().unbind(1)
    d_tokens = torch.zeros(tokens_num, d_rows.shape[1]).index_add(0, token, d_rows.float()).to(d_rows.dtype)
    if d_taken is None:
        return d_tokens, None
    d_probs = d_taken.new_zeros(tokens_num, experts_num)
    return d_tokens, d_probs.index_put_((token, expert), d_taken)


@reference("_npu_moe_token_unpermute_with_routing_map")
def unpermute_kept(
    rows: Tensor,
    sorted_indices: Tensor,
    restore_shape: list[int],
    *,
    probs: Tensor | None = None,
    routing_map: Tensor | None = None,
    drop_and_pad: bool = False,
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """Sum each token's rows, weighted by probs.

    Args:
        rows: `[rows, hidden]`.
        sorted_indices: int32 `[rows]`, as `permute` returns it; -1 where a token has fewer experts than others.
        restore_shape: shape of the result, `[tokens, hidden]`.
        probs: `[tokens, experts]`.
        routing_map: `[tokens, experts]`; needed for probs unless `drop_and_pad`.
        drop_and_pad: each expert has as many rows.

    Returns:
        The sums; then, token by token, the row, the token (both int32) and the weight or None.
    """
    operator = "npu_moe_token_unpermute_with_routing_map"
    check(
        rows.dim() == 2 and rows.dtype in FLOATS, operator, "permuted_tokens are 2-dimensional in a floating point type"
    )
    check(
        sorted_indices.dim() == 1 and sorted_indices.dtype == torch.int32,
        operator,
        "sorted_indices are int32 of 1 dimension",
    )
    check(len(restore_shape) == 2, operator, f"restore_shape has 2 numbers, found {len(restore_shape)}")
    if routing_map is not None:
        _check_map(operator, routing_map)
    _check_probs(operator, probs, rows)
    number = restore_shape[0]
    check(
        drop_and_pad or len(sorted_indices) % max(number, 1) == 0,
        operator,
        f"sorted_indices have as many numbers for each of {number} tokens, found {len(sorted_indices)}",
    )
    if drop_and_pad:
        token, row = sorted_indices.long().sort(stable=True)
    else:
        row = sorted_indices.long()
        token = _tokens(row, number)
    weight = None
    if probs is not None:
        expert = _experts(operator, row, token, probs, routing_map, drop_and_pad)
        weight = torch.where(row >= 0, probs[token, expert], 0.0).to(probs.dtype)
    parts = rows[row.clamp_min(0)].float() * (row >= 0)[:, None]
    parts = parts if weight is None else parts * weight.float()[:, None]
    total = torch.zeros(restore_shape).index_add(0, token, parts)
    return total.to(rows.dtype), row.to(torch.int32), token.to(torch.int32), weight


@reference("npu_moe_token_unpermute_with_routing_map")
def unpermute(
    rows: Tensor,
    sorted_indices: Tensor,
    restore_shape: list[int],
    *,
    probs: Tensor | None = None,
    routing_map: Tensor | None = None,
    drop_and_pad: bool = False,
) -> Tensor:
    """Sum each token's rows as `unpermute_kept` does."""
    options = {"probs": probs, "routing_map": routing_map}
    return unpermute_kept(rows, sorted_indices, restore_shape, **options, drop_and_pad=drop_and_pad)[0]


@reference("npu_moe_token_unpermute_with_routing_map_grad")
def unpermute_grad(
    d_tokens: Tensor,
    row: Tensor,
    token: Tensor,
    routing_map: Tensor | None,
    rows: Tensor | None,
    probs: Tensor | None,
    drop_and_pad: bool,
    restore_shape: list[int],
) -> tuple[Tensor, Tensor | None]:
    """Return the gradients of the rows and, if there are probs, of these, in the type of the incoming gradient.

    Without `drop_and_pad` torch_npu passes the rows where it has the tokens otherwise.
    """
    operator = "npu_moe_token_unpermute_with_routing_map_grad"
    row = row.long()
    token = token.long() if drop_and_pad else _tokens(row, restore_shape[0])
    there = row >= 0
    parts = d_tokens[token].float()
    d_rows = torch.zeros(len(row), d_tokens.shape[1])
    if probs is None:
        return d_rows.index_add(0, row[there], parts[there]).to(d_tokens.dtype), None
    check(rows is not None, operator, "probs need permuted_tokens")
    assert rows is not None
    expert = _experts(operator, row, token, probs, routing_map, drop_and_pad)
    weighted = parts * probs[token, expert].float()[:, None]
    d_weight = (parts * rows[row.clamp_min(0)].float()).sum(1)
    d_probs = torch.zeros(probs.shape).index_put_((token[there], expert[there]), d_weight[there], accumulate=True)
    d_rows = d_rows.index_add(0, row[there], weighted[there])
    return d_rows.to(d_tokens.dtype), d_probs.to(d_tokens.dtype)


def _tokens(row: Tensor, number: int) -> Tensor:
    """Return the token of each row, of which all tokens have as many, token by token."""
    return torch.arange(len(row)) // max(len(row) // max(number, 1), 1)


def _experts(
    operator: str, row: Tensor, token: Tensor, probs: Tensor, routing_map: Tensor | None, drop_and_pad: bool
) -> Tensor:
    """Return the expert of each row that is not -1."""
    if drop_and_pad:
        return row // max(len(row) // probs.shape[1], 1)
    check(routing_map is not None, operator, "probs need routing_map")
    assert routing_map is not None
    check(routing_map.shape == probs.shape, operator, "probs and routing_map have one shape")
    experts = torch.zeros_like(row)
    mapped = routing_map.bool().nonzero()[:, 1]
    check(len(mapped) == int((row >= 0).sum()), operator, "routing_map has as many experts as sorted_indices have rows")
    experts[row >= 0] = mapped
    return experts


def _check_map(operator: str, routing_map: Tensor) -> None:
    check(
        routing_map.dim() == 2 and routing_map.dtype in (torch.bool, torch.int8),
        operator,
        "routing_map is bool or int8 of 2 dimensions",
    )


def _check_probs(operator: str, probs: Tensor | None, rows: Tensor) -> None:
    check(
        probs is None or probs.dtype == rows.dtype or (probs.dtype, rows.dtype) == (torch.float32, torch.bfloat16),
        operator,
        "probs have the type of tokens, or are float32 beside bfloat16",
    )
