"""Processes that take longer than others for the same work, told by the medians of their step times.

What a process waits for others is no part of its time. On an accelerator whose collectives run beside the host that time is
not known to the host, so that all processes of a step look alike there.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.distributed as dist

from longcat.parallel.mesh import ProcessMesh

SLOWER = 1.5
"""Times the median of the processes with the same layers that a straggler takes, at least."""
RECORDS = 3
"""Records in a row in which it does."""


class Straggler(NamedTuple):
    """A process that is slower than others."""

    rank: int
    seconds: float
    """Of its own in a step."""
    usual_seconds: float
    """Of the processes with the same layers."""


class Stragglers:
    """Compares the step times of all processes."""

    def __init__(self, mesh: ProcessMesh) -> None:
        self._mesh = mesh
        grid = mesh.degrees.grid_of("pipeline")
        self._place = [grid.place(rank, "pipeline") for rank in range(mesh.processes)]
        self._seconds: list[float] = []
        self._slow = [0] * mesh.processes

    def note(self, seconds: float) -> None:
        """Note the time of this process' own in a step."""
        self._seconds.append(seconds)

    def compare(self) -> tuple[dict[str, float], list[Straggler]]:
        """Compare the medians of the steps noted since the last time. Collective.

        Returns:
            Metrics, and the processes that have become stragglers now.
        """
        if not self._seconds:
            return {}, []
        own = torch.tensor([statistics.median(self._seconds)], dtype=torch.float32, device=self._mesh.device)
        self._seconds = []
        everyone = own.new_empty(self._mesh.processes)
        dist.all_gather_into_tensor(everyone, own)
        return self.judge(everyone.tolist())

    def judge(self, seconds: Sequence[float]) -> tuple[dict[str, float], list[Straggler]]:
        """Judge the medians of all ranks, see `compare`."""
        places = sorted(set(self._place))
        of = {place: [s for s, at in zip(seconds, self._place, strict=True) if at == place] for place in places}
        usual = {place: statistics.median_low(values) for place, values in of.items()}
        found, ratios = [], []
        for rank, (own, place) in enumerate(zip(seconds, self._place, strict=True)):
            ratios.append(own / max(usual[place], 1e-9))
            self._slow[rank] = self._slow[rank] + 1 if ratios[-1] >= SLOWER else 0
            if self._slow[rank] == RECORDS:
                found.append(Straggler(rank, own, usual[place]))
        slowest = max(range(len(ratios)), key=lambda rank: ratios[rank])
        return {
            "perf/own_step_seconds": statistics.median(seconds),
            "perf/slowest_rank": float(slowest),
            "perf/slowest_rank_seconds": seconds[slowest],
        }, found
