"""Lines of NeMo: Lightning's progress bar, and the lines of NeMo 2."""

from __future__ import annotations

import re

from longcat.benchmark.logs.collected import Collected
from longcat.benchmark.logs.tool import NUMBER, Tool, number, rank_of

_SECONDS = re.compile(rf"train_step_timing in s[=:] *({NUMBER})")
_STEP = re.compile(rf"\bglobal_step[=:] *({NUMBER})")
_ITERATION = re.compile(r"\biteration (\d+)/(\d+)")
_BATCH = re.compile(rf"\bglobal_batch_size[=:] *({NUMBER})")
_SAMPLES = re.compile(rf"\bconsumed_samples[=:] *({NUMBER})")
_TFLOPS = re.compile(rf"\b(?:TFLOPS_per_GPU|tflops_per_sec_per_gpu)[=:] *({NUMBER})")
_MESSAGE = re.compile(r"Training epoch \d+|Epoch \d+:")


def _read(log: Collected, line_number: int, line: str) -> None:
    starts = [found.start() for found in _MESSAGE.finditer(line)] or [0]
    for before, start, end in zip([0, *starts], starts, [*starts[1:], len(line)], strict=False):
        message = line[start:end]
        seconds = _SECONDS.search(message)
        if seconds is None or "Validat" in message:
            continue
        found = {
            name: number(match[1])
            for name, pattern in (
                ("step", _STEP),
                ("sequences", _BATCH),
                ("consumed_sequences", _SAMPLES),
                ("tflops", _TFLOPS),
            )
            if (match := pattern.search(message))
        }
        iteration = _ITERATION.search(message)
        step = found.pop("step", None)
        log.add(
            line_number,
            float(iteration[1]) if step is None and iteration else step,
            {**found, "seconds": number(seconds[1]), "total": float(iteration[2]) if iteration else None},
            rank=rank_of(line[max(before, start - 60) : start]),
        )


TOOL = Tool(
    kind="NeMo",
    example="global_batch_size: 256 | global_step: 10 | ... | train_step_timing in s: 3.21",
    marks=("train_step_timing in s",),
    read=_read,
    conventions=("megatron_2021", "megatron"),
)
