"""AdamW for tables of which a step reads few rows: the others are moved when they are next looked at.

AdamW moves a row for dozens of steps after its last gradient, while its moments decay. Nobody sees the row meanwhile, and
the moves have a closed form, so they are made up for in one go. With m and v the moments after step s, the row's last one
with a gradient, and lr_j the learning rate of step j, the steps s < j <= t move the row by

    m / sqrt(v) * moves[s],    moves[s] = sum_j lr_j sqrt(1 - beta2^j) / (1 - beta1^j) (beta1 / sqrt(beta2))^(j - s)

which is AdamW's rule (arXiv 1711.05101, algorithm 2, without weight decay) with m beta1^(j - s) and v beta2^(j - s). It
leaves epsilon out of sums in which it is far below sqrt(v), as it has to be for AdamW to work at all.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from longcat.parallel.embedding import SpreadTables

_REST = 1e-12
"""Share of a row's first move below which later ones are left out."""
_SETTLED_ROWS = 1 << 16
"""Rows that are settled at a time."""


class LazyAdamW(torch.optim.Optimizer):
    """AdamW without weight decay for spread tables, whose lookups then give the rows as AdamW would have them now.

    The weights that lie in memory are those of each row's last gradient, until they are `settle`d. State of a row: its
    moments, and the step of its last gradient.
    """

    def __init__(
        self,
        tables: SpreadTables,
        lr: float,
        betas: tuple[float, float],
        epsilon: float,
        lr_scale: float = 1.0,
        steps: int = 0,
    ) -> None:
        """Take over the lookups of `tables`.

        Args:
            tables: give their gradients as rows.
            lr: learning rate.
            betas: decay rates of the moments; the square of the first is below the second.
            epsilon: of AdamW.
            lr_scale: factor on the learning rate, see `build_optimizers`.
            steps: number of steps that there will be; more are possible, but no checkpoint is read with another number.
        """
        super().__init__(
            [{"params": [tables.weight], "lr_scale": lr_scale}], {"lr": lr, "betas": betas, "eps": epsilon}
        )
        self.tables = tables
        decay = betas[0] / math.sqrt(betas[1])
        window = math.ceil(math.log(_REST) / math.log(decay)) if decay else 1
        device = tables.local.device
        self._powers = decay ** torch.arange(window, 0, -1, dtype=torch.float64).to(device, torch.float32)
        """Of the decay, from that of the oldest step that still moves to 1."""
        rows = tables.local.shape[:1]
        self.state[tables.weight] = {
            "step": torch.zeros(()),
            "exp_avg": torch.zeros_like(tables.weight),
            "exp_avg_sq": torch.zeros_like(tables.weight),
            "last_step": _along_rows(torch.zeros(rows, device=device), tables.weight),
            "moves": torch.zeros(steps + 1, device=device),
        }
        tables.read = self.current

    def current(self, rows: Tensor) -> Tensor:
        """Return the present values of rows, fp32 `[n, width]`, by their numbers among this process' own."""
        values, first, second, last = (of[rows] for of in self._parts())
        moves = cast(Tensor, self.state[self.tables.weight]["moves"])
        factor = moves[last.long()].unsqueeze(1)
        return values - factor * first / (second.sqrt() + self.param_groups[0]["eps"])

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Update the rows that have a gradient; without any gradient the tables rest, as in a step that never was."""
        assert closure is None
        gradient = self.tables.gradient
        if gradient is None:
            return
        state, [group] = self.state[self.tables.weight], self.param_groups
        state["step"] += 1
        step = round(state["step"].tolist())  # on the host
        beta1, beta2 = group["betas"]
        unbiased = math.sqrt(1 - beta2**step)
        rate = group["lr"] / (1 - beta1**step)
        self._bring_to(step, gradient.rows)
        values, first, second, _ = self._parts()
        new_first = first[gradient.rows].add_(gradient.values, alpha=1 - beta1)
        new_second = second[gradient.rows].addcmul_(gradient.values, gradient.values, value=1 - beta2)
        first[gradient.rows], second[gradient.rows] = new_first, new_second
        values.index_add_(0, gradient.rows, new_first / (new_second.sqrt() / unbiased + group["eps"]), alpha=-rate)
        self._move_on(step, rate * unbiased)

    @torch.no_grad()
    def settle(self) -> None:
        """Make up for all moves that were put off: the weights in memory are then those of AdamW."""
        here = self.tables.local
        step = int(self.state[self.tables.weight]["step"])
        for begin in range(0, len(here), _SETTLED_ROWS):
            self._bring_to(step, torch.arange(begin, min(begin + _SETTLED_ROWS, len(here)), device=here.device))

    def _bring_to(self, step: int, rows: Tensor) -> None:
        """Move rows, and let their moments decay, for the steps after their last one up to `step`, or to the one before."""
        beta1, beta2 = self.param_groups[0]["betas"]
        values, first, second, last = self._parts()
        values[rows] = self.current(rows)
        missed = (step - last[rows]).unsqueeze(1)
        first[rows] *= beta1**missed
        second[rows] *= beta2**missed
        last[rows] = float(step)

    def _move_on(self, step: int, move: float) -> None:
        """Enter what this step moves the rows that had their last gradient before."""
        state = self.state[self.tables.weight]
        if step >= len(state["moves"]):
            state["moves"] = torch.nn.functional.pad(state["moves"], (0, step))
        begin = max(0, step - len(self._powers))
        state["moves"][begin:step].add_(self._powers[len(self._powers) - (step - begin) :], alpha=move)

    def _parts(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """This process' part of weights, moments and last steps."""
        state = self.state[self.tables.weight]
        names = "exp_avg", "exp_avg_sq", "last_step"
        first, second, last = (_local(state[name]) for name in names)
        return self.tables.local, first, second, last


def _local(tensor: Tensor) -> Tensor:
    part: Tensor = tensor.to_local() if isinstance(tensor, DTensor) else tensor
    return part


def _along_rows(local: Tensor, weight: Tensor) -> Tensor:
    """Give one number for each row of this process the layout of a parameter's rows."""
    if not isinstance(weight, DTensor):
        return local
    return DTensor.from_local(
        local, weight.device_mesh, weight.placements, run_check=False, shape=weight.shape[:1], stride=(1,)
    )
