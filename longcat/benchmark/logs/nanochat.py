"""Lines of nanochat and what grew from it: tokens/s of all devices."""

from __future__ import annotations

import re

from longcat.benchmark.logs.collected import Collected
from longcat.benchmark.logs.tool import NUMBER, Tool, fraction, number, rank_of

_STEP = re.compile(r"\bstep *(\d+)(?:/(\d+))?\b[^|]*\|")
_RATE = re.compile(rf"\btok/sec: *({NUMBER})")
_SECONDS = re.compile(rf"\bdt: *({NUMBER}) *ms")
_MFU = re.compile(rf"\b(bf16_)?mfu: *({NUMBER})")
_PARAMETERS = re.compile(rf"Number of parameters: *({NUMBER})")
_BATCH = re.compile(rf"[Tt]otal batch size:? *({NUMBER})")
_ALL = re.compile(rf"Tokens / micro-batch: *({NUMBER})")
_ONE = re.compile(rf"Tokens / micro-batch / rank: *\d+ x (\d+) = ({NUMBER})")
H100_PEAK_TFLOPS = 989.0
"""What `mfu` is of on any device; the newer `bf16_mfu` is of the device's own peak."""


def _read(log: Collected, line_number: int, line: str) -> None:
    if "tok/sec" not in line:
        _fact(log, line_number, line)
        return
    starts = [found.start() for found in _STEP.finditer(line)]
    for before, start, end in zip([0, *starts], starts, [*starts[1:], len(line)], strict=False):
        message = line[start:end]
        step, rate, seconds, mfu = (pattern.search(message) for pattern in (_STEP, _RATE, _SECONDS, _MFU))
        if step is None or rate is None:
            continue
        milliseconds = number(seconds[1]) if seconds else None
        if mfu and not mfu[1]:
            log.state["peak"] = H100_PEAK_TFLOPS
        log.add(
            line_number,
            float(step[1]),
            {
                "total": float(step[2]) if step[2] else None,
                "rate": number(rate[1]),
                "seconds": milliseconds / 1e3 if milliseconds is not None else None,
                "mfu": fraction(number(mfu[2]), percent=True) if mfu else None,
            },
            rank=rank_of(line[max(before, start - 60) : start]),
        )


def _fact(log: Collected, line_number: int, line: str) -> None:
    if found := _ONE.search(line):
        log.fact("sequence length", float(found[1]), line_number)
        log.state["tokens of a rank"] = number(found[2])
    elif found := _ALL.search(line):
        alone = log.state.get("tokens of a rank")
        if alone:
            log.fact("devices", round((number(found[1]) or 0) / alone), line_number)
    elif found := _PARAMETERS.search(line):
        log.fact("parameters", number(found[1]) or 0, line_number)
    elif found := _BATCH.search(line):
        log.begins()
        log.fact("tokens in a step", number(found[1]) or 0, line_number)


TOOL = Tool(
    kind="nanochat",
    example="step 00010/20000 (0.05%) | loss: 3.2 | ... dt: 500.00ms | tok/sec: 1,048,576 | mfu: 45.0",
    marks=("tok/sec:",),
    facts=("Tokens / micro-batch", "otal batch size", "umber of parameters"),
    read=_read,
    conventions=("torchtitan",),
)
