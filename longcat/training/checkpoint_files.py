"""Checkpoints of a run in progress, as files.

checkpoints/step-00000100/     a state that is whole; it is `.step-00000100` until then
    .metadata, __0_0.distcp    weights, optimizers and random generators, in torch's distributed format
    run.json                   what the run knows besides (`RunRecord`)
    digests.json               sha256 and size of each of these files
checkpoints/step-00000100.damaged    one that was found to differ from its digests
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from longcat.artifact import sha256_file, write_json
from longcat.disk import copy_file, sync
from longcat.errors import ArtifactError
from longcat.interchange.checkpoint_facts import LayoutSince
from longcat.lease import check_lease
from longcat.training.checkpoint_reader import METADATA
from longcat.training.checkpoint_writer import Digest
from longcat.unpacking import read_json

DIGESTS, RUN = "digests.json", "run.json"
_NAME = re.compile(r"step-(\d{8})")


@dataclass(frozen=True)
class RunRecord:
    """What a run in progress knows besides weights, moments and random generators; JSON."""

    batches: int = 0
    """Batches read so far: the next step reads the one with this number."""
    health: dict[str, Any] = field(default_factory=dict)
    """Of `longcat.training.health`."""
    layouts: tuple[LayoutSince, ...] = ()
    """Layouts that it has been trained in, oldest first."""
    run: str = ""
    """Digest of the artifact that is made."""
    clean: int = 0
    """Steps after which a search for wrong bits last found none, if there are searches."""

    def write(self, folder: Path) -> None:
        """Write it into the folder of a state."""
        write_json(folder / RUN, asdict(self))

    @classmethod
    def read(cls, folder: Path) -> RunRecord:
        """Read what a run knew when it wrote a state.

        Raises:
            ArtifactError: it is missing or unreadable.
        """
        try:
            values = read_json(folder / RUN)
            layouts = tuple(LayoutSince(**of) for of in values["layouts"])
            clean = int(values.get("clean", 0))
            return cls(int(values["batches"]), dict(values["health"]), layouts, str(values["run"]), clean)
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise ArtifactError(f"{folder / RUN} is missing or unreadable ({error})") from None


def saved(directory: Path) -> list[tuple[int, Path]]:
    """List the complete checkpoints in `directory` as (step, path), oldest first."""
    complete = [(int(match[1]), path) for path in directory.glob("step-*") if (match := _NAME.fullmatch(path.name))]
    return sorted(complete)


def folder_of(directory: Path, step: int) -> Path:
    """Return where the checkpoint after so many steps lies."""
    return directory / f"step-{step:08d}"


def unfinished(final: Path) -> Path:
    """Return where a checkpoint lies while it is written."""
    return final.with_name(f".{final.name}")


def make(folder: Path) -> None:
    """Make an empty folder, replacing what is there."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)


def commit(final: Path, step: int, record: RunRecord, digests: Mapping[str, Digest]) -> None:
    """Give a checkpoint that is written its name, once all of it is on the disk.

    Args:
        final: its folder; what is there is replaced.
        step: steps that it has seen.
        record: what the run knows besides.
        digests: of all files that processes have written to `unfinished(final)`.
    """
    folder = unfinished(final)
    record.write(folder)
    own = {"sha256": sha256_file(folder / RUN), "bytes": (folder / RUN).stat().st_size}
    write_json(folder / DIGESTS, {"step": step, "files": {**digests, RUN: own}})
    sync(folder)
    check_lease()  # this process may have stood still since the state was taken
    if final.exists():
        shutil.rmtree(final)
    os.rename(folder, final)
    sync(final.parent)


def give(checkpoint: Path, target: Path) -> None:
    """Make a folder with the files of a checkpoint, but its digests, which stays where it is; what is there is replaced.

    Both share the files where the file system can do that.
    """
    folder = unfinished(target)
    make(folder)
    for path in sorted(checkpoint.iterdir()):
        if path.name != DIGESTS:
            try:
                os.link(path, folder / path.name)
            except OSError:  # a file system without links; a full disk will refuse the copy, too
                copy_file(path, folder / path.name)
    sync(folder)
    if target.exists():
        shutil.rmtree(target)
    os.rename(folder, target)
    sync(target.parent)


def fault(path: Path, part: int = 0, parts: int = 1) -> str | None:
    """Say how a checkpoint differs from what was written; None if it does not.

    Args:
        path: its folder.
        part: which of `parts` processes asks: each reads its share of the files.
        parts: number of these processes.
    """
    try:
        written = read_json(path / DIGESTS)
        step, files = int(written["step"]), dict(written["files"])
        expected = {str(name): (str(of["sha256"]), int(of["bytes"])) for name, of in files.items()}
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"{path / DIGESTS} is missing or unreadable ({error})"
    if folder_of(path.parent, step) != path:
        return f"{path} holds the state after step {step}"
    if missing := {METADATA, RUN} - expected.keys():
        return f"{path / DIGESTS} does not name {' and '.join(sorted(missing))}"
    for name in sorted(expected)[part::parts]:
        digest, size = expected[name]
        file = path / name
        if Path(name).name != name:
            return f"{path / DIGESTS} names {name!r}, which is no file of the folder"
        try:
            if file.stat().st_size != size:
                return f"{file} has {file.stat().st_size} bytes, {size} were written"
            if sha256_file(file) != digest:
                return f"{file} is not what was written (sha256)"
        except OSError as error:
            return f"{file}: {error.strerror}"
    return None


def check_run(path: Path, record: RunRecord, run: str) -> None:
    """Refuse a checkpoint in progress that another run has written, however much its tensors look alike.

    Raises:
        ArtifactError: it is one.
    """
    if record.run != run:
        raise ArtifactError(
            f"{path} is of another run (checkpoint/{record.run}, this is checkpoint/{run}): of another model, tokenizer, corpus "
            "or other settings of training; move it away, or delete it, and run the same command again"
        )


def set_aside(path: Path) -> Path:
    """Take a damaged checkpoint out of the way; returns where it lies now."""
    aside = path.with_name(f"{path.name}.damaged")
    if aside.exists():
        shutil.rmtree(aside)
    os.rename(path, aside)
    sync(path.parent)
    return aside


def thin_out(directory: Path, keep: int, every_steps: int = 0, clean: int | None = None) -> None:
    """Drop most of the checkpoints.

    Args:
        directory: where they lie.
        keep: number of newest ones that stay.
        every_steps: those at its multiples stay as well, if it is not 0.
        clean: the newest one up to this step stays as well, if it is given.
    """
    there = saved(directory)
    spared = max((step for step, _ in there if clean is not None and step <= clean), default=None)
    for step, path in there[:-keep]:
        if step != spared and (not every_steps or step % every_steps):
            _drop(path)


def _drop(path: Path) -> None:
    hidden = unfinished(path)
    shutil.rmtree(hidden, ignore_errors=True)
    os.rename(path, hidden)  # so that half of one is never taken for a whole one
    shutil.rmtree(hidden, ignore_errors=True)


def drop_after(directory: Path, step: int) -> None:
    """Drop the checkpoints of later steps."""
    for later, path in saved(directory):
        if later > step:
            _drop(path)


def clear(directory: Path) -> None:
    """Drop what processes that were killed have left half written."""
    for path in directory.glob(".step-*"):
        shutil.rmtree(path, ignore_errors=True)
