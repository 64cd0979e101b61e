"""What is not as it was when a run was made: code, packages, interpreter, machine, input, settings; weightiest first."""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from longcat.artifact import sha256_file
from longcat.benchmark.references import TABLE as PUBLISHED
from longcat.comparing.differences import flat, unlike
from longcat.config import PipelineConfig, identity
from longcat.corpus.inputs import input_files
from longcat.corpus.sources import resolve
from longcat.costs.hardware import TABLE as HARDWARE
from longcat.environment import environment
from longcat.errors import LongcatError
from longcat.provenance import ROOT, git_commit
from longcat.tracking.record import Record

STAGES = {
    "documents": "longcat.corpus.stage",
    "tokens": "longcat.corpus.stage",
    "checkpoint": "longcat.training.stage",
    "measurement": "longcat.benchmark.measurement",
    "benchmark": "longcat.benchmark.stage",
    "evaluation": "longcat.evaluation.stage",
}
"""Module, with its STAGE_VERSION, of what makes each kind of result."""
_PINS = ("sha256", "revision")


@dataclass(frozen=True)
class Change:
    """Something that is not as it was."""

    of: str
    """code, stage version, package, python, machine, input or configuration."""
    name: str
    then: Any
    now: Any
    """None where it is gone."""


def changes(record: Record, config: PipelineConfig) -> tuple[list[Change], list[str]]:
    """Compare what a run was made with to what is here now.

    Args:
        record: of the run.
        config: its configuration, as this version reads it, with what the user has overridden.

    Returns:
        What differs, weightiest first, and notes: on what cannot be compared, and on what differs without weight.
    """
    notes: list[str] = []
    found = [*_code(record, notes), *_versions(record), *_surroundings(record, config, notes), *_inputs(record, config)]
    return [*found, *_settings(record, config)], notes


# ---------------------------------------------------------------------------------------------------- code


def _code(record: Record, notes: list[str]) -> Iterator[Change]:
    then: dict[str, str] = {}
    for manifest in record.manifests.values():
        then |= manifest.get("source") or {}
    changed = 0
    for name, sha256 in sorted(then.items()):
        file = ROOT / name
        now = sha256_file(file) if file.is_file() else None
        if now != sha256:
            changed += 1
            yield Change("code", name, sha256, now)
    if not then:
        notes.append("the code behind its results was not recorded, so it cannot be compared")
    commits = [manifest.get("git_commit") for manifest in record.manifests.values()]
    was, now_at = commits[-1] if commits else None, git_commit()
    if was != now_at:
        which = f"commit {was or 'unknown'} then, {now_at or 'unknown'} now"
        if changed:
            notes.append(f"{which}; git checkout {str(was).removesuffix('-dirty')} brings the code back")
        else:
            notes.append(f"{which}; no file behind its results differs")


def _versions(record: Record) -> Iterator[Change]:
    for manifest in record.manifests.values():
        if manifest["kind"] in STAGES and "stage_version" in manifest:
            now = importlib.import_module(STAGES[manifest["kind"]]).STAGE_VERSION
            if now != manifest["stage_version"]:
                yield Change("stage version", manifest["kind"], manifest["stage_version"], now)


# ---------------------------------------------------------------------------------------------------- surroundings


def _surroundings(record: Record, config: PipelineConfig, notes: list[str]) -> Iterator[Change]:
    if record.environment is None:
        then = _from_tags(record)
        notes.append("its version recorded a few packages only; the others and the machine cannot be compared")
    else:
        then = dict(record.environment)
    if (then.get("machine") or {}).get("accelerator"):
        importlib.import_module("torch")  # the accelerator is described where there is torch
    now = environment(config.accelerator)
    for name, (was, is_now) in unlike(then["packages"], now["packages"]):
        if record.environment is not None or was is not None:
            yield Change("package", name, was, is_now)
    for name in ("python", "libc"):
        if name in then and then[name] != now[name]:
            yield Change("python", name, then[name], now[name])
    machine = dict(then.get("machine") or {}), dict(now["machine"])
    if machine[0]:
        flags = [set(one.pop("vector_flags", ())) for one in machine]
        if not machine[0].get("accelerator"):  # nothing was computed on one
            machine[1]["accelerator"] = machine[0].get("accelerator")
        for name, (was, is_now) in unlike(*(flat(one) for one in machine)):
            yield Change("machine", name, was, is_now)
        if flags[0] != flags[1]:
            yield Change("machine", "vector instructions", sorted(flags[0] - flags[1]), sorted(flags[1] - flags[0]))


def _from_tags(record: Record) -> dict[str, Any]:
    tags = (record.run.whole or record.run).tags
    packages = {
        name.removeprefix("version.").replace("_", "-"): value
        for name, value in tags.items()
        if name.startswith("version.")
    }
    return {"packages": packages, **({"python": tags["python"]} if "python" in tags else {})}


# ---------------------------------------------------------------------------------------------------- input


def _inputs(record: Record, config: PipelineConfig) -> Iterator[Change]:
    documents = record.of_kind("documents") or record.of_kind("tokens")
    then = (documents.get("facts") or {}).get("sources", [])
    for number, (source, was) in enumerate(zip(config.corpus.sources, then, strict=False)):
        pin = {name: was[name] for name in _PINS if name in was}
        called = f"corpus source {was.get('name', number)}"
        try:
            now = dict(resolve(source, config.corpus.block_bytes).pin)
        except (LongcatError, OSError) as error:
            yield Change("input", called, _told(pin), f"not there: {error}")
            continue
        if any(now.get(name) != value for name, value in pin.items()):
            yield from _files(record, config, number, called) or [Change("input", called, _told(pin), _told(now))]
    if record.of_kind("documents"):
        own = record.of_kind("documents")["identity"].get("tokenizer")
        if own is not None or config.corpus.tokenizer is not None:
            yield from _file("corpus.tokenizer", own, config.corpus.tokenizer)
    tables = record.of_kind("benchmark").get("identity", {}).get("tables", {})
    for table in (HARDWARE, PUBLISHED):
        if table.name in tables:
            yield from _file(table.name, tables[table.name], table)
    if scored := record.of_kind("evaluation").get("identity", {}).get("suites"):
        yield from _suites(scored, config)


def _files(record: Record, config: PipelineConfig, number: int, called: str) -> list[Change]:
    """Name the files of a source that are not as they were, where they were recorded."""
    then = record.inputs.get(str(number))
    if then is None:
        return []
    now = input_files(config.corpus, sha256_file).get(str(number), {})
    moved = sorted(then.values()) == sorted(now.values())
    unlike_ones = [] if moved else list(unlike(then, now))
    return [Change("input", f"{called}, {name}", was, is_now) for name, (was, is_now) in unlike_ones]


def _file(name: str, then: str | None, file: str | Path | None) -> Iterator[Change]:
    path = None if file is None else Path(file).expanduser()
    now = sha256_file(path) if path is not None and path.is_file() else None
    if then != now:
        yield Change("input", name if path is None else f"{name} ({path})", then, now)


def _suites(then: Mapping[str, Any], config: PipelineConfig) -> Iterator[Change]:
    from longcat.evaluation.stage import suite_identities

    try:
        now = json.loads(json.dumps(suite_identities(config)))
    except LongcatError as error:
        yield Change("input", "evaluation", "as recorded", f"not there: {error}")
        return
    for name, (was, is_now) in unlike(flat(then), flat(now)):
        yield Change("input", f"evaluation {name}", was, is_now)


def _told(pin: Mapping[str, str]) -> str | None:
    return next(iter(pin.values()), None)


# ---------------------------------------------------------------------------------------------------- settings


def _settings(record: Record, config: PipelineConfig) -> Iterator[Change]:
    """Yield settings with an influence on bytes that are not those of the record: overridden, or unknown to its version."""
    then = flat(dict(record.config))
    now = flat(config.model_dump(mode="json"))
    matter = flat({name: identity(getattr(config, name)) for name in _sections(config)} | {"seed": config.seed})
    for name, (was, is_now) in unlike(then, now):
        if name in matter:
            yield Change("configuration", name, was if name in then else "not known to its version", is_now)


def _sections(config: PipelineConfig) -> list[str]:
    return ["corpus", "model", "training", "benchmark", "evaluation"]
