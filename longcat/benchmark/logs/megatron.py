"""Lines of Megatron-LM and its derivatives: MindSpeed, Megatron-DeepSpeed, BigScience, Megatron-SWIFT, and Ascend's FSDP2."""

from __future__ import annotations

import re
from array import array

from longcat.benchmark.logs.collected import Collected
from longcat.benchmark.logs.tool import Tool, fraction, number, only_rank, rank_of

_FIELDS = {
    "consumed samples": "consumed_sequences",
    "consumed tokens": "consumed",
    "elapsed time per iteration (ms)": "milliseconds",
    "elapsed time per iteration (s)": "seconds",
    "global batch size": "sequences",
    "gloabl batch size": "sequences",
    "throughput per GPU (TFLOP/s/GPU)": "tflops",
    "throughput (TFLOP/s/GPU)": "tflops",
    "TFLOPs": "tflops",
    "tokens/s": "rate",
    "tokens per second": "rate",
    "tokens per gpu per second (tgs)": "device_rate",
    "tokens/sec/gpu": "device_rate",
    "tokens per GPU (tokens/s/GPU)": "device_rate",
    "samples per second": "sample_rate",
    "mfu": "mfu",
    "actual seqlen": "length",
    "number of skipped iterations": "skipped",
}
_ITERATION = re.compile(r"\biteration +(\d+)/ *(\d+) *\|")
_ELAPSED = "elapsed time per iteration"
_WORLD = re.compile(r"(?:using world size: *|\bworld_size ?\.{3,} *)(\d{1,9})")
_ARGUMENT = re.compile(r"\b([a-z_0-9]+) \.{3,} *(\S+)")
_TUNING = {"is_instruction_dataset": ("true",), "stage": ("sft", "dpo", "orm", "prm", "simpo"), "finetune": ("true",)}


def _read(log: Collected, line_number: int, line: str) -> None:
    if _ELAPSED not in line:
        _fact(log, line_number, line)
        return
    if line.count(_ELAPSED) > 1:
        starts = [found.start() for found in _ITERATION.finditer(line)] or [0]
        for before, start, end in zip([0, *starts], starts, [*starts[1:], len(line)], strict=False):
            _message(log, line_number, line[max(before, start - 60) : start], line[start:end])
        return
    elapsed = line.find(_ELAPSED)
    start = max((found.start() for found in _ITERATION.finditer(line, 0, elapsed)), default=elapsed)
    _message(log, line_number, line[:start], line[start:])


def _message(log: Collected, line_number: int, before: str, text: str) -> None:
    """Read one message: the layouts of those before are tried first, since tools keep to a few."""
    layouts = log.state.setdefault("megatron", [])
    found, names = next(((found, names) for layout, names in layouts if (found := layout.match(text))), (None, ()))
    if found is None:
        layout, names = _layout(text)
        found = layout.match(text)
        layouts.insert(0, (layout, names))
        del layouts[4:]
    if found is None or not {"seconds", "milliseconds"} & set(names):
        return
    values = dict(zip(names, map(number, found.groups()), strict=True))
    milliseconds = values.pop("milliseconds", None)
    if milliseconds is not None:
        values["seconds"] = milliseconds / 1e3
    if "mfu" in values:
        values["mfu"] = fraction(values["mfu"], percent=True)
    if (length := values.pop("length", None)) is not None:
        log.fact("sequence length", length, line_number)
    if values.get("tflops") is not None and "TFLOPs" in text:
        log.state["recomputation"] = True  # Megatron-DeepSpeed's count
    skipped = values.pop("skipped", None)
    rank = rank_of(before) if before else None
    log.add(line_number, values.pop("step", None), values, rank=rank, skipped=bool(skipped))


def _read_many(log: Collected, first: int, piece: str) -> bool:
    """Read all messages of a piece, if they have one layout and no other process speaks."""
    layouts = log.state.get("megatron")
    expected = piece.count(_ELAPSED)
    if not layouts or not expected or any(mark in piece for mark in (*TOOL.facts, "\r")):
        return False
    layout, names = layouts[0]
    if {"device_rate", "mfu", "length"} & set(names) or "step" not in names:
        return False
    found = layout.findall(piece)
    alone, rank = only_rank(piece, expected)
    if len(found) != expected or not alone:
        return False
    try:
        columns = {
            name: array("d", map(float, texts)) for name, texts in zip(names, zip(*found, strict=True), strict=True)
        }
    except ValueError:
        return False
    if any(columns.pop("skipped", ())):
        return False
    if "milliseconds" in columns:
        columns["seconds"] = array("d", [time / 1e3 for time in columns.pop("milliseconds")])
    last = first + piece.count("\n", 0, piece.rfind(_ELAPSED))
    return log.add_many(last, columns.pop("step"), columns, rank)


def _layout(text: str) -> tuple[re.Pattern[str], tuple[str, ...]]:
    """Return a pattern for messages with the fields of this one, in its order, and what its groups are."""
    names: list[str] = []
    parts = []
    for field in text.rstrip("\n").split("|"):
        name, colon, _ = field.partition(":")
        known = _FIELDS.get(re.sub(r" ?\(", " (", name.strip()))
        if re.fullmatch(r" *iteration +\d+/ *\d+ *", field):
            parts.append(r" *iteration +(\d+)/ *(\d+) *")
            names += ["step", "total"]
        elif colon and known and known not in names:
            parts.append(re.escape(name) + r":([^|\n]*)")
            names.append(known)
        else:
            parts.append(re.escape(name) + r":[^|\n]*" if colon and not re.search(r"\d", name) else r"[^|\n]*")
    return re.compile(r"\|".join(parts)), tuple(names)


def _fact(log: Collected, line_number: int, line: str) -> None:
    if found := _WORLD.search(line):
        log.begins()
        log.fact("devices", float(found[1]), line_number)
        return
    if found := _ARGUMENT.search(line):
        name, value = found[1], found[2]
        if name == "seq_length" and value.isdigit():
            log.begins()
            log.fact("sequence length", float(value), line_number)
        elif name == "variable_seq_lengths" and value == "True":
            log.state["variable lengths"] = line_number
        elif name in _TUNING and value.lower() in _TUNING[name]:
            log.fine_tuning.append(f"line {line_number}: {name} {value}")
        elif name in ("lora_r", "lora_rank") and value.isdigit() and int(value) > 0:
            log.fine_tuning.append(f"line {line_number}: {name} {value}")
            log.state["lora"] = line_number


TOOL = Tool(
    kind="Megatron or MindSpeed",
    example="elapsed time per iteration (ms): 1234.5 | ... global batch size: 64",
    marks=(_ELAPSED,),
    facts=("world size", " ...."),
    read=_read,
    many=_read_many,
    conventions=("megatron", "megatron_2021", "palm", "torchtitan"),
)
