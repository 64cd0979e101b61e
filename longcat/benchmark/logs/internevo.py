"""Lines of InternLM and InternEvo: `tgs`, the tokens of a device in a second, and a counter of tokens."""

from __future__ import annotations

import re

from longcat.benchmark.logs.collected import Collected
from longcat.benchmark.logs.tool import NUMBER, Tool, number, rank_of

_RATE = re.compile(rf"tgs \(tokens/gpu/second\)=({NUMBER})")
_STEP = re.compile(r"\bstep=(\d+)")
_TFLOPS = re.compile(rf"\btflops=({NUMBER})")
_CONSUMED = re.compile(r"\bnum_consumed_tokens=(\d+)")


def _read(log: Collected, line_number: int, line: str) -> None:
    starts = [found.start() for found in re.finditer(r"\btflops=", line)] or [0]
    for before, start, end in zip([0, *starts], starts, [*starts[1:], len(line)], strict=False):
        message = line[start:end]
        rate, step, tflops, consumed = (p.search(message) for p in (_RATE, _STEP, _TFLOPS, _CONSUMED))
        if rate is None:
            continue
        log.add(
            line_number,
            float(step[1]) if step else None,
            {
                "device_rate": number(rate[1]),
                "consumed": float(consumed[1]) if consumed else None,
                "tflops": number(tflops[1]) if tflops else None,
            },
            rank=rank_of(line[max(before, start - 200) : start]),
        )


TOOL = Tool(
    kind="InternEvo",
    example="tflops=190.1,step=10,loss=3.2,tgs (tokens/gpu/second)=4200.00",
    marks=("tgs (tokens/gpu/second)=",),
    read=_read,
    conventions=("megatron_2021",),
    recomputation=True,
)
