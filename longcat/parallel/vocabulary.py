"""The vocabulary divided over processes: each has some rows of the word embedding and of the head, consecutive ones.

All of these processes have the same tokens. Each computes what its rows give, for all tokens: its part of an embedding, to
be summed over the processes, and of the loss' gradients. Logits are never exchanged, and exist for a chunk of tokens only.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from longcat.ops.chunks import size_kind
from longcat.ops.linear_cross_entropy import chunk_rows
from longcat.padding import IGNORE


def own_rows(vocabulary: int, processes: int, place: int) -> range:
    """Return the rows of a process: equally many, rounded up, but for the last process, as `Shard(0)` divides them.

    Args:
        vocabulary: number of rows.
        processes: that they are divided over.
        place: of the process among them.

    Raises:
        ValueError: a process would have no row, in each of them.
    """
    share = -(-vocabulary // processes)
    if share * (processes - 1) >= vocabulary:
        raise ValueError(
            f"a vocabulary of {vocabulary} cannot be divided over {processes} processes, {share} rows each"
        )
    return range(place * share, min((place + 1) * share, vocabulary))


def embed_own(tokens: Tensor, weight: Tensor, rows: range) -> Tensor:
    """Look up the tokens that are among a process' own rows; the sum over the processes is the whole embedding.

    Args:
        tokens: integer `[...]`.
        weight: own rows `[len(rows), hidden]`; their gradient is whole where that of the result is.
        rows: from `own_rows`.

    Returns:
        `[..., hidden]`, zeros for tokens of other processes.
    """
    other = (tokens < rows.start) | (tokens >= rows.stop)
    places = (tokens - rows.start).masked_fill(other, 0)
    return F.embedding(places, weight).masked_fill(other[..., None], 0)


@torch.compiler.disable
def vocabulary_cross_entropy(
    hidden: Tensor, weight: Tensor, targets: Tensor, own: slice, vocabulary: int, group: dist.ProcessGroup
) -> Tensor:
    """Sum -log softmax(hidden head^T)[target] over own tokens, in fp32, with the head divided over processes. Collective.

    The losses of the processes add up to that of all tokens. Its gradients are worked out in the forward pass, as in
    `longcat.ops.linear_cross_entropy`, with one exchange of two numbers a token for each chunk and process.

    Args:
        hidden: `[tokens, hidden]` of all processes, the same in each. Its gradient is the part of this process' rows, for
            all tokens: to be summed over the processes.
        weight: own rows of the head `[rows, hidden]`, of the same type. Their gradient is whole.
        targets: int64 `[tokens]`; a token with `IGNORE` is left out, whatever its hidden state.
        own: the tokens whose loss is this process'; those of all processes are all tokens, each once.
        vocabulary: rows of the whole head.
        group: processes that have the rows between them, in this order. The gradient of the result has to be the same
            in each of them, as it is for a loss that is a sum of theirs.

    Returns:
        fp32 scalar, in nats.

    Raises:
        ValueError: the weight has not as many rows as this process has to have.
    """
    rows = own_rows(vocabulary, group.size(), dist.get_rank(group))
    if weight.shape[0] != len(rows):
        raise ValueError(f"the head has {weight.shape[0]} rows; those of this process are {rows.start} to {rows.stop}")
    loss: Tensor = _VocabularyCrossEntropy.apply(hidden, weight, targets, own, rows, vocabulary, group)
    return loss


class _VocabularyCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        targets: Tensor,
        own: slice,
        rows: range,
        vocabulary: int,
        group: dist.ProcessGroup,
    ) -> Tensor:
        learns, tokens = any(ctx.needs_input_grad[:2]), hidden.shape[0]
        most = -(-vocabulary // group.size())  # all processes cut the tokens alike
        chunk = min(chunk_rows(size_kind(hidden), most, hidden.dtype), max(1, tokens))
        narrow = hidden.new_empty(chunk, len(rows))
        wide = narrow if narrow.dtype == torch.float32 else torch.empty_like(narrow, dtype=torch.float32)
        make = torch.empty_like if tokens else torch.zeros_like
        d_hidden, d_weight = (make(one) if learns else None for one in (hidden, weight))
        losses = torch.empty(tokens, dtype=torch.float32, device=hidden.device)
        for start in range(0, tokens, chunk):
            target = targets[start : start + chunk, None]
            ignored, other = target == IGNORE, (target < rows.start) | (target >= rows.stop)
            places = (target - rows.start).masked_fill(other, 0)
            # a sum over tokens must not meet what is not finite in one that is left out
            states = hidden[start : start + chunk].masked_fill(ignored, 0)
            logits, numbers = narrow[: len(states)], wide[: len(states)]
            torch.mm(states, weight.mT, out=logits)
            if wide is not narrow:
                numbers.copy_(logits)
            right = numbers.gather(1, places).masked_fill(other, 0.0)
            highest = numbers.amax(1, keepdim=True)
            powers = numbers.sub_(highest).exp_()
            size = powers.sum(1, keepdim=True).log_() + highest
            size, right = _combine(size, right, group)
            losses[start : start + chunk] = (size - right).masked_fill(ignored, 0.0)[:, 0]
            if d_hidden is None or d_weight is None:
                continue
            d_logits = powers.mul_((highest - size).exp_())
            d_logits.scatter_add_(1, places, other.float() - 1.0)
            d_logits = d_logits if wide is narrow else logits.copy_(d_logits)
            d_logits.masked_fill_(ignored, 0.0)
            torch.mm(d_logits, weight, out=d_hidden[start : start + chunk])
            if start == 0:
                torch.mm(d_logits.mT, states, out=d_weight)
            else:
                d_weight.addmm_(d_logits.mT, states)
        ctx.gradients = d_hidden, d_weight
        return losses[own].sum()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        if ctx.gradients is None:
            raise RuntimeError("the gradients of vocabulary_cross_entropy can be taken once")
        (d_hidden, d_weight), ctx.gradients = ctx.gradients, None
        (gradient,) = gradients
        return d_hidden.mul_(gradient), d_weight.mul_(gradient), None, None, None, None, None


def _combine(size: Tensor, right: Tensor, group: dist.ProcessGroup) -> tuple[Tensor, Tensor]:
    """Combine log-sum-exp of own logits and the target's logit, fp32 `[tokens, 1]`, over the processes. Collective."""
    part = torch.stack([size, right])
    parts = part.new_empty(group.size() * 2, *size.shape)
    dist.all_gather_into_tensor(parts, part, group=group)
    sizes, rights = parts.unflatten(0, (-1, 2)).unbind(1)
    return sizes.logsumexp(0), rights.sum(0)
