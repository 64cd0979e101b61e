"""Lines of LiBai: sequences/s of all devices."""

from __future__ import annotations

import re

from longcat.benchmark.logs.collected import Collected
from longcat.benchmark.logs.tool import NUMBER, Tool, number, rank_of

_STEP = re.compile(r"\biteration: *(\d+)/(\d+)")
_RATE = re.compile(rf"\btotal_throughput: *({NUMBER}) samples/s")
_SAMPLES = re.compile(rf"\bconsumed[_ ]samples: *({NUMBER})")


def _read(log: Collected, line_number: int, line: str) -> None:
    starts = [found.start() for found in _STEP.finditer(line)]
    for before, start, end in zip([0, *starts], starts, [*starts[1:], len(line)], strict=False):
        message = line[start:end]
        step, rate, samples = _STEP.match(message), _RATE.search(message), _SAMPLES.search(message)
        if step is None or rate is None:
            continue
        log.add(
            line_number,
            float(step[1]),
            {
                "total": float(step[2]),
                "sample_rate": number(rate[1]),
                "consumed_sequences": number(samples[1]) if samples else None,
            },
            rank=rank_of(line[max(before, start - 60) : start]),
        )


TOOL = Tool(
    kind="LiBai",
    example="iteration: 99/1000 consumed_samples: 6400 ... total_throughput: 185.18 samples/s",
    marks=("total_throughput:",),
    read=_read,
)
