"""A loss and an embedding whose vocabulary is divided over processes, against one process; a rank each."""

from unittest import mock

import torch
import torch.distributed as dist
import torch.nn.functional as F

from longcat.ops.linear_cross_entropy import linear_cross_entropy
from longcat.padding import IGNORE
from longcat.parallel import vocabulary as module
from longcat.parallel.vocabulary import embed_own, own_rows, vocabulary_cross_entropy

HIDDEN = 16


def whole_sum(tensor):
    """The sum over the processes."""
    total = tensor.detach().clone()
    dist.all_reduce(total)
    return total


def largest_error(found, expected):
    """As share of the largest number expected."""
    return float((found.double() - expected.double()).abs().max() / expected.abs().max())


def loss(mesh, tokens, vocabulary, chunk, dtype, bad):
    """Errors of loss, gradient of the hidden states and gradient of own rows."""
    draws = torch.Generator().manual_seed(0)
    hidden = torch.randn(tokens, HIDDEN, generator=draws).to(dtype)
    head = torch.randn(vocabulary, HIDDEN, generator=draws).to(dtype)
    targets = torch.randint(0, vocabulary, (tokens,), generator=draws)
    targets[1], targets[-2] = IGNORE, IGNORE
    whole = [tensor.double().requires_grad_() for tensor in (hidden, head)]
    expected = linear_cross_entropy.reference(*whole, targets)
    gradients = torch.autograd.grad(3 * expected, whole)
    plain = [tensor.clone().requires_grad_() for tensor in (hidden, head)]
    ours = linear_cross_entropy(*plain, targets)

    hidden[1] = bad  # a token that is left out
    rows = own_rows(vocabulary, mesh.processes, mesh.rank)
    share = -(-tokens // mesh.processes)
    own = slice(mesh.rank * share, (mesh.rank + 1) * share)
    hidden.requires_grad_()
    weight = head[rows.start : rows.stop].clone().requires_grad_()
    with mock.patch.object(module, "chunk_rows", lambda *_: chunk):
        found = vocabulary_cross_entropy(hidden, weight, targets, own, vocabulary, dist.group.WORLD)
    (3 * found).backward()
    with torch.no_grad():
        again = vocabulary_cross_entropy(hidden, weight, targets, own, vocabulary, dist.group.WORLD)
    of_own = linear_cross_entropy(plain[0][own], plain[1], targets[own])
    return {
        "loss": largest_error(whole_sum(found), expected),
        "loss of own tokens": largest_error(found, of_own),
        "loss as the chunked one": largest_error(whole_sum(found), ours),
        "loss without gradients": largest_error(again, found),
        "hidden": largest_error(whole_sum(hidden.grad), gradients[0]),
        "head": largest_error(weight.grad, gradients[1][rows.start : rows.stop]),
    }


def embedding(mesh, vocabulary):
    """Whether the sum of parts and the gradient of own rows are those of a whole table, to the bit."""
    draws = torch.Generator().manual_seed(0)
    table = torch.randn(vocabulary, HIDDEN, generator=draws, requires_grad=True)
    tokens = torch.randint(0, vocabulary, (3, 7), generator=draws)
    upstream = torch.randn(3, 7, HIDDEN, generator=draws)
    expected = F.embedding(tokens, table)
    expected.backward(upstream)
    rows = own_rows(vocabulary, mesh.processes, mesh.rank)
    own = table.detach()[rows.start : rows.stop].clone().requires_grad_()
    found = embed_own(tokens, own, rows)
    found.backward(upstream)
    return torch.equal(whole_sum(found), expected), torch.equal(own.grad, table.grad[rows.start : rows.stop])


def refused(mesh):
    """The message for a head that is not this process' share."""
    try:
        vocabulary_cross_entropy(
            torch.ones(2, 4), torch.ones(7, 4), torch.zeros(2).long(), slice(0, 1), 10, dist.group.WORLD
        )
    except ValueError as error:
        return str(error)
