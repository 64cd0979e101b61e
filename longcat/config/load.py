"""Presets, files and `--set`: how a configuration is made, and how its mistakes are explained."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from longcat.config.section import Formerly
from longcat.config.tree import PipelineConfig
from longcat.errors import ConfigError
from longcat.printable import did_you_mean
from longcat.redaction import secret_places
from longcat.yaml_files import read_mapping

PRESET_DIRECTORY = Path(__file__).parents[1] / "presets"


def preset_names() -> list[str]:
    """Names of the presets, in alphabetical order."""
    return sorted(path.stem for path in PRESET_DIRECTORY.glob("*.yaml"))


def load_config(preset: str | None = None, file: Path | None = None, overrides: Iterable[str] = ()) -> PipelineConfig:
    """Build the configuration: preset, then file, then `a.b=c` overrides, each over the one before.

    Without preset and file the preset is `tiny`; a file alone has to be complete, or name a `preset` itself.

    Raises:
        ConfigError: naming the file or override and the field, with the nearest right key for an unknown one.
    """
    tree: dict[str, Any] = {}
    origin = "--set"
    if file is not None:
        origin = str(file)
        tree = read_mapping(file, f"configuration {file}")
    preset = preset or tree.get("preset") or (None if file else "tiny")
    if preset is not None:
        names = preset_names()
        if preset not in names:
            raise ConfigError(f"unknown preset {preset!r}{did_you_mean(preset, names)}; there are: {', '.join(names)}")
        tree = _merge(read_mapping(PRESET_DIRECTORY / f"{preset}.yaml"), tree)
        tree["preset"] = preset
        origin = f"preset {preset}" if file is None else origin
    written: dict[str, str] = {}
    for override in overrides:
        key, text = _split_override(override)
        written[key] = text
        tree = _merge(tree, _nested(key, _parse_value(override, text)))
        origin = f"{origin} with --set" if "--set" not in origin else origin
    if places := secret_places(tree):
        raise ConfigError(
            f"{origin}: {places[0]} holds a password or a token, and configurations are recorded with results; take it out and "
            "give it by an environment variable of the program that needs it (HF_TOKEN, MLFLOW_TRACKING_URI, ...)"
        )
    try:
        try:
            return PipelineConfig.model_validate(tree)
        except ValidationError as error:
            return PipelineConfig.model_validate(_as_written(tree, error, written))
    except ValidationError as error:
        raise ConfigError(_explain(error, origin)) from None


def _split_override(override: str) -> tuple[str, str]:
    key, separator, text = override.partition("=")
    if not separator or not key.strip():
        raise ConfigError(f"--set {override!r}: expected KEY=VALUE, for example --set training.steps=100")
    return key.strip(), text.strip()


def _parse_value(override: str, text: str) -> Any:
    try:
        value: Any = yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError):
        raise ConfigError(f"--set {override!r}: the value is not valid YAML") from None
    if isinstance(value, str) and value == text:  # without quotes
        try:
            return float(value)  # YAML 1.1 reads 1e-3 as a string
        except ValueError:
            pass
    return value


def _nested(key: str, value: Any) -> dict[str, Any]:
    tree = value
    for part in reversed(key.split(".")):
        tree = {part: tree}
    return dict(tree)


def _as_written(tree: dict[str, Any], error: ValidationError, written: Mapping[str, str]) -> dict[str, Any]:
    """Return the tree with texts as they were written, where YAML takes them for something else: the digest 5307e903 for a number.

    Raises:
        ValidationError: the one that is given; no setting of a text is to blame.
    """
    places = [
        tuple(map(str, problem["loc"]))
        for problem in error.errors()
        if problem["type"] in ("string_type", "list_type") and not isinstance(problem["input"], list | dict | None)
    ]
    texts = {key: text for key, text in written.items() if tuple(key.split(".")) in places}
    if not texts:
        raise error
    for key, text in texts.items():
        tree = _merge(tree, _nested(key, text))
    return tree


def _merge(base: dict[str, Any], top: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in top.items():
        old = merged.get(key)
        merged[key] = _merge(old, value) if isinstance(old, dict) and isinstance(value, Mapping) else value
    return merged


def _explain(error: ValidationError, origin: str) -> str:
    lines = []
    for problem in error.errors():
        location = [str(part) for part in problem["loc"]]
        key = ".".join(location)
        if problem["type"] == "extra_forbidden":
            lines.append(f"unknown key {key!r}{_nearest_key(location)}")
        elif problem["type"] == "missing":
            lines.append(f"{key} is missing")
        else:
            found = (
                "" if isinstance(problem["input"], dict) else f" (found {json.dumps(problem['input'], default=str)})"
            )
            message = problem["msg"].removeprefix("Value error, ")
            lines.append(f"{key}: {message}{found}" if key else message)
    return f"{origin}: " + "; ".join(lines)


def _nearest_key(location: list[str]) -> str:
    """Suggest the present name of a renamed key, else a sibling like it, else the same name elsewhere in the tree."""
    section: type[BaseModel] = PipelineConfig
    for part in location[:-1]:
        if part in section.model_fields:
            section = _section_of(section.model_fields[part].annotation) or section
    for key, field in _fields(PipelineConfig):
        siblings_before = key.split(".")[:-1] == location[:-1] and Formerly(location[-1]) in field.metadata
        if siblings_before or Formerly(".".join(location)) in field.metadata:
            return f"; did you mean {key!r}?"
    siblings = difflib.get_close_matches(location[-1], section.model_fields, n=1, cutoff=0.6)
    if siblings:
        return f"; did you mean {'.'.join([*location[:-1], siblings[0]])!r}?"
    leaf = location[-1]
    elsewhere = [key for key in all_keys(PipelineConfig) if key.rsplit(".", 1)[-1] == leaf]
    if elsewhere:
        return f"; did you mean {elsewhere[0]!r}?"
    return f"; there are: {', '.join(section.model_fields)}"


def _section_of(annotation: Any) -> type[BaseModel] | None:
    for candidate in (annotation, *get_args(annotation)):
        if isinstance(candidate, type) and issubclass(candidate, BaseModel):
            return candidate
    return None


def all_keys(section: type[BaseModel], prefix: str = "") -> Iterable[str]:
    """Every dotted key of a configuration section, sections themselves included."""
    return (key for key, _ in _fields(section, prefix))


def _fields(section: type[BaseModel], prefix: str = "") -> Iterable[tuple[str, FieldInfo]]:
    for name, field in section.model_fields.items():
        yield prefix + name, field
        nested = _section_of(field.annotation)
        if nested is not None:
            yield from _fields(nested, f"{prefix}{name}.")
