"""Rules of porting: tables of names with what stands for them on an Ascend, the reason, and the source of it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

_FOLDER = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Rule:
    """What a name of CUDA's world is on an Ascend."""

    name: str
    kind: str
    """One of `longcat.port.findings.CLASSES`."""
    effort: str
    why: str
    source: str
    instead: str = ""
    to: str = ""
    """Name that the rewrite puts in its place; empty if the line stays."""
    call: str = ""
    """How a call changes besides its name: positional, autocast, device_first, device_type, value (it becomes one), or not at all."""


@lru_cache(maxsize=1)
def torch_rules() -> dict[str, Rule]:
    """Return the rules for torch's interfaces by their full names."""
    rules = {}
    for group in _read("torch"):
        names = group["names"]
        for name in names:
            to = names[name] if isinstance(names, dict) else ""
            effort = group.get("effort") or ("automatic" if to else "minutes")
            if group["class"] == "works":
                effort = "none"
            rules[name] = Rule(
                name,
                group["class"],
                effort,
                group["why"],
                group["source"],
                group.get("instead", ""),
                to,
                group.get("call", ""),
            )
    return rules


def known_rule(name: str) -> Rule:
    """Return the rule for a name of torch that has one of its own."""
    return torch_rules()[name]


def torch_rule(name: str) -> Rule | None:
    """Return the rule for a name of torch, or for the nearest module above it that has one."""
    rules = torch_rules()
    if (rule := rules.get(name)) is not None:
        return rule
    if (rule := rules.get(_SUBMODULE.sub("torch.cuda.", name))) is not None:
        return replace(rule, name=name)
    above = name
    while "." in above:
        above = above.rpartition(".")[0]
        rule = rules.get(above)
        if rule is not None:
            # what a mirrored module has besides the names above is not known
            return None if rule.to else rule
    return next((rules[start] for start in _PRIVATE if name.startswith(start)), None)


_SUBMODULE = re.compile(r"^torch\.cuda\.(memory|random|streams|graphs)\.(?=\w)")
"""Modules whose names torch.cuda has, too."""
_PRIVATE = ("torch._C._cuda", "torch._C._cudart", "torch._C._nccl")


@lru_cache(maxsize=1)
def packages() -> dict[str, Rule]:
    """Return the rules for packages by the name that is imported."""
    return {row["import"]: _package(row) for row in _read("packages")}


@lru_cache(maxsize=1)
def installed() -> dict[str, Rule]:
    """Return the rules for packages by the names under which they are installed, in lower case with hyphens."""
    return {name.lower().replace("_", "-"): _package(row) for row in _read("packages") for name in row["installed"]}


def package_rule(name: str) -> Rule | None:
    """Return the rule for the package that an imported name belongs to."""
    rules = packages()
    above = name
    while above:
        if above in rules and (
            above != "cuda"
            or name == above
            or name.startswith(("cuda.bindings", "cuda.core", "cuda.cuda", "cuda.cudart", "cuda.nvrtc"))
        ):
            return rules[above]
        above = above.rpartition(".")[0]
    return None


@lru_cache(maxsize=1)
def _variables() -> dict[str, Rule]:
    rows = {}
    for row in _read("variables"):
        effort = {"renames": "automatic", "none": "none"}.get(row["class"], "minutes")
        rows[row["name"]] = Rule(row["name"], row["class"], effort, row["why"], row["source"], to=row.get("to", ""))
    return rows


def variable_rule(name: str) -> Rule | None:
    """Return the rule for an environment variable."""
    rules = _variables()
    return rules.get(name) or next(
        (rule for pattern, rule in rules.items() if "*" in pattern and fnmatchcase(name, pattern)), None
    )


def _package(row: dict[str, Any]) -> Rule:
    return Rule(
        row["import"],
        row.get("class", "none"),
        row["effort"],
        row["why"],
        f"{row['import']}: what it is made of",
        row["instead"],
    )


def _read(name: str) -> Iterator[dict[str, Any]]:
    yield from yaml.safe_load((_FOLDER / f"{name}.yaml").read_text(encoding="utf-8"))
