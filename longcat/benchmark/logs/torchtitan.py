"""Lines of torchtitan: `tps` (`wps` until 2024) of one device."""

from __future__ import annotations

import re

from longcat.benchmark.logs.collected import Collected
from longcat.benchmark.logs.tool import NUMBER, Tool, fraction, number, rank_of

_STEP = re.compile(r"\bstep: *(\d+)\b")
_RATE = re.compile(rf"\b(?:tps|wps): *({NUMBER})")
_TFLOPS = re.compile(rf"\btflops: *({NUMBER})")
_MFU = re.compile(rf"\bmfu: *({NUMBER})%")
_BATCH = re.compile(r"\bglobal batch size (\d+)\b.*\bsequence length (\d+)")
_TOKENS = re.compile(r"\b(\d+) tokens per train step")
_PARAMETERS = re.compile(r"\bsize: *([\d,]+) total parameters")
_PEAK = re.compile(r"Peak FLOPS used for computing MFU: *([\d.e+]+)")


def _read(log: Collected, line_number: int, line: str) -> None:
    if found := _PEAK.search(line):
        log.state["peak"] = float(found[1]) / 1e12
        log.begins()
        return
    if found := _BATCH.search(line):
        log.fact("sequence length", float(found[2]), line_number)
        return
    if found := _PARAMETERS.search(line):
        log.fact("parameters", number(found[1]) or 0, line_number)
        return
    if found := _TOKENS.search(line):
        log.fact("tokens in a step", float(found[1]), line_number)
        return
    starts = [found.start() for found in _STEP.finditer(line)]
    for before, start, end in zip([0, *starts], starts, [*starts[1:], len(line)], strict=False):
        if line[:start].rstrip().endswith("validate"):
            continue
        message = line[start:end]
        rate, step = _RATE.search(message), _STEP.match(message)
        if rate is None or step is None:
            continue
        tflops, mfu = _TFLOPS.search(message), _MFU.search(message)
        log.add(
            line_number,
            float(step[1]),
            {
                "device_rate": number(rate[1]),
                "tflops": number(tflops[1]) if tflops else None,
                "mfu": fraction(number(mfu[1]), percent=True) if mfu else None,
            },
            rank=rank_of(line[max(before, start - 200) : start]),
        )


TOOL = Tool(
    kind="torchtitan",
    example="step: 10 ... tps: 3,456",
    marks=("tps:", "wps:"),
    facts=("Peak FLOPS used", "Trainer is initialized with", "total parameters"),
    read=_read,
    conventions=("torchtitan",),
)
