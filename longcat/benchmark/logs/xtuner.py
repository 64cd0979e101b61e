"""Lines of XTuner: mmengine's with `tokens_per_sec`, and those of XTuner's own trainers with `text_tokens` and `tgs`."""

from __future__ import annotations

import re

from longcat.benchmark.logs.collected import Collected
from longcat.benchmark.logs.tool import NUMBER, Tool, number, rank_of

_OLD = re.compile(r"(?:Iter|Epoch)\(train\)\s*(?:\[\d+\])?\[ *(\d+)/(\d+)\]")
_NEW = re.compile(r"\bStep (\d+)(?:/(\d+))?\b")
_FIELDS = {
    "seconds": re.compile(rf"(?<![\w_])time: *({NUMBER})"),
    "device_rate": re.compile(rf"(?<![\w_])(?:tgs|tokens_per_sec): *({NUMBER})"),
    "text": re.compile(rf"(?<![\w_])text_tokens: *({NUMBER})"),
    "tokens": re.compile(rf"(?<![\w_])step_consumed_tokens: *({NUMBER})"),
    "tflops": re.compile(rf"(?<![\w_])tflops: *({NUMBER})"),
}


def _read(log: Collected, line_number: int, line: str) -> None:
    steps = list(_OLD.finditer(line)) or list(_NEW.finditer(line))
    starts = [found.start() for found in steps]
    for before, found, end in zip([0, *starts], steps, [*starts[1:], len(line)], strict=False):
        message = line[found.start() : end]
        values = {name: number(match[1]) for name, field in _FIELDS.items() if (match := field.search(message))}
        text = values.pop("text", None)
        if "seconds" not in values or not (text or "device_rate" in values or found.re is _OLD):
            continue
        if text and values["seconds"]:
            values["device_rate"] = text / values["seconds"]
        log.add(
            line_number,
            float(found[1]),
            {**values, "total": float(found[2]) if found[2] else None},
            rank=rank_of(line[max(before, found.start() - 200) : found.start()]),
        )


TOOL = Tool(
    kind="XTuner",
    example="Step 10/100 ... time: 1.2345 text_tokens: 32768 ... tgs: 26543.1",
    marks=("text_tokens:", "(train)", "tgs:"),
    read=_read,
    conventions=("megatron_2021", "megatron"),
    recomputation=True,
    padded=True,
)
