"""`config.json` of the usual families, as a workload: which matrices, how many weights, what a token meets.

Each reader is the shape of one family in transformers; tests compare the parameter counts with its classes. A family is
one entry of `FAMILIES` in the file of its kind.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
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
)
from longcat.costs.families.fields import Family, Fields, complete
from longcat.costs.workload import Workload, longcat_workload
from longcat.errors import ConfigError

FAMILIES: dict[str, Family] = {
    name: family
    for kind in (plain, llama, dense, gemma, remote, mixtures, remote_mixtures, deepseek, sparse, linear)
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
    family, text = _family(values), values.get("text_config")
    if isinstance(text, Mapping) and "hidden_size" not in values:  # of a model that sees or hears, too
        outer = {name: values[name] for name in ("model_type", "tie_word_embeddings") if name in values}
        inner = from_config(outer | dict(text), f"{source}: text_config", ffn_experts, mtp=mtp)
        whole = values.get("model_type") or values.get("architectures")
        return replace(inner, assumptions=(*inner.assumptions, f"of {whole} only the text model is counted"))
    if family is None:
        known = ", ".join([*FAMILIES, *LONGCAT])
        raise ConfigError(
            f"{source}: model_type {values.get('model_type')!r} is not known"
            + (f", nor is architecture {values['architectures']}" if values.get("architectures") else "")
            + f"; there are: {known}"
        )
    if mtp and (family in LONGCAT or not FAMILIES[family].mtp):
        raise ConfigError(f"{source}: {family} has no layers of multi-token prediction that --mtp could count")
    if family in LONGCAT:
        return _longcat(values, source, ffn_experts)
    if ffn_experts is not None:
        raise ConfigError(f"{source}: {family} has no zero-computation experts; --ffn-experts is for LongCat")
    entry = FAMILIES[family]
    return entry.read(Fields(complete(entry.defaults, values), source, mtp, entry.names))


def _family(values: Mapping[str, Any]) -> str | None:
    """Return the family by model type, or by the architecture where that says nothing; none where neither is known."""
    family = values.get("model_type")
    if isinstance(family, str) and family in (*FAMILIES, *LONGCAT):
        return family
    return next((ARCHITECTURES[name] for name in architectures(values) if name in ARCHITECTURES), None)


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
