"""Whose stack a training runs on: its components by layer, where they come from, and what they cannot work without.

A stack is *Full* when every component of every layer, and all that it needs, is domestic or open source: then nobody
abroad can take it away. One that is neither makes the stack *Partial*, whatever the others are. What is not known is said,
and decides nothing, unless nothing is known of the accelerator. The table is `data/sovereignty.yaml`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, cast

import yaml

from longcat.accelerator import BACKENDS, Accelerator, Kind, cpu_facts
from longcat.errors import ConfigError
from longcat.printable import did_you_mean
from longcat.provenance import DATA

TABLE = DATA / "sovereignty.yaml"
Verdict = Literal["Full", "Partial", "not known"]
Origin = Literal["domestic", "open source", "foreign", "not known"]


@dataclass(frozen=True)
class Component:
    """A component of training stacks."""

    name: str
    layer: str
    names: tuple[str, ...]
    """Patterns of what devices, packages and people call it; whole, and case is ignored."""
    maker: str
    country: str
    """`any` where several countries have makers of the same thing."""
    open_source: bool
    needs: tuple[str, ...]
    """Names of the components that it cannot work without."""
    source: str
    supply: str | None = None
    """What its makers buy abroad, as far as it is published."""


@dataclass(frozen=True)
class Table:
    """The components that are known, and what counts as domestic."""

    home: str
    layers: tuple[str, ...]
    components: Mapping[str, Component]

    def find(self, layer: str, called: str) -> Component | None:
        """Return the component of a layer that something is called by; None for an unknown one."""
        return next(
            (
                one
                for one in self.components.values()
                if one.layer == layer
                and (
                    one.name.lower() == called.lower()
                    or any(re.fullmatch(pattern, called, re.IGNORECASE) for pattern in one.names)
                )
            ),
            None,
        )


@dataclass(frozen=True)
class Part:
    """A component of one stack, as it was judged."""

    layer: str
    called: str
    """Its name in the stack; empty where nothing is known of the layer."""
    origin: Origin
    component: Component | None = None
    through: str | None = None
    """The foreign component that it needs, where it is not foreign itself."""

    @property
    def sentence(self) -> str:
        """Return what makes it foreign, for example `NCCL needs CUDA (NVIDIA, USA)`."""
        assert self.component is not None
        if self.through is not None:
            return f"{self.called} needs {self.through}"
        return f"{self.called} ({self.component.maker}, {self.component.country})"


@dataclass(frozen=True)
class Audit:
    """The verdict on a stack, with every part of it."""

    verdict: Verdict
    reason: str
    parts: tuple[Part, ...]
    not_known: tuple[str, ...] = field(default=())
    """Layers and components of which too little is known."""

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return {
            "verdict": self.verdict,
            "reason": self.reason,
            "not_known": list(self.not_known),
            "parts": [_part(part) for part in self.parts],
        }


@lru_cache(maxsize=4)
def read_table(path: Path = TABLE) -> Table:
    """Read the table of components.

    Raises:
        ConfigError: a component has an unknown layer, needs an unknown one, or lacks a field.
    """
    tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    layers = tuple(tree["layers"])
    components: dict[str, Component] = {}
    for row in tree["components"]:
        try:
            one = Component(**row | {"names": tuple(row["names"]), "needs": tuple(row["needs"])})
        except (KeyError, TypeError) as error:
            raise ConfigError(f"{path.name}: component {row.get('name')!r}: {error}") from None
        if one.layer not in layers:
            raise ConfigError(f"{path.name}: {one.name} has the layer {one.layer!r}; there are {', '.join(layers)}")
        components[one.name] = one
    for one in components.values():
        if missing := [name for name in one.needs if name not in components]:
            raise ConfigError(f"{path.name}: {one.name} needs {missing[0]}, which has no entry")
    return Table(tree["home"], layers, components)


def audit(stack: Mapping[str, Sequence[str]], table: Table | None = None) -> Audit:
    """Judge a stack.

    Args:
        stack: what it consists of, by layer; a layer that is left out, or empty, is not known.
        table: known components; by default those of `data/sovereignty.yaml`.

    Raises:
        ConfigError: there is no such layer.
    """
    table = table or read_table()
    for layer in stack:
        if layer not in table.layers:
            raise ConfigError(
                f"stack: there is no layer {layer!r}{did_you_mean(layer, table.layers)}; {_listed(table.layers)}"
            )
    parts = [_judge(layer, called, table) for layer in table.layers for called in (stack.get(layer) or ("",))]
    foreign = [part for part in parts if part.origin == "foreign"]
    unknown = tuple(f"{part.layer}: {part.called or 'not stated'}" for part in parts if part.origin == "not known")
    first = [part for part in parts if part.layer == table.layers[0]]
    if foreign:
        verdict: Verdict = "Partial"
        reason = f"foreign and not open: {'; '.join(f'{part.layer}: {part.sentence}' for part in foreign)}"
    elif all(part.origin == "not known" for part in first):
        verdict, reason = "not known", f"nothing is known of its {table.layers[0]}"
    else:
        verdict = "Full"
        reason = "every component that is known is domestic or open source, with all that it needs"
        if unknown:
            reason += f"; not known: {', '.join(unknown)}"
    return Audit(verdict, reason, tuple(parts), unknown)


def stack_of_run(kind: str, device: str, packages: Iterable[str] = ()) -> dict[str, list[str]]:
    """Return the stack that a training of longcat runs on.

    Args:
        kind: of the accelerator: npu, cuda or cpu.
        device: its name, as the driver gives it.
        packages: further packages of the framework that are loaded, such as `torch-npu`.
    """
    stacks = {
        "npu": {
            "interconnect": ["HCCS", "RoCE"],
            "compiler": ["CANN"],
            "operators": ["aclnn", "ATen"],
        },
        "cuda": {
            "interconnect": ["NVLink"],
            "compiler": ["CUDA"],
            "operators": ["cuBLAS", "cuDNN", "ATen"],
        },
        "cpu": {
            "interconnect": ["shared memory"],
            "compiler": ["gcc"],
            "operators": ["ATen"],
        },
    }
    library = BACKENDS[cast("Kind", kind)]
    return {"accelerator": [device], "collective library": [library], "framework": ["torch", *packages], **stacks[kind]}


def tags_of_run(accelerator: Accelerator) -> dict[str, str]:
    """Return the verdict on the stack that a run on an accelerator of this machine has, and its reason, as tags."""
    packages = ["torch_npu"] if accelerator.kind == "npu" else []
    name = cpu_facts()[0] or accelerator.name if accelerator.kind == "cpu" else accelerator.name
    found = audit(stack_of_run(accelerator.kind, name, packages))
    return {"sovereignty": found.verdict, "sovereignty.reason": found.reason}


def kind_of(device: str, table: Table | None = None) -> str:
    """Return npu, cuda or cpu for the name of a device; cpu for one that the table does not know."""
    found = (table or read_table()).find("accelerator", device)
    needs = () if found is None else found.needs
    return "npu" if "CANN" in needs else "cuda" if "CUDA" in needs else "cpu"


def _judge(layer: str, called: str, table: Table) -> Part:
    found = table.find(layer, called) if called else None
    if found is None:
        return Part(layer, called, "not known")
    if _is_foreign(found, table):
        return Part(layer, called, "foreign", found)
    for needed in _all_needs(found, table):
        if _is_foreign(needed, table):
            return Part(layer, called, "foreign", found, f"{needed.name} ({needed.maker}, {needed.country})")
    return Part(layer, called, "domestic" if found.country == table.home else "open source", found)


def _is_foreign(component: Component, table: Table) -> bool:
    return component.country not in (table.home, "any") and not component.open_source


def _all_needs(component: Component, table: Table) -> list[Component]:
    """Return what a component needs, directly or indirectly, each once."""
    found: dict[str, Component] = {}
    waiting = list(component.needs)
    while waiting:
        name = waiting.pop(0)
        if name not in found:
            found[name] = table.components[name]
            waiting += found[name].needs
    return list(found.values())


def _part(part: Part) -> dict[str, Any]:
    component = part.component
    return {
        "layer": part.layer,
        "called": part.called,
        "origin": part.origin,
        "maker": component and component.maker,
        "country": component and component.country,
        "open_source": component and component.open_source,
        "needs": list(component.needs) if component else [],
        "through": part.through,
        "supply": component and component.supply,
        "source": component and component.source,
    }


def _listed(names: Sequence[str]) -> str:
    return f"there are {', '.join(names[:-1])} and {names[-1]}"
