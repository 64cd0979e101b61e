"""Attention over `[batch, heads, tokens, size]` with everything that torch_npu's operators put in, and its gradient."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass
class Masked:
    """What happens between the products of queries and keys and the probabilities."""

    scale: float = 1.0
    hidden: Tensor | None = None
    """True where a key is not seen; broadcast to `[batch, heads, queries, keys]`."""
    bias: Tensor | None = None
    """Added to the products."""
    bias_before_scale: bool = False
    sink: Tensor | None = None
    """One more logit for each head, which has no value: `[heads]`."""
    keep: Tensor | None = None
    """True where dropout keeps a probability."""
    keep_prob: float = 1.0
    rounded: bool = False
    """Whether probabilities are rounded to the values' type before they are multiplied."""

    @property
    def arguments(self) -> tuple[Any, ...]:
        """All but `rounded`, as attention.cpp takes them."""
        return self.scale, self.hidden, self.bias, self.bias_before_scale, self.sink, self.keep, self.keep_prob


@dataclass
class Attended:
    """The result in float32, and each row's maximum and sum, `[batch, heads, queries, 1]`."""

    result: Tensor
    maximum: Tensor
    total: Tensor

    @property
    def lse(self) -> Tensor:
        """Logarithm of the sum of exponentials; infinity for a row that sees nothing."""
        return torch.where(self.total > 0, self.maximum + self.total.log(), torch.inf)


def attend(query: Tensor, key: Tensor, value: Tensor, masked: Masked) -> Attended:
    """Compute `softmax(scores) value`; a row that sees nothing gives 0, and 0 as its maximum and sum."""
    return Attended(*torch.ops.longcat_emulator.attend(query, key, value, *masked.arguments, masked.rounded))


@dataclass
class Gradients:
    """Gradients in float32; those of key and value are summed over the query heads that share them."""

    query: Tensor
    key: Tensor
    value: Tensor
    bias: Tensor | None
    sink: Tensor | None


def attend_backward(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    masked: Masked,
    d_result: Tensor,
    result: Tensor | None = None,
    rows: tuple[Tensor, Tensor] | None = None,
) -> Gradients:
    """Return the gradients of `attend`.

    Args:
        query: see `attend`.
        key: likewise.
        value: likewise.
        masked: likewise.
        d_result: gradient of the result.
        result: of all keys; None for that of these.
        rows: maximum and sum over all keys; None for those of these.
    """
    known = (result, *(rows or (None, None)))
    return Gradients(
        *torch.ops.longcat_emulator.attend_backward(query, key, value, *masked.arguments, d_result, *known)
    )


def repeated(tensor: Tensor, query: Tensor) -> Tensor:
    """Repeat heads of keys for the query heads that share them."""
    times = query.shape[1] // tensor.shape[1]
    return tensor if times == 1 else tensor.repeat_interleave(times, 1)


def band(queries: int, keys: int, before: int | None, after: int | None, last: bool) -> Tensor:
    """Return True for keys more than `before` behind or `after` ahead of their query, with last or first rows aligned."""
    distance = torch.arange(keys) - torch.arange(queries)[:, None] - (keys - queries if last else 0)
    hidden = torch.zeros(queries, keys, dtype=torch.bool)
    if after is not None:
        hidden |= distance > after
    return hidden if before is None else hidden | (distance < -before)
