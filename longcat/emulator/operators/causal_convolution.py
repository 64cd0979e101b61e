"""Convolutions of each channel over a window of tokens that ends at the token itself."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from longcat.emulator.reference import check, gradients, reference

_WINDOW = 3
"""Tokens in a window, the only number that the documentation allows."""


def _convolved(rows: Tensor, weight: Tensor) -> Tensor:
    """Sum windows of rows, which include those before the first result, times the weights `[window, channels]`."""
    count = len(rows) - len(weight) + 1
    return sum((rows[k : k + count] * factor for k, factor in enumerate(weight)), rows.new_zeros(()))


def _check_weight(name: str, weight: Tensor, x: Tensor) -> None:
    shape = [_WINDOW, x.shape[-1]]
    check(list(weight.shape) == shape, name, f"weight must be {shape}, got {list(weight.shape)}")


def _check_masked(name: str, x: Tensor, weight: Tensor, mask: Tensor | None) -> None:
    check(x.dim() == 3, name, f"input must have 3 dimensions, got {x.dim()}")
    _check_weight(name, weight, x)
    shape = [x.shape[1], x.shape[0]]
    check(mask is None or list(mask.shape) == shape, name, f"mask must be {shape}, batch and tokens")


def _masked(x: Tensor, weight: Tensor, mask: Tensor | None) -> Tensor:
    before = x.new_zeros(len(weight) - 1, *x.shape[1:])
    result = _convolved(torch.cat([before, x]), weight)
    return result if mask is None else result * mask.mT.unsqueeze(-1)


@reference("npu_masked_causal_conv1d")
def masked_causal_conv1d(x: Tensor, weight: Tensor, *, mask: Tensor | None = None) -> Tensor:
    """Convolve each channel of `[tokens, batch, channels]`, with zeros before the first token.

    Args:
        x: the rows, in float16 or bfloat16.
        weight: `[3, channels]`, the factor of the token itself last.
        mask: bool `[batch, tokens]`; the result is zero where it is False.
    """
    _check_masked("npu_masked_causal_conv1d", x, weight, mask)
    return _masked(x.float(), weight.float(), mask).to(x.dtype)


@reference("npu_masked_causal_conv1d_backward")
def masked_causal_conv1d_backward(
    gradient: Tensor, x: Tensor, weight: Tensor, *, mask: Tensor | None = None
) -> tuple[Tensor, ...]:
    """Return the gradients of x and of the weights, in the gradient's type."""
    _check_masked("npu_masked_causal_conv1d_backward", x, weight, mask)
    found = gradients(lambda x, weight: _masked(x, weight, mask), [x.float(), weight.float()], gradient.float())
    return tuple(d.to(gradient.dtype) for d in found if d is not None)


@reference("npu_fused_causal_conv1d")
def fused_causal_conv1d(x: Tensor, weight: Tensor, conv_states: Tensor, **options: Any) -> Tensor:
    """Convolve sequences that go on from cached tokens, and cache their last ones.

    Args:
        x: packed `[tokens, channels]`, or `[batch, tokens, channels]`.
        weight: `[3, channels]`, the factor of the token itself last.
        conv_states: cache lines `[lines, rows, channels]`, the newest token last; written to.
        options: as in torch_npu's documentation, of which `initial_state_mode`, `bias`, `activation`, `run_mode` and
            `max_query_len` mean nothing there.

    Raises:
        RuntimeError: the window is not of three tokens, an option that another one needs is absent, or a number of tokens
            is beyond those that there are.
    """
    return _fused("npu_fused_causal_conv1d", x, weight, conv_states, **options)


@reference("npu_fused_causal_conv1d_v2")
def fused_causal_conv1d_v2(x: Tensor, weight: Tensor, conv_states: Tensor, **options: Any) -> None:
    """Do what `npu_fused_causal_conv1d` does, and write the result over x."""
    x.copy_(_fused("npu_fused_causal_conv1d_v2", x, weight, conv_states, **options))


def _fused(
    name: str,
    x: Tensor,
    weight: Tensor,
    states: Tensor,
    *,
    query_start_loc: Tensor | None = None,
    cache_indices: Tensor | None = None,
    num_accepted_tokens: Tensor | None = None,
    pad_slot_id: int | None = -1,
    residual_connection: int | None = 0,
    num_computed_tokens: Tensor | None = None,
    block_idx_first_scheduled_token: Tensor | None = None,
    block_idx_last_scheduled_token: Tensor | None = None,
    initial_state_idx: Tensor | None = None,
    block_size: int | None = 128,
    conv_mode: str | None = "default",
    **ignored: Any,
) -> Tensor:
    """Compute every sequence of a batch after the formula of torch_npu's documentation."""
    by_blocks = cache_indices is not None and cache_indices.dim() == 2
    _check_weight(name, weight, x)
    check(conv_mode in ("default", "pangu"), name, f"conv_mode must be default or pangu, got {conv_mode}")
    check(x.dim() == 3 or query_start_loc is not None, name, "query_start_loc is required where x has 2 dimensions")
    check(
        num_computed_tokens is not None or not (by_blocks or conv_mode == "pangu"),
        name,
        "num_computed_tokens is required in conv_mode pangu and with blocks",
    )
    places = (block_idx_first_scheduled_token, block_idx_last_scheduled_token, initial_state_idx)
    check(not by_blocks or all(place is not None for place in places), name, "blocks need all three of their indices")
    check(not by_blocks or (block_size or 0) > 0, name, f"block_size must be positive, got {block_size}")

    rows, before, capacity = x.reshape(-1, x.shape[-1]), len(weight) - 1, states.shape[1]
    check(capacity >= before, name, f"conv_states must have {before} rows a line, got {capacity}")
    ends = range(0, len(rows) + 1, x.shape[1]) if query_start_loc is None else query_start_loc.tolist()
    check(ends[-1] <= len(rows), name, f"query_start_loc ends with {ends[-1]}, of {len(rows)} tokens of x")
    result = torch.zeros_like(rows)
    for number, (start, end) in enumerate(pairwise(ends)):
        own, first, last, initial = rows[start:end], 0, 0, 0
        lines = [number] if cache_indices is None else cache_indices[number].reshape(-1).tolist()
        if by_blocks:
            first, last, initial = (int(place[number]) for place in places if place is not None)
        if lines[initial] == pad_slot_id:
            continue
        computed = None if num_computed_tokens is None else int(num_computed_tokens[number])
        if computed == 0:
            skipped, cached = 0, states.new_zeros(before, states.shape[-1])
        else:
            accepted = None if num_accepted_tokens is None else int(num_accepted_tokens[number])
            skipped = capacity - before if accepted is None else accepted - 1
            most = capacity - before
            check(0 <= skipped <= most, name, f"num_accepted_tokens must be 1 to {most + 1}, got {accepted}")
            cached = states[lines[initial], : skipped + before].clone()
        padded = torch.cat([cached, own])
        kept = min(capacity, len(padded))
        states[lines[last], capacity - kept :] = padded[len(padded) - kept :]
        padded = padded[skipped:]
        if by_blocks and computed is not None and block_size is not None:
            end_of_blocks = _end_of_blocks(len(own), computed, block_size)
            for chunk in range(last - first):
                at = end_of_blocks - (last - first - chunk - 1) * block_size
                states[lines[first + chunk], capacity - before :] = padded[at : at + before]
        found = _convolved(padded.float(), weight.float())
        if conv_mode == "pangu" and computed is not None:
            found[: max(before - computed, 0)] = 0
        found = found + own.float() if residual_connection else found
        result[start:end] = found.to(x.dtype)
    return result.view(x.shape)


def _end_of_blocks(tokens: int, computed: int, size: int) -> int:
    """Return after how many of its tokens a sequence fills its last whole block but the one that is begun."""
    behind = (tokens - (size - computed % size)) % size
    return tokens - behind - (size if behind == 0 else 0)
