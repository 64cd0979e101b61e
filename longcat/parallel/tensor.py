"""Tensor parallelism: heads of attention, the inner width of dense feed-forward networks, and the vocabulary, over processes.

Between these the same processes divide the tokens (sequence parallelism). So whatever weights every process holds get
gradients that are parts, by the tokens of each: all of them are summed along the axis, once a step.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.tensor import Shard, distribute_tensor

from longcat.model.attention import LatentAttention
from longcat.model.feed_forward import FeedForward
from longcat.model.places import Places, take
from longcat.model.transformer import LongcatModel
from longcat.ops.registry import OperatorSettings
from longcat.ops.sparse_attention import HeadShare
from longcat.parallel.context import DividedRows, Exchange, gathered, reaching, scatter, scattered
from longcat.parallel.mesh import ProcessMesh
from longcat.parallel.vocabulary import embed_own, own_rows, vocabulary_cross_entropy


class DividedHeads(DividedRows):
    """Rows whose tokens are divided along `tensor`, and `context`, and heads and vocabulary along `tensor`."""

    def __init__(self, mesh: ProcessMesh, vocabulary: int) -> None:
        super().__init__(mesh)
        self.heads_group, self.processes = mesh.group("tensor"), self.division.tensor
        self.vocabulary = vocabulary
        self.share = HeadShare(self.processes, self.place_of_heads, self._sum_to_own)

    @property
    def whole(self) -> Places:
        """Every process computes all tokens with its heads."""
        return WholeRows(self.heads_group, self.vocabulary)

    def to_heads(self, own: Tensor) -> Tensor:
        """See `Places`."""
        return gathered(self._exchange(own.shape[1]), own)

    def project(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """See `Places`."""
        own = scattered(self._exchange(x.shape[1] // self.processes), F.linear(x, weight))
        return own if bias is None else own + bias

    @torch.no_grad()
    def mean_over_heads(self, mean: Tensor) -> Tensor:
        """See `Places`."""
        return scatter(self._exchange(mean.shape[1] // self.processes), mean) / self.processes

    def embed(self, rows: Tensor, weight: Tensor, ahead: int = 0) -> Tensor:
        """See `Places`; words behind the row are 0."""
        wanted, behind = zip(*(reaching(rows, runs, ahead) for runs in self._places(rows.shape[1])), strict=True)
        vocabulary = own_rows(self.vocabulary, self.processes, self.place_of_heads)
        parts = embed_own(torch.cat(wanted, dim=1), weight, vocabulary)
        words = scattered(self._in_turn(wanted[0].shape[1]), parts)
        own = behind[self.place_of_heads]
        return words if own is None else words.masked_fill(own[:, None], 0)

    def cross_entropy(self, hidden: Tensor, weight: Tensor, targets: Tensor, operators: OperatorSettings) -> Tensor:
        """See `Places`."""
        flat = hidden.flatten(0, 1)
        tokens, place = len(flat), self.place_of_heads
        all_hidden = gathered(self._in_turn(tokens), flat[None])[0]
        all_targets = torch.cat([take(targets, runs).flatten() for runs in self._places(targets.shape[1])])
        own = slice(place * tokens, (place + 1) * tokens)
        return vocabulary_cross_entropy(all_hidden, weight, all_targets, own, self.vocabulary, self.heads_group)

    def _places(self, length: int) -> list[list[range]]:
        """Own tokens of every process that has the same heads' tokens."""
        return [self.division.own(length, self.place, tensor) for tensor in range(self.processes)]

    def _exchange(self, each: int) -> Exchange:
        """The exchange between `each` own tokens of every process and heads' tokens."""
        return Exchange(self.heads_group, self.division.pieces_of_heads(each))

    def _in_turn(self, each: int) -> Exchange:
        """An exchange in which the tokens of one process, `each` of them, follow those of the other."""
        pieces = tuple((range(place * each, (place + 1) * each),) for place in range(self.processes))
        return Exchange(self.heads_group, pieces)

    def _sum_to_own(self, parts: Tensor) -> Tensor:
        own = torch.empty_like(parts[:1])
        dist.reduce_scatter_tensor(own, parts, group=self.heads_group)
        return own[0]


class WholeRows(Places):
    """Rows of which every process computes all tokens, with its part of heads and vocabulary; without gradients."""

    def __init__(self, group: dist.ProcessGroup, vocabulary: int) -> None:
        self.group, self.vocabulary = group, vocabulary
        self.vocabulary_rows = own_rows(vocabulary, group.size(), dist.get_rank(group))

    def project(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """See `Places`."""
        out = self._summed(F.linear(x, weight))
        return out if bias is None else out + bias

    def embed(self, rows: Tensor, weight: Tensor, ahead: int = 0) -> Tensor:
        """See `Places`."""
        return self._summed(embed_own(rows, weight, self.vocabulary_rows))

    def logits(self, hidden: Tensor, weight: Tensor) -> Tensor:
        """See `Places`."""
        share = -(-self.vocabulary // self.group.size())
        own = F.pad(F.linear(hidden, weight), (0, share - len(self.vocabulary_rows)))
        parts = own.new_empty(self.group.size(), *own.shape)
        dist.all_gather_into_tensor(parts, own[None].contiguous(), group=self.group)
        return parts.movedim(0, -2).flatten(-2)[..., : self.vocabulary]

    def _summed(self, parts: Tensor) -> Tensor:
        dist.all_reduce(parts, group=self.group)
        return parts


def divide_heads(model: LongcatModel, mesh: ProcessMesh) -> None:
    """Keep only this process' heads, inner width and vocabulary, in place; checkpoints still see whole matrices.

    Args:
        model: with the same weights in every process, or on the device `meta` with none yet.
        mesh: this process' place among the others.
    """
    axis = mesh.axis("tensor")

    def divide(module: nn.Linear | nn.Embedding | None, dimension: int) -> None:
        if module is not None:
            # every process drew the same weights, so nothing has to be sent
            own = distribute_tensor(module.weight.data, axis, [Shard(dimension)], src_data_rank=None)
            module.weight = nn.Parameter(own)

    for module in model.modules():
        if isinstance(module, LatentAttention):
            inside, back = (module.q_b_proj, module.kv_b_proj), module.o_proj
        elif isinstance(module, FeedForward):
            inside, back = (module.gate_proj, module.up_proj), module.down_proj
        else:
            continue
        for projection in inside:
            divide(projection, 0)
        divide(back, 1)
    divide(model.model.embed_tokens, 0)
    divide(model.lm_head, 0)
    model.places = DividedHeads(mesh, model.config.vocabulary)
