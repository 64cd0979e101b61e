"""What the names of logged numbers mean, whichever tool logs them: JSON, CSV, wandb, event files and printed dicts."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any

from longcat.benchmark.logs.collected import Collected
from longcat.benchmark.logs.tool import fraction, number
from longcat.errors import DataError

NAMES: dict[str, tuple[str, ...]] = {
    "step": (
        "step", "_step", "steps", "global_step", "iteration", "iter", "current_steps", "global_step/max_steps",
        "steps[global_step/max_steps]", "optimizer_step",
    ),
    "rank": ("rank", "global_rank"),
    "total": ("total_steps", "max_steps", "train_iters"),
    "seconds": (
        "seconds", "dt", "iteration-time", "step_time", "iter_time", "iteration_time", "batch_time", "time_per_step",
        "time_per_iteration", "seconds_per_step", "sec_per_step", "step_time_s", "step_time_seconds", "step_seconds", "step_time_sec",
        "train_step_timing in s", "time_metrics/end_to_end(s)", "end_to_end(s)", "elapsed_time_per_iteration",
    ),
    "milliseconds": ("dt_ms", "step_time_ms", "iter_time_ms", "step_ms", "time_ms", "elapsed_time_per_iteration_ms"),
    "clock": ("train_runtime", "elapsed", "elapsed_time", "elapsed_s", "elapsed_seconds", "_runtime", "wall_time", "runtime", "_timestamp", "timestamp"),
    "time": ("time", "time_s"),
    "consumed": (
        "num_input_tokens_seen", "total_tokens", "consumed_tokens", "consumed tokens", "tokens_seen", "total_tokens_seen",
        "total_consumed_tokens", "num_consumed_tokens", "num_tokens", "n_tokens", "processed_tokens", "tokens_processed",
        "cumulative_tokens", "time/token", "n_tokens_seen", "num_tokens_seen", "total_train_tokens", "train_tokens",
    ),
    "amount": ("tokens",),
    "tokens": (
        "tokens_per_step", "batch_tokens", "step_tokens", "tokens_per_batch", "tokens_per_iteration", "step_consumed_tokens",
        "tokens_in_batch", "num_tokens_in_batch", "global_batch_tokens",
    ),
    "weights": ("total_weights",),
    "consumed_sequences": ("consumed_samples", "consumed samples", "consumed_train_samples", "samples_seen", "time/sample"),
    "sequences": ("global_batch_size", "global batch size", "batch-size", "train_batch_size_global"),
    "devices": ("world-size", "world_size", "num_gpus", "num_devices", "n_gpus"),
    "rate": ("effective_tokens_per_second", "global/items_per_sec", "global|items_per_sec"),
    "device_rate": (
        "device/items_per_sec", "device|items_per_sec", "tps", "wps", "tgs", "throughput(tps)", "tgs (tokens/gpu/second)", "effective_tokens_per_sec",
        "train_tokens_per_second",
    ),
    "sample_rate": ("samples_per_second", "samples_per_sec", "throughput/samples_per_sec", "total_throughput"),
    "steps_per_second": ("train_speed(iter/s)",),
    "seconds_per_step": ("train_speed(s/it)",),
    "mfu": ("mfu", "bf16_mfu"),
    "throughput": ("throughput",),
    "train_samples_per_second": ("train_samples_per_second",),
    "train_steps_per_second": ("train_steps_per_second",),
    "total_flos": ("total_flos",),
    "of a step": ("per_device_tflops", "per_device_tokens"),
}  # fmt: skip
"""Names by meaning; before any of them there may be others with slashes, such as `train/`."""
_UNCLEAN = re.compile(r"[^-/\w.]")
"""Characters that TensorBoard's writers replace in a name."""
_BY_NAME = {_UNCLEAN.sub("_", name): role for role, names in NAMES.items() for name in names} | {
    name: role for role, names in NAMES.items() for name in names
}
_CLOCKS = {name: rank for rank, name in enumerate(NAMES["clock"])}
_OTHERS = {
    "eval",
    "val",
    "valid",
    "validation",
    "test",
    "predict",
    "generate",
    "generation",
    "vs",
    "replica",
    "max",
    "min",
    "hfu",
}
_DEVICE = {
    "gpu",
    "gpus",
    "device",
    "devices",
    "npu",
    "npus",
    "card",
    "chip",
    "rank",
    "die",
    "worker",
    "tpu",
    "accelerator",
}
_TOKEN, _SECOND, _BETWEEN = (
    {"token", "tokens", "tok", "toks"},
    {"s", "sec", "secs", "second", "seconds"},
    {"per", "p", "in"},
)
_READING = (
    "seconds", "clock", "time", "consumed", "amount", "tokens", "weights", "rate", "sample_rate", "tflops", "mfu",
    "consumed_sequences",
)  # fmt: skip


@lru_cache(maxsize=4096)
def meaning(name: str) -> tuple[str, float] | None:
    """Return what a number of this name is, and what to multiply it by; None if it says nothing of the speed.

    Rates are told apart by their words: tokens (or tok) per second (sec, s), of one device if a word such as gpu,
    device or npu is among them.
    """
    low = name.strip().lower()
    if " - " in low:  # wandb's export puts the run in front
        low = low.rsplit(" - ", 1)[1]
    if role := _BY_NAME.get(low):
        return role, 1.0
    words = [word for word in re.split(r"[^a-z0-9]+", low) if word]
    if _OTHERS & set(words):
        return None
    parts = re.split(r"[/|]", low)
    for start in range(len(parts)):
        for mark in ("/", "|"):
            if role := _BY_NAME.get(mark.join(parts[start:])):
                if role == "sample_rate" and _DEVICE & set(words):
                    return None
                return role, 1.0
    if "mfu" in words:
        return "mfu", 0.01 if "%" in low else 1.0
    if {"tflops", "tflop"} & set(words) and "total" not in words:
        return "tflops", 1.0
    if "flops" in words and _SECOND & set(words) and _DEVICE & set(words):
        return "tflops", 1e-12
    place = next((index for index, word in enumerate(words) if word in _TOKEN), None)
    if place is None:
        return None
    after = words[place + 1 :]
    seconds = [index for index, word in enumerate(after) if word in _SECOND]
    if not seconds or not set(after) <= _SECOND | _BETWEEN | _DEVICE:
        return None
    of_device = bool(_DEVICE & set(words)) or "p" in after[seconds[0] + 1 :]
    return "device_rate" if of_device else "rate", 1.0


def kind_of(names: Iterable[str], otherwise: str) -> str:
    """Return the tool that logs these names."""
    known = {name.lower() for name in names}
    for kind, signs in _KINDS.items():
        if any(sign in name for one in signs for sign in (one, _UNCLEAN.sub("_", one)) for name in known):
            return kind
    return otherwise


_KINDS = {
    "longcat": ("perf/tokens_per_second",),
    "llm-foundry": ("throughput/device/", "throughput/tokens_per_sec", "throughput/batches_per_sec"),
    "ms-swift": ("train_speed(",),
    "LLaMA-Factory": ("current_steps", "effective_tokens_per_sec"),
    "XTuner": ("runtime_info/",),
    "NeMo": ("train_step_timing in s",),
    "Megatron or MindSpeed": ("iteration-time",),
    "torchtitan": ("throughput(tps)",),
    "MaxText": ("perf/per_device_", "perf/step_time_seconds"),
    "LiBai": ("total_throughput",),
    "InternEvo": ("tgs (tokens/gpu/second)",),
    "nanochat": ("train/tok_per_sec", "total_training_flops"),
    "transformers' Trainer": ("train_runtime", "train_samples_per_second", "num_input_tokens_seen", "log_history"),
}
CONVENTIONS = {
    "longcat": ("longcat",),
    "llm-foundry": ("llm_foundry",),
    "XTuner": ("megatron",),
    "NeMo": ("megatron_2021", "megatron"),
    "Megatron or MindSpeed": ("megatron", "megatron_2021"),
    "ms-swift": ("megatron", "megatron_2021"),
    "torchtitan": ("torchtitan",),
    "nanochat": ("torchtitan",),
    "MaxText": ("megatron", "longcat_full_attention"),
    "InternEvo": ("megatron_2021",),
}
"""Conventions in which a tool counts the FLOP of what it logs under names."""
PADDED = {"ms-swift", "LLaMA-Factory", "transformers' Trainer", "XTuner"}
"""Tools that mostly tune models further, on sequences of their own length or padded."""


def seconds_of(value: Any) -> float | None:
    """Read a duration: a number of seconds, `1:02:03`, `1 day, 1:02:03` or `1h 2m 3s`; None if it is none."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    text = str(value).strip()
    if found := re.fullmatch(r"(?:(\d+) days?, )?(?:(\d+):)?(\d+):(\d+(?:\.\d+)?)", text):
        days, hours, minutes, seconds = (float(part or 0) for part in found.groups())
        return ((days * 24 + hours) * 60 + minutes) * 60 + seconds
    if re.fullmatch(r"(?:\d+[dhms]\s*)+", text):
        units = {"d": 86400, "h": 3600, "m": 60, "s": 1}
        return float(sum(int(amount) * units[unit] for amount, unit in re.findall(r"(\d+)([dhms])", text)))
    return number(text)


def flat(record: Mapping[str, Any], before: str = "", depth: int = 3) -> dict[str, Any]:
    """Return a record with the names of nested ones joined by slashes."""
    found: dict[str, Any] = {}
    for name, value in record.items():
        if isinstance(value, Mapping):
            if depth:
                found.update(flat(value, f"{before}{name}/", depth - 1))
        else:
            found[f"{before}{name}"] = value
    return found


def add_record(log: Collected, line: int, record: Mapping[str, Any]) -> bool:
    """Add the reading of one record of names and numbers; return whether it says anything of the speed.

    Raises:
        DataError: a number cannot be.
    """
    values: dict[str, float] = {}
    clock_rank = len(_CLOCKS)
    for name, value in record.items():
        known = meaning(name) if isinstance(name, str) else None
        if known is None or value is None or value == "" or isinstance(value, bool | list | dict):
            continue
        role, scale = known
        if role == "step" and isinstance(value, str) and "/" in value:
            step, _, total = value.partition("/")
            values["step"], values["total"] = number(step) or 0.0, number(total) or 0.0
            continue
        if role == "clock":
            rank = _CLOCKS.get(name.lower().rsplit("/", 1)[-1], clock_rank)
            if rank < clock_rank and (found := seconds_of(value)) is not None and 0 <= found < math.inf:
                values["clock"], clock_rank = found, rank
            continue
        found = number(value) if isinstance(value, str) else value
        if isinstance(found, int | float) and not math.isnan(found) and role not in values:
            values[role] = found * scale
    return _add(log, line, values, {name.lower().rsplit("/", 1)[-1] for name in record})


def _add(log: Collected, line: int, values: dict[str, float], names: set[str]) -> bool:
    if (devices := values.pop("devices", None)) is not None:
        log.fact("devices", devices, line)
    if (
        "train_runtime" in names
        and {"train_samples_per_second", "train_steps_per_second", "total_flos"} & values.keys()
    ):
        _final(log, line, values)
        return True
    for name in ("train_samples_per_second", "train_steps_per_second", "total_flos"):
        values.pop(name, None)
    step = values.get("step")
    per_second, per_step = values.pop("steps_per_second", None), values.pop("seconds_per_step", None)
    if step and (per_second or per_step):
        values["clock"] = step / per_second if per_second else step * (per_step or 0)
    if (milliseconds := values.pop("milliseconds", None)) is not None:
        values.setdefault("seconds", milliseconds / 1e3)
    values.pop("of a step", None)  # MaxText's FLOP and tokens of a step, not a second
    _throughput(values, names)
    if bare := names & {"tps", "wps"}:
        log.state["bare"] = min(bare)
    if "train_tokens_per_second" in names and "consumed" in values:
        values.pop("device_rate", None)  # of all devices or of one, by the version; the counter tells
    if "mfu" in values:
        mfu = fraction(values.pop("mfu"))
        if mfu is not None:
            values["mfu"] = mfu
    if "consumed" in values and 0 < values["consumed"] < math.inf:
        log.final["tokens"] = max(log.final.get("tokens", 0.0), values["consumed"])
    if not any(role in values for role in (*_READING, "device_rate")):
        return False
    values.pop("step", None)
    rank = values.pop("rank", None)
    log.add(line, step, dict(values), rank=int(rank) if rank is not None else None)
    return True


def _final(log: Collected, line: int, values: Mapping[str, float]) -> None:
    """Note the sums at the end of a Trainer's run.

    Where one went on after its end, its history has several: each with its own time, but with tokens, FLOP and samples
    since the beginning.

    Raises:
        DataError: several runs have ended that do not share a history.
    """
    before = dict(log.final) if "seconds" in log.final else {}
    names = {
        "clock": "seconds", "train_samples_per_second": "samples/s", "train_steps_per_second": "steps/s",
        "total_flos": "flos", "device_rate": "device tokens/s", "rate": "tokens/s", "consumed": "tokens",
    }  # fmt: skip
    for role, name in names.items():
        if 0 < values.get(role, 0) < math.inf:
            log.final[name] = values[role]
    if not before or log.final["seconds"] == before["seconds"]:
        return
    if not log.state.get("one history"):
        raise DataError(
            f"{log.where}, line {line}: a second train_runtime: the file has several runs, keep the lines of one"
        )
    last = log.final["seconds"]
    log.final["seconds"] += before["seconds"]
    for name in ("samples/s", "steps/s", "device tokens/s", "tokens/s"):
        if name in log.final:
            log.final[name] *= last / log.final["seconds"]
    log.notes.append("the run was resumed after its end; the times of its parts are added")


def _throughput(values: dict[str, float], names: set[str]) -> None:
    """Take `throughput` for tokens/s since the start beside a counter of tokens, for TFLOP/s beside Megatron's times."""
    mean = values.pop("throughput", None)
    if mean is None:
        return
    if "iteration-time" in names:
        values.setdefault("tflops", mean)
    elif mean > 0 and "consumed" in values:
        values["clock"] = values["consumed"] / mean


class Merged:
    """Records of one step that come in several rows or events, as one reading."""

    def __init__(self, log: Collected) -> None:
        self._log = log
        self._record: dict[str, Any] = {}
        self._line = 0
        self._step: Any = None
        self.names: set[str] = set()

    def add(self, line: int, record: Mapping[str, Any], step: Any) -> None:
        """Add a row; with another step, the one before is whole."""
        if step != self._step or step is None:
            self.flush()
        self._record.update({name: value for name, value in record.items() if value not in (None, "")})
        self._line, self._step = line, step

    def flush(self) -> None:
        """Read what was gathered."""
        if self._record:
            self.names.update(self._record)
            add_record(self._log, self._line, self._record)
        self._record = {}
