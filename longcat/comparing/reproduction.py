"""A recorded run made again: the configuration to do it with, and which bytes came out the same."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml

from longcat.artifact import MANIFEST, write_json
from longcat.comparing.differences import flat, same_files, same_until, unlike
from longcat.config import PipelineConfig, load_config, preset_names
from longcat.disk import write_text
from longcat.errors import ConfigError
from longcat.tracking.record import Record, made_from
from longcat.training.metrics import Records, read_metrics
from longcat.unpacking import read_json

NOTE, CONFIG = "reproduction.json", "reproduction.yaml"
METRICS = "metrics.jsonl"
TIMED: Mapping[str, Mapping[str, str]] = {
    "checkpoint": {
        METRICS: "times and speed beside the curves",
        "events.jsonl": "times of events",
        "life.png": "a picture of times",
        "logs/*": "what processes said",
    },
    "measurement": {"*": "measured times"},
    "benchmark": {"*": "figures of measured times"},
}
"""Files that tell what time something took, by kind and pattern; they are never the same twice."""
_OF_TIME = ("time", "attempt")
_PIECE_BYTES = 1 << 20


@dataclass(frozen=True)
class Outcome:
    """A result, then and now."""

    kind: str
    then: str
    """Digest."""
    now: str | None
    """None where it was not made."""
    because: str | None = None
    """First reason why the digests differ."""
    same: int = 0
    """Files that are the same to the last byte."""
    same_bytes: int = 0
    differ: list[dict[str, Any]] = field(default_factory=list)
    """`file`, and `offset`, the first byte that differs; None where the old file is not kept."""
    only_then: list[str] = field(default_factory=list)
    only_now: list[str] = field(default_factory=list)
    timed: dict[str, str] = field(default_factory=dict)
    """Files that differ as they tell times, and what they tell."""
    curve: str | None = None
    """How far the losses are the same, where there are some."""
    curve_differs: bool = False

    @property
    def identical(self) -> bool:
        """Whether nothing differs but what tells times."""
        digests = self.then == self.now
        return digests and not (self.differ or self.only_then or self.only_now or self.curve_differs)


# ---------------------------------------------------------------------------------------------------- before


def configuration(record: Record, overrides: Iterable[str], folder: Path | None = None) -> PipelineConfig:
    """Read the configuration of a record, with data sets of the hub at the commits that were read, and the same processes.

    Args:
        record: of the run.
        overrides: `KEY=VALUE`, as `--set` takes them.
        folder: keeps it as `reproduction.yaml`; by default nothing is kept.

    Raises:
        ConfigError: this version does not know one of its settings, or an override is none.
    """
    tree = dict(record.config)
    corpus, training = dict(tree.get("corpus") or {}), dict(tree.get("training") or {})
    documents = record.of_kind("documents") or record.of_kind("tokens")
    known = (documents.get("facts") or {}).get("sources", [])
    sources = [dict(one) for one in corpus.get("sources", ())]
    for one, pinned in zip(sources, known, strict=False):
        if one.get("kind") == "hub" and "revision" in pinned:
            one["revision"] = pinned["revision"]
    trained = record.of_kind("checkpoint").get("facts") or {}
    if not training.get("processes") and trained.get("processes"):
        training["processes"] = trained["processes"]
    if training.get("init_from") and trained.get("init_from"):
        at = record.workspace / "checkpoint" / trained["init_from"]
        training["init_from"] = str(at) if at.is_dir() else training["init_from"]
    tree |= {"corpus": corpus | ({"sources": sources} if sources else {}), "training": training}
    if tree.get("preset") not in preset_names():  # all of it is written out
        tree.pop("preset", None)
    text = yaml.safe_dump(tree, sort_keys=False, allow_unicode=True)
    with TemporaryDirectory() as scratch:
        file = (folder or Path(scratch)) / CONFIG
        write_text(file, text)
        try:
            config = load_config(file=file, overrides=overrides)
        except ConfigError as error:
            said = str(error).removeprefix(f"{file}").removeprefix(" with --set").removeprefix(": ")
            raise ConfigError(
                f"the configuration of {record.run.name} is not one of this version: {said}; its own is "
                f"{_commit(record)}"
            ) from None
    if folder is not None:
        known = {} if config.preset in preset_names() else {"preset"}
        settled = config.model_dump(mode="json", exclude=known)
        write_text(folder / CONFIG, yaml.safe_dump(settled, sort_keys=False, allow_unicode=True))
    return config


def given_checkpoint_of(record: Record, trained: bool) -> str | None:
    """Return the digest of the checkpoint that a run was given instead of training one; None if it was not.

    Args:
        record: of the run.
        trained: whether one of its stages trains.
    """
    if trained:
        return None
    for name in record.run.results:
        for parent in made_from(record.manifests.get(name, {"kind": "", "parents": [], "identity": {}})):
            if parent.startswith("checkpoint/"):
                return parent.partition("/")[2]
            if parent in record.manifests:
                deeper = [one for one in made_from(record.manifests[parent]) if one.startswith("checkpoint/")]
                if deeper:
                    return deeper[0].partition("/")[2]
    return None


def prepare(folder: Path, record: Record) -> None:
    """Make the folder of a reproduction, or take the one that was begun for this run.

    Raises:
        ConfigError: there is something else in it.
    """
    note = {"run": record.run.id, "name": record.run.name, "results": record.run.results}
    if folder.is_dir() and any(folder.iterdir()):
        try:
            begun = read_json(folder / NOTE)
        except (OSError, ValueError):
            begun = None
        if begun != note:
            what = (
                f"the reproduction of {begun['name']}" if isinstance(begun, dict) and "name" in begun else "something"
            )
            raise ConfigError(f"--output {folder} holds {what}; name a folder that is empty or not there")
        return
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / NOTE, note)


def _commit(record: Record) -> str:
    commit = next((one["git_commit"] for one in record.manifests.values() if one.get("git_commit")), None)
    return "not known" if commit is None else f"git checkout {str(commit).removesuffix('-dirty')}"


# ---------------------------------------------------------------------------------------------------- after


def outcomes(record: Record, folder: Path, made: Iterable[str]) -> list[Outcome]:
    """Compare the results of a record with those that were made again, what they were made from first.

    Args:
        record: of the run.
        folder: workspace of the reproduction.
        made: `KIND/DIGEST` of its results.
    """
    now = _made(folder, made)
    found = []
    for name, then in record.manifests.items():
        kind = then["kind"]
        alike = [one for one in now.values() if one["kind"] == kind]
        other = now.get(name, alike[-1] if alike else None)
        found.append(_outcome(record, folder, name, then, other))
    return found


def _made(folder: Path, names: Iterable[str]) -> dict[str, Mapping[str, Any]]:
    found: dict[str, Mapping[str, Any]] = {}
    waiting = list(names)
    for name in waiting:
        if name not in found:
            with suppress(OSError, ValueError):
                found[name] = read_json(folder / name / MANIFEST)
                waiting += made_from(found[name])
    return found


def _outcome(
    record: Record, folder: Path, name: str, then: Mapping[str, Any], now: Mapping[str, Any] | None
) -> Outcome:
    kind, digest = then["kind"], then["digest"]
    if now is None:
        return Outcome(kind, digest, None, because="it was not made")
    files = same_files(then.get("files") or {}, now.get("files") or {})
    patterns = TIMED.get(kind, {})
    timed = {
        file: why
        for file in (*files["differ"], *files["only_first"], *files["only_second"])
        if (why := next((why for pattern, why in patterns.items() if fnmatchcase(file, pattern)), None))
    }
    place = folder / kind / now["digest"]
    curve, apart = (None, False)
    if METRICS in (now.get("files") or {}):
        curve, apart = _curve(_records(record.file(name, METRICS)), read_metrics(place / METRICS))
    return Outcome(
        kind,
        digest,
        now["digest"],
        because=None if digest == now["digest"] else _why(then, now),
        same=len(files["same"]),
        same_bytes=files["same_bytes"],
        differ=[
            {"file": file, "offset": first_difference(record.file(name, file), place / file)}
            for file in files["differ"]
            if file not in timed
        ],
        only_then=[file for file in files["only_first"] if file not in timed],
        only_now=[file for file in files["only_second"] if file not in timed],
        timed=timed,
        curve=curve,
        curve_differs=apart,
    )


def _why(then: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    if then.get("stage_version") != now.get("stage_version"):
        return f"STAGE_VERSION was {then.get('stage_version')}, and is {now.get('stage_version')}"
    named = [
        name
        for name, _ in unlike(flat(then["identity"]), flat(now["identity"]))
        if name != "documents"  # that is a parent
    ]
    if named:
        was, is_now = (flat(one["identity"]).get(named[0]) for one in (then, now))
        return f"{named[0]} was {was}, and is {is_now}"
    extra = [one for one in made_from(then) if one.startswith("checkpoint/")] if then["kind"] == "checkpoint" else []
    if extra and len(made_from(then)) > len(made_from(now)):
        return f"it went on from {extra[-1]}, and this one was trained from its first step"
    return "what it was made from differs"


def first_difference(then: Path | bytes | None, now: Path) -> int | None:
    """Return the offset of the first byte that differs; None where the old content is not kept, or nothing differs."""
    if then is None:
        return None
    if isinstance(then, bytes):
        new = now.read_bytes()
        return _first(then, new)
    offset = 0
    with then.open("rb") as old_stream, now.open("rb") as new_stream:
        while True:
            pieces = old_stream.read(_PIECE_BYTES), new_stream.read(_PIECE_BYTES)
            if (found := _first(*pieces)) is not None:
                return offset + found
            if not pieces[0]:
                return None
            offset += len(pieces[0])


def _first(one: bytes, other: bytes) -> int | None:
    if one == other:
        return None
    return next(
        (place for place, pair in enumerate(zip(one, other, strict=False)) if pair[0] != pair[1]),
        min(len(one), len(other)),
    )


def _records(content: Path | bytes | None) -> Records:
    if content is None:
        return []
    if isinstance(content, Path):
        return read_metrics(content)
    with TemporaryDirectory() as scratch:
        file = Path(scratch) / METRICS
        file.write_bytes(content)
        return read_metrics(file)


def _curve(then: Records, now: Records) -> tuple[str | None, bool]:
    """Return in words how far two trainings' records are the same, times left out, and whether they differ."""
    if not then:
        return "the old curve is not kept, so it cannot be compared point by point", False
    steps = same_until(then, now)
    if (
        first := next(
            (pair for pair in zip(map(_learnt, then), map(_learnt, now), strict=False) if pair[0] != pair[1]), None
        )
    ) or len(then) != len(now):
        if first is None:
            return f"{len(then)} records then, {len(now)} now", True
        name = next((name for name, _ in unlike(dict(first[0]), dict(first[1]))), "record")
        until = "no step" if steps["same_until_step"] is None else f"step {steps['same_until_step']}"
        return f"{name} differs at step {first[0]['step']}; losses are the same until {until}", True
    return f"all {len(now)} records are the same to the last bit, times left out", False


def _learnt(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return a record without times; NaN equals itself."""
    return {
        name: value if name == "step" else repr(value)
        for name, value in record.items()
        if name not in _OF_TIME and not name.startswith("perf/")
    }


def as_json(found: Iterable[Outcome]) -> list[dict[str, Any]]:
    """Return outcomes as JSON values."""
    return [asdict(one) | {"identical": one.identical} for one in found]
