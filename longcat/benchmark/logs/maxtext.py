"""Lines of MaxText: seconds, TFLOP/s and tokens/s of one device, and the tokens of a step that are no padding."""

from __future__ import annotations

import re

from longcat.benchmark.logs.collected import Collected
from longcat.benchmark.logs.tool import NUMBER, Tool, number, rank_of

_STEP = re.compile(
    rf"completed step: *(\d+), seconds: *({NUMBER}), TFLOP/s/device: *({NUMBER}), Tokens/s/device: *({NUMBER})"
    rf"(?:, total_weights: *({NUMBER}))?"
)


def _read(log: Collected, line_number: int, line: str) -> None:
    for found in _STEP.finditer(line):
        log.add(
            line_number,
            float(found[1]),
            {
                "seconds": number(found[2]),
                "tflops": number(found[3]),
                "device_rate": number(found[4]),
                "weights": number(found[5]) if found[5] else None,
            },
            rank=rank_of(line[max(0, found.start() - 60) : found.start()]),
        )


TOOL = Tool(
    kind="MaxText",
    example="completed step: 10, seconds: 1.234, TFLOP/s/device: 180.1, Tokens/s/device: 4200.1",
    marks=("completed step:",),
    read=_read,
    conventions=("megatron", "longcat_full_attention"),
)
