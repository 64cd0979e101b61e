"""What any tool may print of fine-tuning: the parameters that are trained, and adapters."""

from __future__ import annotations

import re

from longcat.benchmark.logs.collected import Collected
from longcat.benchmark.logs.throughput import LogContext

MARKS = ("trainable", "Trainable", "finetuning_type", "train_type", "tuner_type")
_PEFT = re.compile(r"trainable params: *([\d,]+) *\|\| *all params: *([\d,]+)")
_SWIFT = re.compile(r"([\d.]+)M Params \(([\d.]+)M Trainable")
_TRAINER = re.compile(r"Number of trainable parameters *= *([\d,]+)")
_TYPE = re.compile(r"\b(?:finetuning_type|train_type|tuner_type)['\"]?[ :=]+['\"]?(lora|qlora|dora|freeze|oft|full)\b")


def read(log: Collected, line_number: int, line: str) -> None:
    """Note what a line says of the parameters that are trained."""
    if found := _PEFT.search(line):
        trained, every = (float(number.replace(",", "")) for number in found.groups())
        _note(log, line_number, trained, every)
    elif found := _SWIFT.search(line):
        _note(log, line_number, float(found[2]) * 1e6, float(found[1]) * 1e6)
    elif found := _TRAINER.search(line):
        log.state["trained"] = (float(found[1].replace(",", "")), line_number)
    elif found := _TYPE.search(line):
        log.fine_tuning.append(f"line {line_number}: {found[1]}")
        if found[1] != "full":
            log.state["lora"] = line_number


def conclude(log: Collected, context: LogContext) -> None:
    """Take what a Trainer counts as trained for a part of the parameters only if it is far fewer than a device's share.

    Where parameters are sharded, it may count those of one device.
    """
    trained, line_number = log.state.get("trained", (0.0, 0))
    every = context.non_embedding_parameters
    if trained and every and "trainable parameters" not in log.facts and 2 * trained * context.devices < every:
        _note(log, line_number, trained, every)
    if "lora" in log.state and "trainable parameters" not in log.facts and context.trainable_parameters is None:
        log.doubts.append(
            f"not all parameters are trained (line {log.state['lora']}), and how many are is not said: give "
            "--trainable-parameters"
        )


def _note(log: Collected, line_number: int, trained: float, every: float) -> None:
    if trained < 0.95 * every:
        log.fact("trainable parameters", trained, line_number)
        log.fine_tuning.append(f"line {line_number}: {trained:,.0f} of {every:,.0f} parameters are trained")
        log.state["lora"] = line_number
