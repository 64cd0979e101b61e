"""The line that says how training stands, made of its records."""

from __future__ import annotations

import math

from longcat.printable import duration, percent
from longcat.training.metrics import Records


class StepLine:
    """How training stands, in a line.

    What a record has not, as records have speeds and held-out losses at their intervals, is that of the last one that has.
    """

    def __init__(self, steps: int, since: float) -> None:
        """Begin a line for so many steps; the pace is that of records since a time, the earlier ones are another start's."""
        self._steps, self._since = steps, since
        self._known: dict[str, float] = {}
        self._first: dict[str, float] = {}

    def add(self, records: Records) -> None:
        """Take in new records."""
        for record in records:
            if record["time"] < self._since:
                pass
            elif (
                not self._first or record["attempt"] != self._first["attempt"] or record["step"] <= self._first["step"]
            ):
                self._first = record
            self._known |= record

    def __str__(self) -> str:
        """Return the line; empty without a record."""
        if not self._known:
            return ""
        known = self._known
        parts = [f"step {known['step']:,} of {self._steps:,}", f"loss {known['train/loss']:.3f}"]
        for name, text in (
            ("held_out/loss", "held-out loss {:.3f}"),
            ("train/gradient_norm", "gradient norm {:.3g}"),
            ("train/learning_rate", "learning rate {:.3g}"),
            ("perf/tokens_per_second", "{:,.0f} tokens/s"),
        ):
            if name in known:
                parts.append(text.format(known[name]))
        if "perf/mfu" in known:
            parts.append(f"MFU {percent(known['perf/mfu'])}")
        if "perf/peak_memory_gb" in known:
            parts.append(f"{known['perf/peak_memory_gb']:.2f} GB")
        if (left := self.seconds_left) is not None:
            parts.append(f"{duration(left)} left")
        return ", ".join(parts)

    @property
    def seconds_left(self) -> float | None:
        """Seconds to the last step at the pace of this attempt, checkpoints included; None before two steps of it, and at its end."""
        if not self._first or self._known["step"] >= self._steps:
            return None
        steps = self._known["step"] - self._first["step"]
        seconds = self._known["time"] - self._first["time"]
        if steps <= 0 or not math.isfinite(seconds):
            return None
        return seconds / steps * (self._steps - self._known["step"])
