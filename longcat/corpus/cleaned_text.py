"""Cleaned text written out: the documents that preprocessing keeps, and those that it leaves out with the reason.

    kept/000-0000000.parquet      a file for each block that has such documents: id, url, source, language, quality, text
    dropped/000-0000000.parquet   the same, and the reason
    about.json                    the recipe, the format, and how many documents there are

The folder gets its name when all of it is there. What an interrupted run leaves lies beside it under a name that begins
with a dot, and the next run goes on with it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np

from longcat.artifact import Workspace, write_json
from longcat.config import PipelineConfig
from longcat.corpus.arrays import save
from longcat.corpus.block_tasks import without
from longcat.corpus.checks import check_corpus
from longcat.corpus.decontamination import evaluation_files, known_runs
from longcat.corpus.documents import judge_all
from longcat.corpus.judged import JudgedBlock
from longcat.corpus.labels import DROPPED, LABELS
from longcat.corpus.mapping import Mapper, processes
from longcat.corpus.selection import KEPT, REASONS, select
from longcat.corpus.sources import resolve
from longcat.corpus.stage import documents_recipe
from longcat.disk import check_can_be_folder, disk_errors, private_folder, remove, replacing, sync_all
from longcat.errors import ConfigError
from longcat.lease import lease
from longcat.progress import Progress, Reporter, no_progress
from longcat.provenance import source_hashes
from longcat.unpacking import read_json

Format = Literal["parquet", "jsonl"]
FORMATS: tuple[Format, ...] = ("parquet", "jsonl")
SUFFIXES = {"parquet": ".parquet", "jsonl": ".jsonl.zst"}
ABOUT = "about.json"
_FIELDS = ("id", "url", "source", "language", "quality")
_AT_ONCE = 1000
_JUDGED, _SELECTED = 60.0, 75.0


@dataclass(frozen=True)
class TextTask:
    """Write the documents of a block."""

    block: JudgedBlock
    state: np.ndarray
    """See `KeptDocuments.state`, uint8 `[documents]`."""
    cuts: np.ndarray
    """Paragraphs to cut out, int64 `[cuts, 3]`: document, first byte, byte after the last, in order."""
    source: str
    """Name of its source."""
    folder: Path
    format: Format

    def __str__(self) -> str:
        return f"the text of block {self.block.name}"


def write_cleaned_text(
    config: PipelineConfig,
    folder: Path,
    format: Format,
    *,
    workspace: Workspace,
    report: Reporter = no_progress,
    mapper: Mapper | None = None,
) -> dict[str, Any]:
    """Write the cleaned text of a corpus; returns what `about.json` says.

    Args:
        config: section `corpus`.
        folder: to make; one that holds this very text already is left alone.
        format: of the files, both compressed with zstd.
        workspace: remembers the hashes of sources.
        report: receives progress in percent.
        mapper: does the work; `corpus.workers` processes of this machine if none is given.

    Raises:
        ConfigError: the folder is there and holds something else.
        DataError: a source is missing or damaged, or too many records cannot be read.
        StorageError: the disk is full.
        WorkspaceBusyError: another process writes there.
    """
    if mapper is None:
        with processes(config.corpus.workers, config.corpus.hang_timeout_s) as mapper:
            return write_cleaned_text(config, folder, format, workspace=workspace, report=report, mapper=mapper)
    corpus = config.corpus
    check_corpus(config)
    sources = [resolve(source, corpus.block_bytes, workspace.sha256) for source in corpus.sources]
    workspace.hashes.save()
    evaluations = evaluation_files(corpus.decontaminate)
    recipe = documents_recipe(corpus, sources, evaluations)
    wanted = {"recipe": recipe.digest, "format": format}
    if (done := _finished(folder, wanted)) is not None:
        return done
    partial = folder.with_name(f".{folder.name}.partial")
    with disk_errors(folder, "another --write-text"):
        folder.parent.mkdir(parents=True, exist_ok=True)
    with disk_errors(folder, "another --write-text"), lease(folder.with_name(f".{folder.name}.lease")):
        code = {**wanted, "code": source_hashes(recipe.sources)}
        if not (partial / "recipe.json").is_file() or read_json(partial / "recipe.json") != code:
            remove(partial)
            private_folder(partial)
            write_json(partial / "recipe.json", code)
        scratch = partial / "scratch"
        scratch.mkdir(exist_ok=True)
        known = scratch / "known.npy"
        save(known, known_runs(evaluations))

        def tell(what: str, done: float, begin: float = _JUDGED, end: float = _SELECTED) -> None:
            report(Progress("preprocess", begin + (end - begin) * done, 100, what))

        facts, blocks = judge_all(corpus, sources, scratch, known, mapper, report, labelled=True)
        selection = select(blocks, corpus, scratch / "selection", mapper, tell)
        tasks = (
            TextTask(
                block=block,
                state=selection.state[selection.of(number)],
                cuts=selection.cuts_of(number),
                source=sources[block.source].name,
                folder=partial / "text",
                format=format,
            )
            for number, block in enumerate(blocks)
        )
        for name in ("kept", "dropped"):
            (partial / "text" / name).mkdir(parents=True, exist_ok=True)
        counts = np.zeros(2, np.int64)
        for number, written in enumerate(mapper(write_text_of_block, tasks), start=1):
            counts += written
            tell("writing text", number / len(blocks), _SELECTED, 100)
        about = {
            **wanted,
            "kept": int(counts[0]),
            "dropped": int(counts[1]),
            "unreadable": facts["bad_lines"],
            "sources": facts["sources"],
        }
        write_json(partial / "text" / ABOUT, about)
        sync_all(partial / "text")
        if folder.is_dir():  # an empty one
            folder.rmdir()
        os.rename(partial / "text", folder)
        remove(partial)
    return about


def check_folder(folder: Path) -> None:
    """Refuse a folder that holds something else than written text.

    Raises:
        ConfigError: it does.
        StorageError: it is a file, or would lie in one.
    """
    check_can_be_folder(folder, "--write-text")
    if folder.exists() and not (folder / ABOUT).is_file() and any(folder.iterdir()):
        raise ConfigError(f"--write-text {folder} is there and holds something else; choose a folder to be made")


def _finished(folder: Path, wanted: dict[str, str]) -> dict[str, Any] | None:
    check_folder(folder)
    if not (folder / ABOUT).is_file():
        return None
    about: dict[str, Any] = read_json(folder / ABOUT)
    if {name: about.get(name) for name in wanted} != wanted:
        raise ConfigError(
            f"--write-text {folder} holds the text of another corpus, configuration or format; choose another folder"
        )
    return about


def write_text_of_block(task: TextTask) -> tuple[int, int]:
    """Write the documents of a block; returns how many were kept and left out."""
    name = task.block.name.replace("/", "-")
    kept, dropped = (task.folder / part / f"{name}{SUFFIXES[task.format]}" for part in ("kept", "dropped"))
    counted = task.folder.parent / "counted" / f"{task.block.name}.json"
    if counted.exists():
        counts = read_json(counted)
        return counts["kept"], counts["dropped"]
    counts = {
        "kept": _write(kept, _kept(task), task.format, _FIELDS),
        "dropped": _write(dropped, _dropped(task), task.format, (*_FIELDS, "reason")),
    }
    counted.parent.mkdir(parents=True, exist_ok=True)
    write_json(counted, counts)
    return counts["kept"], counts["dropped"]


def _kept(task: TextTask) -> Iterator[dict[str, Any]]:
    for row, state in _selected(task):
        if state == KEPT:
            yield row


def _dropped(task: TextTask) -> Iterator[dict[str, Any]]:
    with _zstd_lines(task.block.file(DROPPED)) as lines:
        for line in lines:
            yield {"source": task.source, **json.loads(line)}
    for row, state in _selected(task):
        if state != KEPT:
            yield {**row, "reason": REASONS[state]}


def _selected(task: TextTask) -> Iterator[tuple[dict[str, Any], int]]:
    """Yield the documents that judging kept, and what selection says of each."""
    ends = task.block.ends()
    first_cut = np.searchsorted(task.cuts[:, 0], np.arange(len(ends) + 1))
    with task.block.file(LABELS).open("rb") as labels, task.block.file("text").open("rb") as stream:
        begin = 0
        for number, (end, label) in enumerate(zip(ends.tolist(), labels, strict=True)):
            content = stream.read(end - begin)
            begin = end
            cut = without(content, task.cuts[first_cut[number] : first_cut[number + 1], 1:])
            yield {"source": task.source, **json.loads(label), "text": cut.decode()}, int(task.state[number])


def _zstd_lines(path: Path) -> Any:
    import io

    import zstandard

    return io.BufferedReader(zstandard.open(path, "rb"))


def _write(path: Path, rows: Iterator[dict[str, Any]], format: Format, fields: tuple[str, ...]) -> int:
    """Write a file, unless it would be empty; returns the documents in it."""
    first = next(rows, None)
    if first is None:
        return 0
    with replacing(path) as stream:
        write = _write_parquet if format == "parquet" else _write_jsonl
        return write(stream, _batches(first, rows), (*fields, "text"))


def _batches(first: dict[str, Any], rows: Iterator[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    batch = [first]
    for row in rows:
        if len(batch) == _AT_ONCE:
            yield batch
            batch = []
        batch.append(row)
    yield batch


def _write_parquet(stream: IO[bytes], batches: Iterator[list[dict[str, Any]]], fields: tuple[str, ...]) -> int:
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.schema([(name, pa.float64() if name == "quality" else pa.string()) for name in fields])
    count = 0
    with pq.ParquetWriter(stream, schema, compression="zstd") as writer:
        for batch in batches:
            writer.write_table(pa.Table.from_pylist(batch, schema=schema))
            count += len(batch)
    return count


def _write_jsonl(stream: IO[bytes], batches: Iterator[list[dict[str, Any]]], fields: tuple[str, ...]) -> int:
    import zstandard

    count = 0
    with zstandard.ZstdCompressor().stream_writer(stream, closefd=False) as writer:
        for batch in batches:
            for row in batch:
                line = json.dumps({name: row.get(name) for name in fields}, ensure_ascii=False) + "\n"
                writer.write(line.encode())
            count += len(batch)
    return count
