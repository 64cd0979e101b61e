"""Lines of nanoGPT: the time of each iteration; the tokens are in the header."""

from __future__ import annotations

import re

from longcat.benchmark.logs.collected import Collected
from longcat.benchmark.logs.tool import NUMBER, Tool, fraction, number, rank_of

_ITERATION = re.compile(rf"\biter (\d+): loss \S{{1,99}}, time ({NUMBER})ms(?:, mfu ({NUMBER})%)?")
_PARAMETERS = re.compile(rf"number of parameters: *({NUMBER})M")
_TOKENS = re.compile(rf"tokens per iteration will be: *({NUMBER})")


def _read(log: Collected, line_number: int, line: str) -> None:
    if found := _TOKENS.search(line):
        log.begins()
        log.fact("tokens in a step", number(found[1]) or 0, line_number)
        return
    if found := _PARAMETERS.search(line):
        log.fact("parameters", 1e6 * (number(found[1]) or 0), line_number)
        return
    for found in _ITERATION.finditer(line):
        milliseconds = number(found[2])
        log.add(
            line_number,
            float(found[1]),
            {
                "seconds": milliseconds / 1e3 if milliseconds is not None else None,
                "mfu": fraction(number(found[3]), percent=True) if found[3] else None,
            },
            rank=rank_of(line[max(0, found.start() - 60) : found.start()]),
        )


TOOL = Tool(
    kind="nanoGPT",
    example="iter 10: loss 3.2101, time 123.45ms",
    marks=(": loss ",),
    facts=("tokens per iteration will be", "number of parameters"),
    read=_read,
    conventions=("palm",),
    peak_tflops=312.0,
)
