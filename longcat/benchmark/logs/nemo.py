"""Lines of NeMo: Lightning's progress bar, and the lines of NeMo 2."""

from __future__ import annotations

import re

from longcat.benchmark.logs.collected import Collected
from longcat.benchmark.logs.tool import NUMBER, Tool, number, rank_of

_FIELDS = {
    "seconds": re.compile(rf"train_step_timing in s[=:] *({NUMBER})"),
    "step": re.compile(rf"\bglobal_step[=:] *({NUMBER})"),
    "sequences": re.compile(rf"\bglobal_batch_size[=:] *({NUMBER})"),
    "consumed_sequences": re.compile(rf"\bconsumed_samples[=:] *({NUMBER})"),
    "tflops": re.compile(rf"\b(?:TFLOPS_per_GPU|tflops_per_sec_per_gpu)[=:] *({NUMBER})"),
}
_ITERATION = re.compile(r"\biteration (\d+)/(\d+)")
_BAR = re.compile(r"\b(\d+)/(\d+) \[")
_MESSAGE = re.compile(r"Training epoch \d+|Epoch \d+:")


def _read(log: Collected, line_number: int, line: str) -> None:
    starts = [found.start() for found in _MESSAGE.finditer(line)] or [0]
    for before, start, end in zip([0, *starts], starts, [*starts[1:], len(line)], strict=False):
        message = line[start:end]
        texts = {name: found[1] for name, field in _FIELDS.items() if (found := field.search(message))}
        if "seconds" not in texts or "Validat" in message:
            continue
        values = {name: number(text) for name, text in texts.items()}
        iteration, bar = _ITERATION.search(message), _BAR.search(message)
        step, consumed = values.pop("step", None), values.get("consumed_sequences")
        if iteration:
            values["total"] = float(iteration[2])
            step = float(iteration[1]) if step is None else step
        if "e" in texts.get("step", "") + texts.get("consumed_sequences", "") and bar:
            step = float(bar[1])  # the bar shortens large numbers to three digits
            values["sequences"] = round(consumed / step) if consumed and step else None
            values["consumed_sequences"] = None
        elif log.count == 0 and consumed and step is not None and "sequences" not in values:
            batches = [consumed / steps for steps in (step + 1, step) if steps and (consumed / steps).is_integer()]
            if batches:
                log.fact("sequences in a step", batches[0], line_number)
        log.add(line_number, step, values, rank=rank_of(line[max(before, start - 60) : start]))


TOOL = Tool(
    kind="NeMo",
    example="global_batch_size: 256 | global_step: 10 | ... | train_step_timing in s: 3.21",
    marks=("train_step_timing in s",),
    read=_read,
    conventions=("megatron_2021", "megatron"),
)
