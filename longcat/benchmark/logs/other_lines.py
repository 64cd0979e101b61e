"""Lines of tools that have no reader of their own but print tokens/s by a name, and DeepSpeed's timer."""

from __future__ import annotations

import re

from longcat.benchmark.logs.collected import Collected
from longcat.benchmark.logs.keys import meaning
from longcat.benchmark.logs.tool import NUMBER, Tool, fraction, number, rank_of

_PAIR = re.compile(
    rf"(?P<name>[A-Za-z_][\w/]*(?: per [\w/]+)*(?: ?\([\w/]+\))?) ?[:=] ?\+?(?P<value>{NUMBER})(?P<unit>\s?(?:ms|s\b|%|[kKMB]\b)?)"
)
_UNIT = re.compile(
    rf"(?P<value>{NUMBER}) ?(?P<name>(?:tokens?|toks?)(?:/| per )(?:s|sec|second)\b(?:/(?:gpu|npu|device))?)",
    re.IGNORECASE,
)
_STEP = re.compile(r"\b(?:step|iter|iteration|global_step)s?\b[ :=#\[]*(\d+)(?:\s*/\s*(\d+))?", re.IGNORECASE)
_SAMPLES = re.compile(rf"global_step=(\d+), .*?CurrSamplesPerSec=({NUMBER})")
_EVALUATION = re.compile(r"\b(?:eval\w*|valid\w*|test|generat\w*|decod\w*|prefill|infer\w*)\b", re.IGNORECASE)


def _read(log: Collected, line_number: int, line: str) -> None:
    if _EVALUATION.search(line):
        return
    values: dict[str, float | None] = {}
    for pattern in (_PAIR, _UNIT):
        for found in pattern.finditer(line):
            known, value = meaning(found["name"]), number(found["value"])
            if known is None or value is None or known[0] not in ("rate", "device_rate", "tflops", "mfu"):
                continue
            scale = {"k": 1e3, "K": 1e3, "M": 1e6}.get(found["unit"].strip(), 1.0) if pattern is _PAIR else 1.0
            if known[0] == "mfu":
                values["mfu"] = fraction(value, percent=True if pattern is _PAIR and "%" in found["unit"] else None)
            else:
                values.setdefault(known[0], value * known[1] * scale)
                if found["name"].lower() in ("tps", "wps"):
                    log.state["bare"] = found["name"]
    if "rate" in values or "device_rate" in values:
        step = _STEP.search(line)
        log.add(
            line_number,
            float(step[1]) if step else None,
            {**values, "total": float(step[2]) if step and step[2] else None},
            rank=rank_of(line[: step.start()]) if step else None,
        )


def _read_deepspeed(log: Collected, line_number: int, line: str) -> None:
    for found in _SAMPLES.finditer(line):
        rate = number(found[2])
        if rate:
            log.add(line_number, float(found[1]), {"sample_rate": rate}, rank=rank_of(line[: found.start()]))


TOOL = Tool(
    kind="unknown tool",
    example="tokens/s: 12,345",
    marks=("tok", "Tok", "tgs", "tps", "wps", "TGS", "TPS"),
    read=_read,
)
DEEPSPEED = Tool(
    kind="DeepSpeed",
    example="global_step=10, RunningAvgSamplesPerSec=58.7, CurrSamplesPerSec=61.3",
    marks=("CurrSamplesPerSec=",),
    read=_read_deepspeed,
    padded=True,
)
