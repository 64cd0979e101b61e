"""Attention over `[batch, heads, tokens, size]` with everything that torch_npu's operators put in, and its gradient."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

QUERY_BLOCK = 64
"""Queries that are computed at once."""


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
        scores = (query.float() * self.scale) @ repeated(key, query).float().mT
        if self.bias is not None:
            scores.add_(self.bias.float(), alpha=self.scale if self.bias_before_scale else 1)
        if self.hidden is not None:
            hides = _span(self.hidden.any(tuple(range(self.hidden.dim() - 1))))
            some = slice(None) if self.hidden.shape[-1] == 1 else hides
            scores[..., some].masked_fill_(self.hidden[..., some], -torch.inf)
        return scores

    def dropped(self, probabilities: Tensor) -> Tensor:
        """Apply dropout."""
        return probabilities if self.keep is None else probabilities * self.keep / self.keep_prob

    def blocks(self, queries: int, keys: int) -> Iterator[Block]:
        """Cut the queries into blocks."""
        hidden = None if self.hidden is None else self.hidden.expand(*self.hidden.shape[:-2], queries, keys)
        for start in range(0, queries, QUERY_BLOCK):
            rows = slice(start, min(start + QUERY_BLOCK, queries))
            seen = slice(0, keys) if hidden is None else _seen(hidden[..., rows, :])
            hides, bias, keep = (_cut(tensor, rows, seen) for tensor in (hidden, self.bias, self.keep))
            yield Block(rows, seen, replace(self, hidden=hides, bias=bias, keep=keep))


@dataclass
class Block:
    """Queries that are computed at once, and the keys that they see, so that scores stay in the cache."""

    queries: slice
    keys: slice
    """From the first to the last that any of the queries sees."""
    masked: Masked
    """What of it all is these queries' and keys'."""


def _seen(hidden: Tensor) -> slice:
    return _span(hidden.all(tuple(range(hidden.dim() - 1))).logical_not())


def _span(marked: Tensor) -> slice:
    """Return from the first to the last that is marked."""
    places = marked.nonzero()
    return slice(int(places[0]), int(places[-1]) + 1) if len(places) else slice(0, 0)


def _cut(tensor: Tensor | None, queries: slice, keys: slice) -> Tensor | None:
    """Take these queries and keys of what is broadcast to all."""
    if tensor is None:
        return None
    tensor = tensor if tensor.dim() < 2 or tensor.shape[-2] == 1 else tensor[..., queries, :]
    return tensor if tensor.shape[-1] == 1 else tensor[..., keys]


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
    keys, values = (_whole(repeated(tensor, query)) for tensor in (key, value))
    rows = query.shape[:3]
    result = keys.new_empty(*rows, value.shape[-1])
    maximum, total = (keys.new_empty(*rows, 1) for _ in range(2))
    for block in masked.blocks(query.shape[2], key.shape[2]):
        scores = block.masked.scores(query[:, :, block.queries], keys[:, :, block.keys])
        highest = row_maximum(scores, masked.sink)
        exponentials = _exp_(scores.sub_(highest))
        sums = _total(exponentials, highest, masked.sink)
        divisor = sums.masked_fill(sums == 0, 1)
        if masked.rounded:
            dropped = block.masked.dropped(exponentials.div_(divisor)).to(value.dtype)
            result[:, :, block.queries] = dropped.float() @ values[:, :, block.keys]
        else:  # fewer numbers to divide
            dropped = block.masked.dropped(exponentials)
            result[:, :, block.queries] = (dropped @ values[:, :, block.keys]).div_(divisor)
        maximum[:, :, block.queries], total[:, :, block.queries] = highest, sums
    return Attended(result, maximum, total)


def row_maximum(scores: Tensor, sink: Tensor | None = None) -> Tensor:
    """Return each row's maximum, the sink's logit among them; 0 for a row that sees nothing."""
    if scores.shape[-1]:
        maximum = scores.amax(-1, keepdim=True)
    else:
        maximum = scores.new_full((*scores.shape[:-1], 1), -torch.inf)
    if sink is not None:
        maximum = maximum.maximum(sink.float().view(-1, 1, 1))
    return maximum.masked_fill(maximum == -torch.inf, 0)


def _exp_(x: Tensor) -> Tensor:
    """Replace x by its exponential; the CPU is several times as quick with powers of 2, above all at minus infinity."""
    return x.mul_(1 / math.log(2)).exp2_()


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
    whole, low = _whole(query), _low(value)
    keys, values = (_whole(repeated(tensor, query)) for tensor in (key, value))
    d_query, d_keys, d_values = torch.empty_like(whole), torch.zeros_like(keys), torch.zeros_like(values)
    d_bias = None if masked.bias is None else keys.new_zeros(*query.shape[:3], key.shape[2])
    d_sink = None if masked.sink is None else keys.new_zeros(query.shape[1])
    for block in masked.blocks(query.shape[2], key.shape[2]):
        q, k, v = whole[:, :, block.queries], keys[:, :, block.keys], values[:, :, block.keys]
        scores = block.masked.scores(q, k)
        maximum, total = (None, None) if rows is None else (tensor[:, :, block.queries] for tensor in rows)
        maximum = row_maximum(scores, masked.sink) if maximum is None else maximum
        exponentials = _exp_(scores.sub_(maximum))
        total = _total(exponentials, maximum, masked.sink) if total is None else total
        divisor = total.masked_fill(total == 0, 1)
        dropped = block.masked.dropped(exponentials).to(low)
        d_out = d_result[:, :, block.queries].float() / divisor  # rather than the exponentials, which are more
        out = dropped @ v.to(low) / divisor if result is None else result[:, :, block.queries].float()
        inner = (d_out * out).sum(-1, keepdim=True)
        d_values[:, :, block.keys] += dropped.mT @ d_out.to(low)
        d_scores = block.masked.dropped(d_out @ v.mT).sub_(inner).mul_(exponentials)
        rounded = d_scores.to(low)
        d_query[:, :, block.queries] = rounded @ k.to(low)
        d_keys[:, :, block.keys] += rounded.mT @ q.to(low)
        if d_bias is not None:
            d_bias[:, :, block.queries, block.keys] = d_scores * (masked.scale if masked.bias_before_scale else 1)
        if masked.sink is not None and d_sink is not None:
            d_sink -= ((masked.sink.view(-1, 1, 1) - maximum).exp() * inner).sum((0, 2, 3))
    for gradient in (d_query, d_keys):
        gradient.mul_(masked.scale)
    return Gradients(d_query, shared(d_keys, key), shared(d_values, value), d_bias, d_sink)


def _whole(tensor: Tensor) -> Tensor:
    """Return a tensor in float32 without gaps, so that every block of it is multiplied where it lies."""
    return tensor.to(torch.float32, memory_format=torch.contiguous_format)


def _low(tensor: Tensor) -> torch.dtype:
    """Return the type in which gradients are multiplied by what is given in this type.

    Like a device's kernel they are rounded to bfloat16, which the CPU multiplies quicker, with sums in float32.
    """
    return torch.bfloat16 if tensor.dtype == torch.bfloat16 else torch.float32


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
