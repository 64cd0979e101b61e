"""Attention over `[batch, heads, tokens, size]` with everything that torch_npu's operators put in, and its gradient."""

from __future__ import annotations

from dataclasses import dataclass

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

    def scores(self, query: Tensor, key: Tensor) -> Tensor:
        """Return float32 scores, minus infinity where a key is not seen."""
        scores = query.float() @ repeated(key, query).float().mT
        if self.bias is not None and self.bias_before_scale:
            scores = scores + self.bias.float()
        scores = scores * self.scale
        if self.bias is not None and not self.bias_before_scale:
            scores = scores + self.bias.float()
        return scores if self.hidden is None else scores.masked_fill(self.hidden, -torch.inf)

    def dropped(self, probabilities: Tensor) -> Tensor:
        """Apply dropout."""
        return probabilities if self.keep is None else probabilities * self.keep / self.keep_prob


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
    scores = masked.scores(query, key)
    maximum = row_maximum(scores, masked.sink)
    exponentials = (scores - maximum).exp_()
    total = _total(exponentials, maximum, masked.sink)
    probabilities = exponentials / total.clamp_min(torch.finfo(torch.float32).tiny)
    dropped = masked.dropped(probabilities)
    dropped = dropped.to(value.dtype).float() if masked.rounded else dropped
    return Attended(dropped @ repeated(value, query).float(), maximum, total)


def row_maximum(scores: Tensor, sink: Tensor | None = None) -> Tensor:
    """Return each row's maximum, the sink's logit among them; 0 for a row that sees nothing."""
    if scores.shape[-1]:
        maximum = scores.amax(-1, keepdim=True)
    else:
        maximum = scores.new_full((*scores.shape[:-1], 1), -torch.inf)
    if sink is not None:
        maximum = maximum.maximum(sink.float().view(-1, 1, 1))
    return maximum.masked_fill(maximum == -torch.inf, 0)


def _total(exponentials: Tensor, maximum: Tensor, sink: Tensor | None) -> Tensor:
    """Return each row's sum of exponentials, the sink's among them."""
    total = exponentials.sum(-1, keepdim=True)
    return total if sink is None else total + (sink.float().view(-1, 1, 1) - maximum).exp()


@dataclass
class Gradients:
    """Gradients in float32; those of key and value are summed over the query heads that share them."""

    query: Tensor
    key: Tensor
    value: Tensor
    bias: Tensor
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
    scores = masked.scores(query, key)
    maximum = row_maximum(scores, masked.sink) if rows is None else rows[0]
    exponentials = (scores - maximum).exp_()
    total = _total(exponentials, maximum, masked.sink) if rows is None else rows[1]
    divisor = total.clamp_min(torch.finfo(torch.float32).tiny)
    probabilities = exponentials / divisor
    dropped = masked.dropped(probabilities)
    keys, values, d_out = repeated(key, query).float(), repeated(value, query).float(), d_result.float()
    if result is None:
        result = dropped @ values
    inner = (d_out * result.float()).sum(-1, keepdim=True)
    d_scores = probabilities * (masked.dropped(d_out @ values.mT) - inner)
    d_products = d_scores * masked.scale
    d_sink = None
    if masked.sink is not None:
        d_sink = -(((masked.sink.view(-1, 1, 1) - maximum).exp() / divisor) * inner).sum((0, 2, 3))
    return Gradients(
        d_products @ keys,
        shared(d_products.mT @ query.float(), key),
        shared(dropped.mT @ d_out, value),
        d_products if masked.bias_before_scale else d_scores,
        d_sink,
    )


def repeated(tensor: Tensor, query: Tensor) -> Tensor:
    """Repeat heads of keys for the query heads that share them."""
    times = query.shape[1] // tensor.shape[1]
    return tensor if times == 1 else tensor.repeat_interleave(times, 1)


def shared(gradient: Tensor, tensor: Tensor) -> Tensor:
    """Sum a gradient over the query heads that share a head of keys."""
    return gradient.unflatten(1, (tensor.shape[1], -1)).sum(2)


def band(queries: int, keys: int, before: int | None, after: int | None, last: bool) -> Tensor:
    """Return True for keys more than `before` behind or `after` ahead of their query, with last or first rows aligned."""
    distance = torch.arange(keys) - torch.arange(queries)[:, None] - (keys - queries if last else 0)
    hidden = torch.zeros(queries, keys, dtype=torch.bool)
    if after is not None:
        hidden |= distance > after
    return hidden if before is None else hidden | (distance < -before)
