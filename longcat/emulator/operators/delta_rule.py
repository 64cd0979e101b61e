"""Linear attention by the gated delta rule (arXiv 2412.06464), token by token."""

from __future__ import annotations

import torch
from torch import Tensor

from longcat.emulator.reference import check, reference


def _step(
    state: Tensor, query: Tensor, key: Tensor, value: Tensor, decay: Tensor, beta: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the state `[heads, value size, key size]` after a token, and what the token reads from it."""
    state = state * decay
    change = (value - torch.einsum("hvk,hk->hv", state, key)) * beta[:, None]
    state = state + change[:, :, None] * key[:, None]
    return state, torch.einsum("hvk,hk->hv", state, query)


def _inputs(
    operator: str, query: Tensor, key: Tensor, value: Tensor, beta: Tensor | None, scale: float,
    g: Tensor | None, gk: Tensor | None,
) -> tuple[Tensor, ...]:  # fmt: skip
    """Check and spread all over the value heads, in float32; the decay is `[tokens, heads, 1, 1 or key size]`."""
    check(value.dim() == 3, operator, f"valueTensor dim must be 3, but got {value.dim()}.")
    check(query.dtype == key.dtype == value.dtype == torch.bfloat16, operator, "query, key and value must be bfloat16")
    tokens, heads, _ = value.shape
    check(heads % key.shape[1] == 0, operator, f"value's heads ({heads}) must be a multiple of key's ({key.shape[1]})")
    q, k = (t.float().repeat_interleave(heads // key.shape[1], 1) for t in (query, key))
    decay = torch.ones(tokens, heads, 1, 1) if g is None else g.float().exp().view(tokens, heads, 1, 1)
    decay = decay if gk is None else decay * gk.float().exp().unsqueeze(2)
    strength = torch.ones(tokens, heads) if beta is None else beta.float()
    return q * scale, k, value.float(), decay, strength


@reference("npu_chunk_gated_delta_rule")
def chunk_gated_delta_rule(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    beta: Tensor | None = None,
    initial_state: Tensor | None = None,
    actual_seq_lengths: Tensor | None = None,
    scale: float | None = None,
    g: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Read packed sequences from the start.

    Args:
        query: `[tokens, key heads, key size]`.
        key: likewise.
        value: `[tokens, heads, value size]`.
        beta: how strongly a token writes, `[tokens, heads]`.
        initial_state: of each sequence, `[batch, heads, value size, key size]`.
        actual_seq_lengths: of each sequence.
        scale: of queries; 1 by default.
        g: logarithm of the decay before each token, `[tokens, heads]`.

    Returns:
        What tokens read, as value, and the last state of each sequence.
    """
    operator = "npu_chunk_gated_delta_rule"
    check(
        beta is not None and initial_state is not None and actual_seq_lengths is not None,
        operator,
        "needs beta, initial_state and actual_seq_lengths",
    )
    assert initial_state is not None and actual_seq_lengths is not None
    rows = list(zip(*_inputs(operator, query, key, value, beta, scale or 1.0, g, None), strict=True))
    reads, states, start = [], [], 0
    for state, length in zip(initial_state.float(), actual_seq_lengths.tolist(), strict=True):
        for row in rows[start : start + length]:
            state, read = _step(state, *row)
            reads.append(read)
        states.append(state)
        start += length
    return torch.stack(reads).to(torch.bfloat16), torch.stack(states).to(initial_state.dtype)


@reference("npu_recurrent_gated_delta_rule")
def recurrent_gated_delta_rule(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    state: Tensor,
    *,
    beta: Tensor | None = None,
    scale: float | None = None,
    actual_seq_lengths: Tensor | None = None,
    ssm_state_indices: Tensor | None = None,
    num_accepted_tokens: Tensor | None = None,
    g: Tensor | None = None,
    gk: Tensor | None = None,
) -> Tensor:
    """Go on with sequences of a few tokens each from their states in a pool, and write every token's state to its place.

    Args:
        query: see `chunk_gated_delta_rule`.
        key: likewise.
        value: likewise.
        state: `[places, heads, value size, key size]`, in place.
        beta: see there.
        scale: of queries; `1 / sqrt(key size)` by default.
        actual_seq_lengths: of each sequence.
        ssm_state_indices: each token's place.
        num_accepted_tokens: of each sequence: after which token of those before it goes on; the first by default.
        g: see there.
        gk: the same for each part of a key, `[tokens, heads, key size]`.
    """
    operator = "npu_recurrent_gated_delta_rule"
    check(
        actual_seq_lengths is not None and ssm_state_indices is not None,
        operator,
        "needs actual_seq_lengths and ssm_state_indices",
    )
    assert actual_seq_lengths is not None and ssm_state_indices is not None
    by = key.shape[-1] ** -0.5 if scale is None else scale
    rows = list(zip(*_inputs(operator, query, key, value, beta, by, g, gk), strict=True))
    places, start, reads = ssm_state_indices.tolist(), 0, []
    accepted = [1] * len(actual_seq_lengths) if num_accepted_tokens is None else num_accepted_tokens.tolist()
    for length, after in zip(actual_seq_lengths.tolist(), accepted, strict=True):
        current = state[places[start + after - 1]].float()
        for place, row in zip(places[start : start + length], rows[start : start + length], strict=True):
            current, read = _step(current, *row)
            state[place] = current.to(state.dtype)
            reads.append(read)
        start += length
    return torch.stack(reads).to(torch.bfloat16)


@reference("npu_recurrent_gated_delta_rule_functional")
def recurrent_gated_delta_rule_functional(
    query: Tensor, key: Tensor, value: Tensor, state: Tensor, **options: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Do the same with a copy of the states, which is returned too."""
    copy = state.clone()
    return recurrent_gated_delta_rule(query, key, value, copy, **options), copy
