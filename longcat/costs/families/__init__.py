"""`config.json` of the usual families, as a workload: which matrices, how many weights, what a token meets.

Each reader is the shape of one family in transformers; tests compare the parameter counts with its classes. A family is
one entry of `FAMILIES` in the file of its kind.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from longcat.config.config_json import FAMILIES as LONGCAT_ARCHITECTURES
from longcat.config.config_json import architectures, read_json_object, read_longcat
from longcat.costs.families import (
    deepseek,
    dense,
    gemma,
    linear,
    llama,
    mixtures,
    plain,
    remote,
    remote_mixtures,
    sparse,
    wrapped,
)
from longcat.costs.families.fields import Family, Fields, complete, shown
from longcat.costs.workload import Workload, longcat_workload
from longcat.errors import ConfigError

FAMILIES: dict[str, Family] = {
    name: family
    for kind in (plain, llama, dense, gemma, remote, mixtures, remote_mixtures, deepseek, sparse, linear, wrapped)
    for name, family in kind.FAMILIES.items()
}
"""The families by model type."""
LONGCAT = tuple(LONGCAT_ARCHITECTURES.values())
ARCHITECTURES = LONGCAT_ARCHITECTURES | {
    architecture: name for name, family in FAMILIES.items() for architecture in family.architectures
}
"""Family of each architecture, for files whose model type is missing or another name for the same."""


def from_config(
    values: Mapping[str, Any], source: str = "config.json", ffn_experts: float | None = None, *, mtp: bool = False
) -> Workload:
    """Return the workload of a config.json.

    Args:
        values: its fields.
        source: what to call it in errors.
        ffn_experts: mean routed experts of a token, as measured; only LongCat's zero-computation experts vary it.
        mtp: whether DeepSeek's layers of multi-token prediction are trained, too; LongCat's own count always.

    Raises:
        ConfigError: an unknown family, or a field that is missing or senseless.
    """
    values, source, note = wrapped.text_model(values, source)
    family = _family(values)
    if family is None:
        raise ConfigError(f"{source}: {_unknown(values)}")
    if mtp and (family in LONGCAT or not FAMILIES[family].mtp):
        raise ConfigError(f"{source}: {family} has no layers of multi-token prediction that --mtp could count")
    if family in LONGCAT:
        return _longcat(values, source, ffn_experts)
    if ffn_experts is not None:
        raise ConfigError(f"{source}: {family} has no zero-computation experts; --ffn-experts is for LongCat")
    entry = FAMILIES[family]
    found = entry.read(Fields(complete(entry.defaults, values), source, mtp, entry.names))
    return replace(found, family=family, assumptions=(*found.assumptions, *([note] if note else ())))


def _family(values: Mapping[str, Any]) -> str | None:
    """Return the family by model type, or by the architecture where that says nothing; none where neither is known."""
    family = values.get("model_type")
    if family == "deepseek_v2" and values.get("use_mla") is False:  # in DeepSeek-VL2's and OCR's small models
        return "deepseek"
    if isinstance(family, str) and family in (*FAMILIES, *LONGCAT):
        return family
    return next((ARCHITECTURES[name] for name in architectures(values) if name in ARCHITECTURES), None)


def _unknown(values: Mapping[str, Any]) -> str:
    """Say that a family is not known, which come near, and how its sizes can be given instead."""
    kind, named = values.get("model_type"), architectures(values)
    spellings = {name.lower(): name for name in (*FAMILIES, *LONGCAT, *ARCHITECTURES)}
    asked = [name.lower() for name in (kind, *named) if isinstance(name, str)]
    close = [spellings[one] for name in asked for one in get_close_matches(name[:100], spellings, 3, 0.75)]
    near = [*dict.fromkeys(ARCHITECTURES.get(name, name) for name in close)][:3]
    architecture = shown(named[0] if len(named) == 1 else named)
    unknown = f"model_type {shown(kind)} is not known" + (f", nor is architecture {architecture}" if named else "")
    if kind is None and named:
        unknown = f"architecture {architecture} is not known, and there is no model_type"
    return (
        unknown
        + (f"; the nearest known are {', '.join(near)}" if near else "; docs/benchmark.md lists those that are")
        + ". What counts are its matrices (attention, feed-forward network or router and experts, head) and its scores:"
        " longcat mfu takes their sizes instead, by --parameters N --total-parameters T --layers L --hidden-size H --vocabulary V"
        " --attention-width HEADSxDIM"
    )


def read_workload(path: Path, ffn_experts: float | None = None, *, mtp: bool = False) -> Workload:
    """Return the workload of a config.json, or of the one in a folder.

    Raises:
        ConfigError: it cannot be read or used.
    """
    path = path / "config.json" if path.is_dir() else path
    return from_config(read_json_object(path), str(path), ffn_experts, mtp=mtp)


def _longcat(values: Mapping[str, Any], source: str, ffn_experts: float | None) -> Workload:
    """Return the workload of our own family, by the reader that `longcat import` uses too."""
    read = read_longcat(values, source)
    workload = longcat_workload(read.model, ffn_experts, read.family)
    notes = []
    if read.nextn_layers:
        notes.append(f"num_nextn_predict_layers={read.nextn_layers} is not counted; mtp_num_layers is")
    if read.tied:
        notes.append("tie_word_embeddings=true: the head is counted as weights of its own")
    return replace(workload, assumptions=(*workload.assumptions, *notes))
