"""Whether a step may stand: steps that are not finite, loss spikes, and the batches that are passed over because of them.

A step whose loss or gradients are not finite moves nothing, so what the training process does with it is all that is left to
decide. A loss is a spike if it is above

    m + max(d * 1.4826 * median |x - m|, f * |m|)

with x the last losses, m their median, d `training.spike_deviations` and f `FLOOR`. The losses of spikes and of skipped
steps are no part of x, so that nothing can shift what it is measured by. A level that lasts as long as the window is wide is
taken for the new one.

Every process judges alike, since a step's result is the same in all of them.
"""

from __future__ import annotations

import statistics
from typing import Any, Literal

from longcat.config import TrainingConfig
from longcat.errors import DivergedError

FEWEST = 20
"""Losses that a spike is told by, at least."""
FLOOR = 0.05
"""Smallest distance of a spike from the median, as a fraction of it: losses that hardly vary have no deviation."""
_NORMAL = 1.4826
"""Standard deviation of a normal distribution over its median absolute deviation."""

Verdict = Literal["good", "skipped", "spike", "again", "rewind"]
"""`good`: it counts. `skipped`: nothing has moved. `spike`: it counts, and is told. `again`: the last step was skipped and
has to be done with another batch. `rewind`: go back."""


class Health:
    """What is known of the last steps, and the batches that are passed over.

    Attributes:
        passed_over: batches, as pairs of the first and the last one.
        skipped: steps so far.
        skipped_in_a_row: steps up to the last one.
        accepted: steps up to the last one that was good.
    """

    def __init__(self, training: TrainingConfig) -> None:
        self._training = training
        self.passed_over: list[list[int]] = []
        self.skipped = self.skipped_in_a_row = self.accepted = 0
        self._losses: list[float] = []
        self._spikes_in_a_row = 0
        self._gave_up = 0
        """Step at which training last went back, 0 if it has not."""

    def position(self, step: int) -> int:
        """Return the number of the batch of a step, both from 0."""
        return step + self.passed

    @property
    def passed(self) -> int:
        """Number of batches that are passed over."""
        return sum(last - first + 1 for first, last in self.passed_over)

    def judge(self, step: int, loss: float, skipped: bool) -> Verdict:
        """Judge a step that has been done.

        Args:
            step: its number, from 1.
            loss: of its batch.
            skipped: whether it was not finite.

        Raises:
            DivergedError: training has to go back, and has got no further since it last did.
        """
        training = self._training
        if skipped:
            self.skipped += 1
            self.skipped_in_a_row += 1
            if self.skipped_in_a_row >= training.max_skipped_steps:
                return self._go_back(step, f"{self.skipped_in_a_row} steps in a row up to step {step} were not finite")
            if step == training.steps:
                self._pass_over(self.position(step - 1))
                return "again"
            return "skipped"
        self.skipped_in_a_row = 0
        if training.loss_spikes != "ignore" and self._is_spike(loss):
            self._spikes_in_a_row += 1
            if training.loss_spikes == "rewind":
                return self._go_back(step, f"the loss of step {step} rose to {loss:.4g}")
            if self._spikes_in_a_row == training.spike_window_steps:
                self._losses, self._spikes_in_a_row = [], 0
            return "spike"
        self._spikes_in_a_row, self.accepted = 0, step
        self._losses = [*self._losses, loss][-training.spike_window_steps :]
        return "good"

    def limit(self) -> float | None:
        """Return the loss above which a step is a spike; none while too few losses are known."""
        if len(self._losses) < FEWEST:
            return None
        median = statistics.median(self._losses)
        deviation = _NORMAL * statistics.median(abs(loss - median) for loss in self._losses)
        return median + max(self._training.spike_deviations * deviation, FLOOR * abs(median))

    def rewound(self, step: int, to: int, then: dict[str, Any]) -> tuple[int, int]:
        """Pass over all batches between a state and the step at which it was gone back to.

        Args:
            step: at which training went back, from 1.
            to: steps that the state has seen.
            then: what `state` gave when it was saved, or nothing for the first one.

        Returns:
            The first and the last one of the batches.
        """
        skipped, position = self.skipped, self.position(step - 1)
        self.restore(then)
        self.skipped, self.skipped_in_a_row, self._gave_up = skipped, 0, step
        first = self.position(to)
        self._pass_over(first, position)
        return first, position

    def state(self) -> dict[str, Any]:
        """Return all of it as JSON, for a checkpoint."""
        return {
            "passed_over": self.passed_over,
            "skipped": self.skipped,
            "skipped_in_a_row": self.skipped_in_a_row,
            "accepted": self.accepted,
            "losses": self._losses,
            "spikes_in_a_row": self._spikes_in_a_row,
            "gave_up": self._gave_up,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Take over what `state` gave; what is missing is as at the start."""
        self.passed_over = [list(of) for of in state.get("passed_over", [])]
        self.skipped, self.skipped_in_a_row = state.get("skipped", 0), state.get("skipped_in_a_row", 0)
        self.accepted, self._gave_up = state.get("accepted", 0), state.get("gave_up", 0)
        self._losses, self._spikes_in_a_row = list(state.get("losses", [])), state.get("spikes_in_a_row", 0)

    def _is_spike(self, loss: float) -> bool:
        limit = self.limit()
        return limit is not None and loss > limit

    def _pass_over(self, first: int, last: int | None = None) -> None:
        last = first if last is None else last
        if self.passed_over and self.passed_over[-1][1] + 1 == first:
            self.passed_over[-1][1] = last
        else:
            self.passed_over.append([first, last])

    def _go_back(self, step: int, reason: str) -> Verdict:
        if step <= self._gave_up:
            optimizer = self._training.optimizer
            raise DivergedError(
                f"training diverges: {reason}, after it had gone back from step {self._gave_up} and passed over the batches; "
                f"a lower training.optimizer.learning_rate (now {optimizer.learning_rate:g}) or more "
                f"training.optimizer.warmup_steps (now {optimizer.warmup_steps}) may help"
            )
        return "rewind"
