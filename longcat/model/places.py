"""Which tokens of its rows a process computes, and how it gets at what other processes have made of the rest.

Seen from the model: `longcat.parallel.context` and `longcat.parallel.tensor` divide the tokens, the heads and the vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from longcat.ops.linear_cross_entropy import linear_cross_entropy
from longcat.ops.registry import OperatorSettings
from longcat.ops.sparse_attention import ALONE, HeadShare


class Places:
    """Whole rows in one process; the base of those that are divided.

    A process knows the numbers of all tokens of its rows, and of their documents, and computes its *own tokens*. What has
    heads, or an inner width, is computed by the processes that divide these for the tokens of all of them, the *heads'
    tokens*. Each of both is one or more runs of consecutive positions of the row, and the runs of heads' tokens are made up of
    those of own tokens with the same number. Here both are all tokens.
    """

    share: HeadShare = ALONE
    """Of this process in the heads of attention."""

    @property
    def whole(self) -> Places:
        """How the same processes compute when each has all tokens, as they do without loss terms."""
        return self

    def own(self, length: int) -> list[range]:
        """Return the runs of own tokens in rows of this length."""
        return [range(length)]

    def heads(self, length: int) -> list[range]:
        """Return the runs of heads' tokens in rows of this length."""
        return [range(length)]

    def to_heads(self, own: Tensor) -> Tensor:
        """Give heads' tokens what each process has for its own, `[batch, own, ...]`. Collective."""
        return own

    def project(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """Multiply heads' tokens `[batch, heads' tokens, width]` by a matrix, and add a bias, for own tokens. Collective.

        Of what is as wide as the heads together, `x` and the columns of the weight, each process has its heads' part.
        """
        return F.linear(x, weight, bias)

    def to_rows(self, *own: Tensor) -> tuple[Tensor, ...]:
        """Give whole rows what each process has for its own tokens, `[batch, own, width]` each, in one exchange. Collective."""
        return own

    def mean_over_heads(self, mean: Tensor) -> Tensor:
        """Average the means over this process' heads, `[batch, heads' tokens, ...]`, over all heads, for own tokens. Collective.

        Without gradient.
        """
        return mean

    def embed(self, rows: Tensor, weight: Tensor, ahead: int = 0) -> Tensor:
        """Look up the words of own tokens of whole `rows` `[batch, seq]`, and as many more after each run. Collective.

        Returns:
            `[batch, own + runs * ahead, hidden]`, for `following`; here what lies ahead of the row is left out.
        """
        return F.embedding(rows, weight)

    def following(self, words: Tensor, distance: int, ahead: int) -> Tensor:
        """Pick the words at a distance after each own token, 0 behind the row, from those of `embed` with as many ahead."""
        return F.pad(words, (0, 0, 0, distance))[:, distance:]

    def cross_entropy(self, hidden: Tensor, weight: Tensor, targets: Tensor, operators: OperatorSettings) -> Tensor:
        """Sum -log p of own tokens' targets `[batch, own]`, see `linear_cross_entropy`. Collective.

        Args:
            hidden: `[batch, own, hidden]`.
            weight: rows of the head that are here.
            targets: of whole rows, `[batch, seq]`.
            operators: settings of the model.
        """
        own = take(targets, self.own(targets.shape[1]))
        return operators.run(linear_cross_entropy, hidden.flatten(0, 1), weight, own.flatten())

    def logits(self, hidden: Tensor, weight: Tensor) -> Tensor:
        """Multiply `[..., hidden]` by the head, of which rows are here. Collective."""
        return F.linear(hidden, weight)


WHOLE = Places()
"""Whole rows in one process."""


def take(rows: Tensor, runs: Sequence[range]) -> Tensor:
    """Take runs of positions of whole rows `[batch, seq, ...]`, one after the other."""
    if runs[0] == range(rows.shape[1]):
        return rows
    return torch.cat([rows[:, run.start : run.stop] for run in runs], dim=1)


def local(parameter: Tensor) -> Tensor:
    """Return this process' part of a parameter that may be divided."""
    return parameter if type(parameter) in (Tensor, nn.Parameter) else _part(parameter)


@torch.compiler.disable
def _part(parameter: Tensor) -> Tensor:
    to_local = getattr(parameter, "to_local", None)  # a compiler does not see it
    return parameter if to_local is None else cast(Tensor, to_local())
