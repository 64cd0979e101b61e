"""A layout of the real section `parallel`, with the batch, the order of the pipeline and what is recomputed."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from difflib import get_close_matches

from longcat.costs.mfu import Recomputation
from longcat.costs.stages import Schedule
from longcat.errors import ConfigError
from longcat.parallel.axes import Degrees, Wish
from longcat.plan.model import Model

AXES = ("pipeline", "replicate", "shard", "context", "tensor", "expert")
_SHORT = {"pp": "pipeline", "tp": "tensor", "cp": "context", "ep": "expert", "dp": "data", "fsdp": "shard"}
_NAMES = {
    "training.processes": "--devices",
    "training.global_batch_sequences": "--global-batch",
    "training.micro_batch_sequences": "--micro-batch",
    "corpus.sequence_length_tokens": "--sequence-length",
    "model.n_routed_experts": "routed experts",
    "model.num_layers": "layers",
    "model.vocab_size": "vocabulary",
}
_BATCH_TOKENS = 4_194_304
MOST_DEVICES, MOST_SEQUENCES, MOST_TOKENS = 1 << 20, 1 << 30, 1e18
"""Bounds of what is asked: devices, sequences of a step and tokens of a sequence, tokens of a training."""


@dataclass(frozen=True)
class Batch:
    """What a step trains on."""

    sequences: int
    sequence_length: int

    @property
    def tokens(self) -> int:
        """Return the tokens of a step."""
        return self.sequences * self.sequence_length


@dataclass(frozen=True)
class Layout:
    """How a step is divided over devices."""

    degrees: Degrees
    batch: Batch
    micro_batch: int
    """Sequences of a process and forward pass."""
    recompute: Recomputation = "none"
    schedule: Schedule = "1f1b"

    @property
    def micro_batches(self) -> int:
        """Return the micro-batches of a step that go through a process."""
        return -(-self.batch.sequences // (self.data * self.micro_batch))

    @property
    def tokens(self) -> float:
        """Return the tokens of a micro-batch that processes which share heads compute together."""
        return self.micro_batch * self.batch.sequence_length / self.degrees.context

    @property
    def data(self) -> int:
        """Return the parts of a batch."""
        return self.degrees.replicate * self.degrees.shard

    def settings(self) -> dict[str, int | str]:
        """Return what is set, by the names of the configuration."""
        degrees = self.degrees
        found: dict[str, int | str] = {
            "pipeline": degrees.pipeline,
            "replicate": degrees.replicate,
            "shard": degrees.shard,
            "context": degrees.context,
            "tensor": degrees.tensor,
            "expert": degrees.expert,
        }
        return found | {
            "schedule": self.schedule if degrees.pipeline > 1 else "1f1b",
            "micro_batch": self.micro_batch,
            "recompute": self.recompute,
        }

    def sentence(self) -> str:
        """Say it in a few words; axes of one process are left out."""
        axes = [f"{name} {value}" for name, value in self.settings().items() if name in AXES and value != 1]
        order = [self.schedule] if self.schedule != "1f1b" and self.degrees.pipeline > 1 else []
        again = [] if self.recompute == "none" else [f"recompute {self.recompute}"]
        return ", ".join([*axes, *order, f"micro-batch {self.micro_batch}", *again])


def batch_of(model: Model, global_batch: int | None, sequence_length: int | None) -> Batch:
    """Return the batch that was asked for: a preset's own, or about four million tokens of 4,096."""
    length = sequence_length or (model.own.corpus.sequence_length_tokens if model.own else 4096)
    usual = model.own.training.global_batch_sequences if model.own else max(1, _BATCH_TOKENS // length)
    return Batch(global_batch or usual, length)


def read_layout(text: str) -> dict[str, int | str]:
    """Read axes such as `tensor=2,pipeline=2`, short names such as `tp2,pp2` too.

    Raises:
        ConfigError: an axis is not known, or is there twice; says which is near.
    """
    found: dict[str, int | str] = {}
    for part in filter(None, text.replace(" ", "").split(",")):
        match = re.fullmatch(r"([a-z_]+?)[=:]?([1-9][0-9]{0,8}|1f1b|interleaved|zbv)", part.lower())
        if match is None:
            raise ConfigError(f"--layout {text}: {part!r} is no axis such as tensor=2")
        name = _SHORT.get(match[1], match[1])
        known = (*AXES, "data", "schedule")
        if name not in known or (name == "schedule") == match[2].isdigit():
            close = get_close_matches(name, known, n=1)
            hint = f"did you mean {close[0]}? " if close and close[0] != name else ""
            raise ConfigError(f"--layout {text}: no axis {part!r}; {hint}there are {', '.join(known)}")
        if name in found:
            raise ConfigError(f"--layout {text} has {name} twice")
        found[name] = int(match[2]) if match[2].isdigit() else match[2]
    return found


def wish(model: Model, devices: int, batch: Batch, schedule: Schedule = "1f1b", **axes: int) -> Wish:
    """Return the layout that is asked for, which the model and the batch are checked against."""
    return Wish(
        devices,
        batch_sequences=batch.sequences,
        routed_experts=model.experts,
        schedule=schedule,
        layers=model.layers,
        sequence_length=batch.sequence_length,
        widths=model.widths,
        vocabulary=model.workload.vocabulary,
        **axes,
    )


def settle(
    model: Model,
    devices: int,
    batch: Batch,
    asked: Mapping[str, int | str],
    micro_batch: int | None,
    recompute: Recomputation,
) -> Layout:
    """Return one layout, checked.

    Raises:
        ConfigError: it does not divide devices, model or batch; names the nearest that does.
    """
    axes = {name: int(value) for name, value in asked.items() if name != "schedule"}
    schedule: Schedule = asked.get("schedule", "1f1b")  # type: ignore[assignment]
    if model.own is None and axes.get("replicate", 1) > 1:
        raise ConfigError(
            f"replicate={axes['replicate']} is of LongCat's own models: of others every process of data parallel has a share "
            "of the optimizer's state; leave it out, and data parallel is what is left"
        )
    if (data := axes.pop("data", None)) is not None:
        axes["shard"] = _shards(data, axes)
    given = micro_batch or 1
    try:
        degrees = _settled(model, wish(model, devices, batch, schedule, **axes, micro_batch_sequences=given))
    except ConfigError as error:
        raise ConfigError(in_options(str(error))) from None
    rows = batch.sequences // degrees.batch_world
    if rows % given and model.own is None:
        fits = [size for size in range(1, rows + 1) if rows % size == 0]
        nearest = min(fits, key=lambda size: max(size, given) / min(size, given))
        raise ConfigError(
            f"--micro-batch {given} does not divide the {rows} sequences of a device (--global-batch {batch.sequences} over "
            f"{degrees.batch_world}); {nearest} would"
        )
    return Layout(degrees, batch, given, recompute, schedule)


def _shards(data: int, axes: Mapping[str, int]) -> int:
    """Return the shards that `data` parts of a batch have, which is replicate x shard."""
    replicate = axes.get("replicate", 1)
    shard = axes.get("shard", max(1, round(data / replicate)))
    if replicate * shard != data:
        raise ConfigError(
            f"data={data} contradicts replicate={replicate}{f' x shard={shard}' if 'shard' in axes else ''}: it is replicate x "
            f"shard; data={replicate * shard} would fit, or leave it out"
        )
    return shard


def _settled(model: Model, wanted: Wish) -> Degrees:
    """Settle a layout; pipelines of other programs also take fewer micro-batches than stages, and only wait more."""
    if model.own is None and wanted.pipeline > 1:
        rows = wanted.batch_sequences
        many = replace(wanted, batch_sequences=rows * wanted.pipeline * wanted.micro_batch_sequences)
        if rows % max(1, wanted.processes // (wanted.pipeline * wanted.context * wanted.tensor)) == 0:
            return many.settle()
    return wanted.settle()


def in_options(message: str) -> str:
    """Return a message on the configuration in the words of the command line."""
    for key, option in _NAMES.items():
        message = message.replace(f"{key}=", f"{option} ").replace(key, option)
    return message.replace("parallel.", "")
