"""Where text comes from: the standard library, files, or a data set of the hub, each pinned to its content.

`resolve` turns what the configuration names into a `Source` whose `pin` stands for the bytes, never for where they lie:
SHA-256 of files in the order they are read, or the commit of a hub data set.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import sysconfig
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from longcat.artifact import sha256_file
from longcat.config import SourceConfig
from longcat.corpus.readers import SUFFIXES, Record, as_text, file_format, read_file, read_python
from longcat.errors import DataError

_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class Source:
    """One source of text, pinned."""

    name: str
    licence: str | None
    """As the source states it; None when it states none."""
    pin: dict[str, str]
    """`{"sha256": ...}` of the content, or `{"revision": commit}`."""
    size_bytes: int
    """Bytes on disk; 0 when they are not known beforehand."""
    records: Callable[[], Iterator[Record]]
    """Reads from the beginning."""
    tolerant: bool = False
    """Whether unreadable records are nobody's mistake: the standard library tests itself with broken files."""


def resolve(config: SourceConfig) -> Source:
    """Find a source and pin it to its content.

    Raises:
        DataError: nothing there, not readable, a format we do not read, or the hub does not answer.
    """
    if config.kind == "stdlib":
        return _standard_library()
    return _local(config) if config.kind == "files" else _hub(config)


# ---------------------------------------------------------------------------------------------------- files


def _standard_library() -> Source:
    root = Path(sysconfig.get_path("stdlib"))
    files = [path for path in _walk(root, {"site-packages", "dist-packages", "__pycache__"}) if path.suffix == ".py"]
    if not files:
        raise DataError(f"the Python in {root} has no sources of its standard library; name files in corpus.sources")
    return _pinned("stdlib", "PSF-2.0", files, lambda path: read_python(path), tolerant=True)


def _local(config: SourceConfig) -> Source:
    path = Path(str(config.path)).expanduser()
    if path.is_dir():
        files = [file for file in _walk(path) if file_format(file)]
    elif path.is_file():
        files = [path] if file_format(path) else []
    else:
        raise DataError(f"corpus source {config.path} does not exist (relative paths start at {Path.cwd()})")
    if not files:
        what = "holds no file that can be read" if path.is_dir() else "has a format that is not read"
        raise DataError(f"corpus source {config.path} {what}; formats are {', '.join(SUFFIXES)}")
    return _pinned(path.name or str(path), None, files, lambda file: read_file(file, config.text_field))


def _walk(root: Path, skip: Collection[str] = ()) -> list[Path]:
    """Files below a folder in the order of their path, without hidden files and folders and those in `skip`."""

    def give_up(error: OSError) -> None:
        raise DataError(f"cannot read folder {error.filename}: {error.strerror}") from error

    files = []
    for folder, folders, names in os.walk(root, onerror=give_up):
        folders[:] = [name for name in folders if name not in skip and not name.startswith(".")]
        files += [Path(folder, name) for name in names if not name.startswith(".")]
    return sorted((path for path in files if path.is_file()), key=lambda path: path.relative_to(root).as_posix())


def _pinned(
    name: str, licence: str | None, files: list[Path], read: Callable[[Path], Iterator[Record]], tolerant: bool = False
) -> Source:
    """A source of files, read in the order given."""
    try:
        before = [_stamp(path) for path in files]
        with ThreadPoolExecutor() as pool:
            digests = list(pool.map(sha256_file, files))
    except OSError as error:
        raise DataError(f"cannot read {error.filename or name}: {error.strerror}") from None
    contents = json.dumps([[file_format(path), digest] for path, digest in zip(files, digests, strict=True)])

    def records() -> Iterator[Record]:
        for path, stamp in zip(files, before, strict=True):
            yield from read(path)
            if _stamp(path) != stamp:
                raise DataError(f"{path} was changed while it was read; run again when nobody writes to it")

    return Source(
        name=name,
        licence=licence,
        pin={"sha256": hashlib.sha256(contents.encode()).hexdigest()},
        size_bytes=sum(size for size, _ in before),
        records=records,
        tolerant=tolerant,
    )


def _stamp(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_size, status.st_mtime_ns


# ---------------------------------------------------------------------------------------------------- hub


def _hub(config: SourceConfig) -> Source:
    name = str(config.name)
    commit, licence = config.revision, None
    if not _COMMIT.fullmatch(commit):
        import huggingface_hub

        try:
            info = huggingface_hub.HfApi().dataset_info(name, revision=config.revision)
        except Exception as error:  # the hub's clients raise their own, httpx' and OSErrors
            raise DataError(
                f"data set {name!r}, revision {config.revision!r}: the hub names no commit ({_first_line(error)}); "
                "check the name and the network, or give the 40-digit commit as `revision` to work from the local cache"
            ) from error
        commit = str(info.sha)
        licence = getattr(info.card_data, "license", None) if info.card_data else None
    return Source(
        name=name if config.subset is None else f"{name}/{config.subset}",
        licence=", ".join(licence) if isinstance(licence, list) else licence,
        pin={"revision": commit},
        size_bytes=0,
        records=lambda: _hub_records(config, commit),
    )


def _hub_records(config: SourceConfig, commit: str) -> Iterator[Record]:
    import datasets

    where = f"data set {config.name!r} at {commit[:12]}, split {config.split!r}"
    try:
        rows = iter(
            datasets.load_dataset(config.name, config.subset, split=config.split, revision=commit, streaming=True)
        )
        first = next(rows, None)
        if first is None:
            return
        if config.text_field not in first:
            raise DataError(
                f"{where} has no field {config.text_field!r}; there are: {', '.join(first)} "
                "(choose one with the source's `text_field`)"
            )
        for number, row in enumerate(chain([first], rows)):
            yield as_text(row.get(config.text_field), f"{where}, row {number}")
    except DataError:
        raise
    except Exception as error:  # whatever the data set's format and its transport may raise
        raise DataError(f"{where} cannot be read: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
