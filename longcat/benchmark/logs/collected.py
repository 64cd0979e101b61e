"""The readings of one log: columns of numbers, where a run was restarted, and what the log says of the run as a whole."""

from __future__ import annotations

import itertools
import math
from array import array
from collections.abc import Iterable
from typing import Any

from longcat.errors import DataError

_NAN = math.nan
_POSITIVE = {"seconds": "a step that took {:g} s", "rate": "{:g} tokens/s", "sample_rate": "{:g} sequences/s"}
_COARSE = ("tflops", "mfu", "steps", "sequences", "counted_sequences")
"""Columns of four bytes a reading; with the others of eight, a log of 1 GB takes less than 200 MB of memory."""


class Collected:
    """What was read from one log so far.

    A column has one value a reading, not a number where the reading lacks it:

    * `seconds` of one step; `sequences` and `tokens` of one step over all devices, as the line states them;
    * `counted`: tokens of one step by the difference of a counter, `counted_sequences` likewise;
    * `rate`: tokens/s over all devices; `sample_rate`: sequences/s; `weights`: tokens of a step that are no padding;
    * `time` and `amount`: seconds and tokens of which it is not known yet whether they are of a step or since the start;
    * `steps` since the reading before; `tflops` of one device and `mfu`, as the log tells them.
    """

    def __init__(self, where: str, devices: int) -> None:
        self.where = where
        self._devices = devices
        self.columns: dict[str, array[float]] = {}
        self.starts: list[int] = []
        """Readings with which a run began or was continued."""
        self.start_lines: list[int] = []
        self.count = 0
        self.facts: dict[str, dict[float, int]] = {}
        """Line of each number that the log states of the run, by name."""
        self.rate_of_device = False
        """Whether the tool tells tokens/s of one device; the column then has that times the devices of the command."""
        self.fine_tuning: list[str] = []
        self.final: dict[str, float] = {}
        """Sums over the whole run, as a Trainer logs them at its end."""
        self.notes: list[str] = []
        self.doubts: list[str] = []
        self.state: dict[str, Any] = {}
        """What readers remember from line to line."""
        self.mean_tokens: float | None = None
        """Tokens of a step since the start by the first reading's counter, if no batch has grown meanwhile."""
        self.first_line = 0
        """Line of the first reading."""
        self._skipped: list[int] = []
        self._line = 0
        self._first_step: float | None = None
        self._step: float | None = None
        self._ranks: dict[int | None, float] = {}
        self._counters: dict[str, float | None] = {}
        self._signature: dict[str, float | None] = {}
        self._steady_batch = True
        self._begins = False

    def begins(self) -> None:
        """Say that a line was read which tools print at the start: the next reading is the first after it."""
        self._begins = self.count > 0

    def fact(self, name: str, number: float, line: int) -> None:
        """Note a number that the log states of the whole run."""
        self.facts.setdefault(name, {}).setdefault(number, line)

    def stated(self, name: str) -> float | None:
        """Return the last number that the log states under a name."""
        return next(reversed(self.facts[name])) if name in self.facts else None

    def column(self, name: str) -> array[float] | None:
        """Return a column without the readings in which steps were skipped; None if no reading has it."""
        found = self.columns.get(name)
        if found is None or not self._skipped or len(self._skipped) == self.count:
            return found
        for index in self._skipped:
            found[index] = _NAN
        return found

    def add(
        self,
        line: int,
        step: float | None,
        values: dict[str, float | None],
        *,
        rank: int | None = None,
        skipped: bool = False,
    ) -> None:
        """Add a reading; another rank's reading of the same step is no second one.

        Args:
            line: number of the line, for messages.
            step: number of the step; None if the log does not number them.
            values: numbers by column; besides, `total` (steps that the run is to have), `clock` (seconds since the run
                or the process began), `consumed` and `consumed_sequences` (tokens and sequences since the start of the
                run), and `device_rate` (tokens/s of one device).
            rank: process that printed the line, if it says so.
            skipped: whether an update was skipped.

        Raises:
            DataError: a number cannot be, or the reading is of another run than those before.
        """
        total, clock = values.pop("total", None), values.pop("clock", None)
        consumed, consumed_sequences = values.pop("consumed", None), values.pop("consumed_sequences", None)
        for name, message in _POSITIVE.items():
            number = values.get(name)
            if number is not None and not 0 < number < math.inf:
                raise DataError(f"{self.where}, line {line}: the log reports {message.format(number)}")
        if (device_rate := values.pop("device_rate", None)) is not None:
            self._of_device(line, device_rate, values)
        new = self._new(step, rank, clock)
        if new is None:
            return
        if new:
            self._restart(line, step, total, values.get("sequences"))
        elif self._steady_batch and (batch := values.get("sequences")) is not None:
            self._steady_batch = batch == self._signature["sequences in a step"]
        steps = 1.0 if step is None or self._step is None else step - self._step
        first = new or self.count == 0
        elapsed = self._difference("clock", clock, first, steps)
        if values.get("seconds") is None and elapsed is not None and elapsed > 0:
            values["seconds"] = elapsed
        counted = self._difference("consumed", consumed, first, steps, 0.0 if step == 1 else None)
        if counted is not None and counted > 0:
            values["counted"] = counted
        if first and step and consumed and consumed_sequences and values.get("sequences"):
            even = abs(consumed_sequences / step / (values["sequences"] or 1) - 1) < 0.01
            self.mean_tokens = consumed / step if even else None
        sequences = self._difference("consumed_sequences", consumed_sequences, first, steps)
        if sequences is not None and sequences > 0:
            values["counted_sequences"] = sequences
        if "time" in values or "amount" in values:
            values["steps"] = _NAN if first else steps
        if self.count == 0:
            self.first_line = line
        self._append(values)
        if skipped:
            self._skipped.append(self.count)
        self.count += 1
        self._step, self._line = step, line
        if step is not None:
            self._ranks[rank] = step

    def add_many(self, line: int, steps: array[float], values: dict[str, array[float]], rank: int | None) -> bool:
        """Add readings that plainly continue the run; return False, and add none, where a closer look is needed.

        Args:
            line: number of the last one's line.
            steps: their steps.
            values: as in `add`, one number each.
            rank: the process that printed them all, if it says so.
        """
        if self.count == 0 or self._begins or self._step is None or steps[0] <= self._step:
            return False
        grown = [after - before for before, after in itertools.pairwise([self._step, *steps])]
        total, batch = values.pop("total", None), values.get("sequences")
        if min(grown) <= 0 or self._ranks.keys() - {rank}:
            return False
        for name, column in values.items():
            if name in _POSITIVE and not (min(column) > 0 and max(column) < math.inf and sum(column) < math.inf):
                return False
        if total is not None and (min(total) != max(total) or total[0] != self._signature.get("steps in all")):
            return False
        if self._steady_batch and batch is not None:
            self._steady_batch = min(batch) == max(batch) == self._signature.get("sequences in a step")
        for name, column_name in (("consumed", "counted"), ("consumed_sequences", "counted_sequences")):
            counter = values.pop(name, None)
            if counter is not None:
                before = self._counters.get(name)
                self._counters[name] = counter[-1]
                numbers = [math.nan if before is None else before, *counter]
                growth = [(b - a) / n for (a, b), n in zip(itertools.pairwise(numbers), grown, strict=True)]
                values[column_name] = array("d", [number if number > 0 else _NAN for number in growth])
        for name, column in values.items():
            known = self.columns.setdefault(name, array("f" if name in _COARSE else "d", [_NAN]) * self.count)
            known.extend(column if known.typecode == column.typecode else array(known.typecode, column))
        self.count += len(steps)
        for known in self.columns.values():
            if len(known) < self.count:
                known.extend(array(known.typecode, [_NAN]) * (self.count - len(known)))
        self._step, self._line = steps[-1], line
        self._ranks[rank] = self._step
        return True

    def _of_device(self, line: int, device_rate: float, values: dict[str, float | None]) -> None:
        """Take tokens/s of one device; together with those of all, they tell the number of devices."""
        if not 0 < device_rate < math.inf:
            raise DataError(f"{self.where}, line {line}: the log reports {device_rate:g} tokens/s")
        rate = values.get("rate")
        if rate is None:
            values["rate"] = device_rate * self._devices
            self.rate_of_device = True
        elif abs(rate / device_rate - round(rate / device_rate)) < 0.02 and "devices" not in self.facts:
            self.fact("devices", round(rate / device_rate), line)

    def _new(self, step: float | None, rank: int | None, clock: float | None) -> bool | None:
        """Return whether a run begins with this reading; None if another process has reported the step already."""
        if self.count == 0:
            return True
        if self._begins:
            return True
        if step is None or self._step is None or step > self._step:
            before = self._counters.get("clock")
            return clock is not None and before is not None and clock < before
        if rank is None or rank not in self._ranks:
            late = step == self._step or (rank is not None and step == self._first_step)
        else:
            late = step > self._ranks[rank]
        if late:
            self._ranks[rank] = step
            return None
        return True

    def _restart(self, line: int, step: float | None, total: float | None, sequences: float | None) -> None:
        now = {"steps in all": total, "sequences in a step": sequences}
        if self.count and step is not None and self._step is not None and step <= self._step:
            for what, number in now.items():
                before = self._signature.get(what)
                steady = what != "sequences in a step" or self._steady_batch
                if steady and number is not None and before is not None and number != before:
                    raise DataError(
                        f"{self.where}: lines {self._line} and {line} are of two runs: step {self._step:,.0f} is "
                        f"followed by step {step:,.0f}, and {before:,.0f} {what} by {number:,.0f}; keep the lines of one"
                    )
        self.starts.append(self.count)
        self.start_lines.append(line)
        self._signature, self._steady_batch = now, True
        self._first_step, self._step = step, None
        self._ranks, self._counters = {}, {}
        self._begins = False

    def _difference(
        self, name: str, value: float | None, first: bool, steps: float, before: float | None = None
    ) -> float | None:
        """Return the growth of a counter in one step; None for the first reading of a run."""
        last = before if first else self._counters.get(name)
        self._counters[name] = value
        if value is None or last is None:
            return None
        return (value - last) / steps

    def _append(self, values: dict[str, float | None]) -> None:
        columns = self.columns
        for name, value in values.items():
            if value is None:
                continue
            column = columns.get(name)
            if column is None:
                column = columns[name] = array("f" if name in _COARSE else "d", [_NAN]) * self.count
            column.append(value)
        for column in columns.values():
            if len(column) == self.count:
                column.append(_NAN)

    def known(self, names: Iterable[str]) -> bool:
        """Return whether any of the columns has a value."""
        return any(name in self.columns for name in names)
