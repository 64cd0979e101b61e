"""Sources of text: the standard library, files, packages, a data set of the hub, made-up text or a function, each pinned.

`resolve` turns what the configuration names into a `Source` whose `pin` stands for the bytes, never for where they lie:
SHA-256 of files in the order they are read, the commit of a hub data set, or what text is made from, also the code of a function.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import sysconfig
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, overload

from longcat.artifact import sha256_file
from longcat.config import SourceConfig
from longcat.corpus.addresses import RemoteFile, check_address, is_address, list_address
from longcat.corpus.blocks import split_into_blocks, stamp
from longcat.corpus.listing import Listing, in_words, list_path, walk
from longcat.corpus.own_functions import OwnFunction
from longcat.corpus.packages import check_package, unpack
from longcat.corpus.readers import File, Oversized, Record, as_text, file_suffix, own_code
from longcat.corpus.readers.values import MISSING, find, labelled
from longcat.errors import DataError
from longcat.extensions import SOURCES
from longcat.local_services.training_text import VERSION, check_names, training_documents
from longcat.processes.pool import note_place
from longcat.redaction import redact

_COMMIT = re.compile(r"[0-9a-f]{40}")
_TEXTS_OF_BLOCK = 10_000
"""Made-up texts in a block: 3 MB, a few seconds of one core."""


class Block(Protocol):
    """A part of a source that can be read by itself, in any process that sees the same files."""

    def records(self, encodings: list[str], record_bytes: int) -> Iterator[Record]:
        """Read the block from its beginning, see `blocks.FileBlock.records`."""


@dataclass(frozen=True)
class Source:
    """One source of text, pinned."""

    name: str
    licence: str | None
    """Licence that the source states; None if it states none."""
    pin: dict[str, str]
    """`{"sha256": ...}` of the content, or `{"revision": ...}`: the commit, or what made-up text is made from; of a function, its
    name, arguments and code."""
    blocks: Sequence[Block]
    tolerant: bool = False
    """Whether unreadable records are expected: the standard library tests itself with broken files."""
    left_out: dict[str, int] = field(default_factory=dict)
    """How many files of a folder are not read, by suffix."""


def resolve(config: SourceConfig, block_bytes: int, sha256: Callable[[Path], str] = sha256_file) -> Source:
    """Find a source, pin it to its content, and divide it into blocks of about `block_bytes`.

    Args:
        config: the source.
        block_bytes: of a block.
        sha256: finds the hash of a local file.

    Raises:
        DataError: the source is missing or unreadable, has no format that is read, or the hub does not answer.
    """
    if config.kind == "stdlib":
        source = _standard_library(block_bytes, sha256)
    elif config.kind == "files":
        source = _local(config, block_bytes, sha256)
    elif config.kind == "package":
        source = _package(config, block_bytes, sha256)
    elif config.kind == "local_services":
        source = _local_services(config)
    elif config.kind == "own":
        source = _own(config)
    else:
        source = _hub(config)
    return source if config.licence is None else replace(source, licence=config.licence)


# ---------------------------------------------------------------------------------------------------- files


def check_source(config: SourceConfig) -> None:
    """Refuse a source that cannot be read, without reading it or asking the network.

    Raises:
        DataError: a file or client is missing, or no file has a format that is read.
        ConfigError: questions about local services have no such task or form, or there is no such function.
    """
    if config.kind == "stdlib":
        _standard_library_files()
    elif config.kind == "files" and is_address(str(config.path)) and not str(config.path).startswith("file://"):
        check_address(str(config.path), redact(f"corpus source {config.path}"))
    elif config.kind == "files":
        for path in _local_files(config).files:
            if not os.access(path, os.R_OK):
                raise DataError(f"cannot read {path}: Permission denied")
    elif config.kind == "package":
        check_package(str(config.package))
    elif config.kind == "local_services":
        check_names(config.tasks, config.forms)
    elif config.kind == "own":
        _own_function(str(config.function))


def _standard_library_files() -> list[Path]:
    root = Path(sysconfig.get_path("stdlib"))
    files = [path for path in walk(root, {"site-packages", "dist-packages", "__pycache__"}) if path.suffix == ".py"]
    if not files:
        raise DataError(f"the Python in {root} has no sources of its standard library; name files in corpus.sources")
    return files


def _standard_library(block_bytes: int, sha256: Callable[[Path], str]) -> Source:
    return _pinned("stdlib", "PSF-2.0", _standard_library_files(), "text", block_bytes, sha256, tolerant=True)


def _local_files(config: SourceConfig) -> Listing:
    """List the files of a source in the order they are read."""
    where = f"corpus source {config.path}"
    if is_address(str(config.path)):
        return list_address(str(config.path), redact(where))
    return list_path(Path(str(config.path)).expanduser(), where)


def _local(config: SourceConfig, block_bytes: int, sha256: Callable[[Path], str]) -> Source:
    listing = _local_files(config)
    place = redact(str(config.path))
    name = place if is_address(place) else Path(place).expanduser().name or place
    lines = config.documents == "lines"
    source = _pinned(name, None, listing.files, config.text_field, block_bytes, sha256, lines=lines)
    if listing.left_out:
        warnings.warn(f"corpus source {place}: files that are not read: {in_words(listing.left_out)}", stacklevel=3)
    return replace(source, left_out=dict(listing.left_out.most_common()))


def _package(config: SourceConfig, block_bytes: int, sha256: Callable[[Path], str]) -> Source:
    package = unpack(str(config.package))
    files = [
        path
        for path in walk(package.path)
        if file_suffix(path) and fnmatchcase(path.relative_to(package.path).as_posix(), config.members)
    ]
    if not files:
        raise DataError(
            f"corpus source {config.package} has no file that can be read and matches members={config.members!r} "
            f"(they are in {package.path})"
        )
    return _pinned(f"{package.name} {package.version}", None, files, config.text_field, block_bytes, sha256)


def _pinned(
    name: str,
    licence: str | None,
    files: Sequence[File],
    text_field: str,
    block_bytes: int,
    sha256: Callable[[Path], str],
    tolerant: bool = False,
    lines: bool = False,
) -> Source:
    """Make a source of files that are read in the order given."""
    try:
        stamps = [stamp(path) for path in files]
        with ThreadPoolExecutor() as pool:
            digests = list(
                pool.map(lambda file: file.pin() if isinstance(file, RemoteFile) else sha256(Path(str(file))), files)
            )
    except OSError as error:
        raise DataError(f"cannot read {error.filename or name}: {error.strerror}") from None
    contents = json.dumps(
        [[file_suffix(path), digest, *own_code(path)] for path, digest in zip(files, digests, strict=True)]
    )
    return Source(
        name=name,
        licence=licence,
        pin={"sha256": hashlib.sha256(contents.encode()).hexdigest()},
        blocks=split_into_blocks(list(zip(files, stamps, strict=True)), text_field, block_bytes, lines),
        tolerant=tolerant,
    )


# ---------------------------------------------------------------------------------------------------- made-up text


def _local_services(config: SourceConfig) -> Source:
    language, count = str(config.language), int(config.count or 0)
    tasks, forms = tuple(config.tasks), tuple(config.forms)
    check_names(tasks, forms)
    made = [
        LocalServicesBlock(language, config.seed, number, min(_TEXTS_OF_BLOCK, count - first), tasks, forms)
        for number, first in enumerate(range(0, count, _TEXTS_OF_BLOCK))
    ]
    return Source(
        name=f"local services ({language})",
        licence="MIT",
        pin={"revision": "-".join([f"{VERSION}-{language}-{config.seed}-{count}", *tasks, *forms])},
        blocks=made,
    )


@dataclass(frozen=True)
class LocalServicesBlock:
    """Questions about local services, with their answers; each block of a seed has a seed of its own."""

    language: str
    seed: int
    number: int
    count: int
    tasks: tuple[str, ...]
    forms: tuple[str, ...]

    def records(self, encodings: list[str], record_bytes: int) -> Iterator[Record]:
        """Make the texts."""
        digest = hashlib.sha256(f"{self.seed} {self.number}".encode()).digest()
        yield from training_documents(int.from_bytes(digest[:8]), self.language, self.count, self.tasks, self.forms)


# ---------------------------------------------------------------------------------------------------- functions


def _own_function(name: str) -> OwnFunction:
    return OwnFunction.load(name, "corpus.sources=own:", SOURCES)


def _own(config: SourceConfig) -> Source:
    name = str(config.function)
    depends = json.dumps([config.arguments, _own_function(name).identity], sort_keys=True)
    pin = {"revision": f"{name}-{hashlib.sha256(depends.encode()).hexdigest()[:40]}"}
    return Source(name=name, licence=None, pin=pin, blocks=[OwnBlock(name, tuple(config.arguments.items()))])


@dataclass(frozen=True)
class OwnBlock:
    """All texts that a function of the user's own yields."""

    function: str
    arguments: tuple[tuple[str, Any], ...]

    def records(self, encodings: list[str], record_bytes: int) -> Iterator[Record]:
        """Call the function.

        Raises:
            ConfigError: it raised something, or yielded something else than a string.
        """
        own = _own_function(self.function)
        for number, text in enumerate(own.texts(**dict(self.arguments)), 1):
            place = f"{self.function}, text {number}"
            note_place(place)
            if not isinstance(text, str):
                raise own.failed(f"it yielded {text!r:.100}; expected a string")
            yield Oversized(place) if len(text) > record_bytes else text


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
        blocks=HubBlocks(config, commit),
    )


class HubBlocks(Sequence[Block]):
    """The blocks of a data set, one per file; the hub is asked for their number when it is needed."""

    def __init__(self, config: SourceConfig, commit: str) -> None:
        self._config, self._commit = config, commit

    @cached_property
    def _count(self) -> int:
        with _hub_errors(_where(self._config, self._commit)):
            return int(_stream(self._config, self._commit).num_shards)

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, index: int) -> Block: ...
    @overload
    def __getitem__(self, index: slice) -> list[Block]: ...
    def __getitem__(self, index: int | slice) -> Block | list[Block]:
        """Return the block of a file."""
        chosen = range(len(self))[index]
        if isinstance(chosen, range):
            return [self[number] for number in chosen]
        return HubBlock(self._config, self._commit, chosen, len(self))


@dataclass(frozen=True)
class HubBlock:
    """One file of a data set on the hub, read as a stream."""

    config: SourceConfig
    commit: str
    index: int
    count: int

    def records(self, encodings: list[str], record_bytes: int) -> Iterator[Record]:
        """Read the texts of the file.

        Raises:
            DataError: the hub does not answer, or the data set has no such field.
        """
        config, where = self.config, _where(self.config, self.commit)
        if self.count > 1:
            where += f", file {self.index} of {self.count}"
        with _hub_errors(where):
            rows = iter(_stream(config, self.commit).shard(self.count, self.index))
            for number, row in enumerate(rows):
                text, place = find(row, config.text_field), f"{where}, row {number}"
                if text is MISSING:
                    raise DataError(
                        f"{where} has no field {config.text_field!r}; there are: {', '.join(row)} "
                        "(choose one with the source's `text_field`)"
                    )
                long = isinstance(text, str | bytes) and len(text) > record_bytes
                note_place(place)
                yield Oversized(place) if long else labelled(as_text(text, place, encodings), row)


def _stream(config: SourceConfig, commit: str) -> Any:
    import datasets

    return datasets.load_dataset(config.name, config.subset, split=config.split, revision=commit, streaming=True)


def _where(config: SourceConfig, commit: str) -> str:
    return f"data set {config.name!r} at {commit[:12]}, split {config.split!r}"


@contextmanager
def _hub_errors(where: str) -> Iterator[None]:
    try:
        yield
    except DataError:
        raise
    except Exception as error:  # whatever the data set's format and its transport may raise
        raise DataError(f"{where} cannot be read: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
