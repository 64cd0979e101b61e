"""Tasks of lm-evaluation-harness by name, through its own loader: where they are, and what they consist of."""

from __future__ import annotations

import difflib
import functools
import logging
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml

from longcat.artifact import sha256_file
from longcat.config.evaluation import EvaluationConfig
from longcat.errors import ConfigError, DataError
from longcat.evaluation.task_files import (
    BUILDERS,
    broken_files,
    data_files,
    named_files,
    names_in,
    parts_of,
    settled_data,
)
from longcat.evaluation.task_keys import check_keys
from longcat.provenance import DATA

TASKS = DATA / "evaluation"
_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class Part:
    """A task or a group by itself: the file that defines it, and where its data is."""

    name: str
    files: tuple[Path, ...]
    """YAML, what it includes, and code."""
    settled: Mapping[str, Any]
    """Keys of the task that say where its data is, for this machine."""
    pins: Mapping[str, str]
    """Commit of each data set of the hub; of a file at an address, the address."""
    read: tuple[Path, ...] = ()
    """Files of data that the task's own code reads."""

    @property
    def data(self) -> list[Path]:
        """Local files of data."""
        return [*data_files(self.settled.get("dataset_kwargs") or {}), *self.read]

    def files_of(self, split: str | None) -> list[Path]:
        """Return the local files of a split; all where the task does not say which are whose."""
        named = (self.settled.get("dataset_kwargs") or {}).get("data_files")
        if isinstance(named, dict) and split in named:
            return data_files({"data_files": named[split]})
        return self.data


@dataclass(frozen=True)
class Catalog:
    """Tasks that were asked for, ready to be loaded."""

    manager: Any
    """lm-evaluation-harness' own loader."""
    parts: dict[str, list[Part]]
    """By the name that was asked for."""
    overlay: tempfile.TemporaryDirectory[str]
    """YAML that includes a task and says where its data is on this machine; it lasts as long as this object."""

    @property
    def identity(self) -> dict[str, Any]:
        """Return what the scores depend on besides settings: hashes of all files, commits of data sets, the harness' version."""
        return {"lm_eval": version("lm_eval")} | {
            name: [
                {
                    "name": part.name,
                    "files": [sha256_file(file) for file in (*part.files, *part.data)],
                    **({"data_sets": dict(part.pins)} if part.pins else {}),
                }
                for part in parts
            ]
            for name, parts in self.parts.items()
        }

    def source(self, task: str) -> Part | None:
        """Return the part that a task is; None for one that is defined inside a group."""
        return next((part for parts in self.parts.values() for part in parts if part.name == task), None)


def find_tasks(names: Sequence[str], paths: Sequence[str]) -> Catalog:
    """Find tasks, groups and tags: in data/evaluation, in folders of one's own, and among those of lm-evaluation-harness.

    Of two tasks with one name the one in the later folder counts.

    Raises:
        ConfigError: a folder or a task is unknown, or the hub does not tell the commit of a data set.
        DataError: a file of a task is missing or broken.
    """
    from lm_eval.tasks import TaskManager

    quiet()
    folders = [TASKS, *(Path(path).expanduser() for path in paths)]
    for path, folder in zip(paths, folders[1:], strict=True):
        if not folder.is_dir():
            raise ConfigError(f"evaluation.task_paths: {path} is no folder (relative paths start at {Path.cwd()})")
    manager = TaskManager(include_defaults=False, include_path=list(folders))
    unknown = _unknown(names, manager.task_index)
    if unknown and unknown <= _built_in_names():
        manager = _with_built_in(tuple(folders))
        unknown = _unknown(names, manager.task_index)
    if unknown:
        name = min(unknown)
        broken = [reason for folder in folders for reason in broken_files(folder)]
        if broken:
            raise DataError(f"evaluation.tasks: no task {name!r} was found; {broken[0]}")
        own = sorted(manager.task_index)
        near = difflib.get_close_matches(name, [*own, *sorted(_built_in_names())], n=4)
        hint = f"near are: {', '.join(near)}" if near else f"there are: {', '.join(own)}"
        raise ConfigError(f"evaluation.tasks: unknown task {name!r}; {hint}")
    parts = {name: list(_parts(name, manager.task_index)) for name in names}
    overlay = tempfile.TemporaryDirectory(prefix="longcat-tasks-")
    settled = {part.name: part for some in parts.values() for part in some if part.settled}
    for number, part in enumerate(settled.values()):
        content = yaml.safe_dump({"include": str(part.files[0]), **part.settled})
        Path(overlay.name, f"{number}.yaml").write_text(content, "utf-8")
    over = TaskManager(include_defaults=False, include_path=overlay.name).task_index
    manager.task_index.update({name: entry for name, entry in over.items() if name in settled})
    return Catalog(manager, parts, overlay)


def check_settings(config: EvaluationConfig, task: Any) -> None:
    """Refuse a task that the settings do not allow.

    Raises:
        ConfigError: it runs what the model writes, or needs pictures or sound.
    """
    if getattr(task, "UNSAFE_CODE", False) and not config.run_generated_code:
        raise ConfigError(
            f"evaluation.tasks: {task.task_name} runs programs that the model writes; evaluation.run_generated_code=true accepts that"
        )
    if getattr(task, "MULTIMODAL", False):
        raise ConfigError(f"evaluation.tasks: {task.task_name} needs pictures or sound; the models read text")


def quiet() -> None:
    """Keep lm-evaluation-harness and its loaders from writing lines of their own; what fails is told by whoever asked."""
    import datasets

    datasets.disable_progress_bars()
    logging.getLogger("lm_eval").setLevel(logging.CRITICAL)


def told(error: BaseException) -> str:
    """Say what an error of others is, in one line."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


@functools.cache
def _built_in_names() -> frozenset[str]:
    spec = find_spec("lm_eval")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    return frozenset(names_in(Path(spec.submodule_search_locations[0]) / "tasks"))


@functools.lru_cache(maxsize=1)
def _all_built_in() -> Any:
    from lm_eval.tasks import TaskManager

    return TaskManager()


def _with_built_in(folders: tuple[Path, ...]) -> Any:
    """Return a loader that knows the built-in tasks, too; those of the folders come before them."""
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_defaults=False, include_path=list(folders))
    own = dict(manager.task_index)
    manager.task_index.update({**_all_built_in().task_index, **own})
    return manager


def _children(entry: Any) -> list[Any]:
    """Return the names or definitions that a group or a tag consists of."""
    if entry.kind.name == "TAG":
        return sorted(entry.tags)
    if entry.kind.name != "GROUP":
        return []
    return _members(entry.cfg)


def _members(config: Mapping[str, Any]) -> list[Any]:
    members = config.get("task") or []
    return [members] if isinstance(members, str) else list(members)


def _unknown(names: Sequence[str], index: Mapping[str, Any]) -> set[str]:
    """Return the names that are asked for, directly or in groups, and not in the index."""
    unknown, seen, waiting = set(), set(), list(names)
    while waiting:
        name = waiting.pop()
        if isinstance(name, Mapping):
            if "group" in name and name["group"] not in index:
                waiting += _members(name)
            continue
        if name in seen:
            continue
        seen.add(name)
        if name in index:
            waiting += _children(index[name])
        else:
            unknown.add(name)
    return unknown


def _parts(name: str, index: Mapping[str, Any], _above: tuple[str, ...] = ()) -> Iterator[Part]:
    if name in _above:
        raise ConfigError(f"evaluation.tasks: group {name!r} is a part of itself")
    entry = index[name]
    above = (*_above, name)
    if entry.yaml_path is not None:
        path = Path(entry.yaml_path)
        files = tuple(parts_of(path))
        group = entry.kind.name == "GROUP"
        for config in _members(entry.cfg) if group else [entry.cfg]:
            if isinstance(config, Mapping) and "group" not in config:
                check_keys(config, str(path), whole=not group)
        settled, pins = _settle(entry.cfg, path, group=group)
        read = named_files(entry.cfg, path.parent) if "custom_dataset" in entry.cfg else ()
        yield Part(name, files, settled, pins, tuple(read))
    for child in _children(entry):
        if isinstance(child, str):
            yield from _parts(child, index, above)
        else:
            inner = str(child.get("group") or child.get("task"))
            if inner in index:
                yield from _parts(inner, index, above)


def _settle(config: Mapping[str, Any], path: Path, *, group: bool) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the keys that say where data is, and the pins of data that is not on this machine."""
    if group:
        members: list[Any] = []
        pins: dict[str, str] = {}
        for member in _members(config):
            if isinstance(member, Mapping) and ("dataset_kwargs" in member or "dataset_path" in member):
                settled, pinned = _settle({**config, **member}, path, group=False)
                members.append({**member, **settled})
                pins |= pinned
            else:
                members.append(member)
        return ({"task": members} if members != _members(config) else {}), pins
    if "class" in config or "custom_dataset" in config or config.get("dataset_path") is None:
        return {}, {}
    settled = settled_data(dict(config), path.parent, str(path))
    source = settled.get("dataset_path", config["dataset_path"])
    options = dict(settled.get("dataset_kwargs") or config.get("dataset_kwargs") or {})
    if source in BUILDERS:
        named = options.get("data_files")
        groups = named.values() if isinstance(named, dict) else [named]
        files = [file for some in groups if some for file in ([some] if isinstance(some, str) else some)]
        return settled, {file: "address" for file in files if "://" in file}
    if "dataset_path" in settled:
        folder = Path(settled["dataset_path"])
        hashes = {
            str(file.relative_to(folder)): sha256_file(file) for file in sorted(folder.rglob("*")) if file.is_file()
        }
        return settled, hashes
    commit = _commit(str(source), options.get("revision"), str(path))
    return {"dataset_kwargs": {**options, "revision": commit}}, {str(source): commit}


@functools.cache
def _commit(name: str, revision: str | None, where: str) -> str:
    if revision is not None and _COMMIT.fullmatch(revision):
        return revision
    import huggingface_hub

    try:
        return str(huggingface_hub.HfApi().dataset_info(name, revision=revision, timeout=30).sha)
    except Exception as error:  # the hub's clients raise their own, httpx' and OSErrors
        raise ConfigError(
            f"evaluation.tasks: {where} needs data set {name!r}, and the hub names no commit of it ({told(error)}); check the "
            "network, or give the 40-digit commit as dataset_kwargs.revision to work from the local cache"
        ) from error
