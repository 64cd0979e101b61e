"""The preprocessing stage: text in, token shards out.

Two passes over the documents, with a spool on disk between them: read, clean, drop duplicates and split; then train the
tokenizer on a sample of the training split, and tokenise and pack both splits.
"""

from __future__ import annotations

import os
import platform
import tempfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from longcat.artifact import Artifact, Recipe, Workspace
from longcat.config import CorpusConfig, PipelineConfig, identity
from longcat.corpus import card
from longcat.corpus.decontamination import evaluation_files, pins
from longcat.corpus.deduplication import content_hash, is_held_out, sample_key
from longcat.corpus.judge import Judge
from longcat.corpus.packing import PackedRows, Packer
from longcat.corpus.readers import Unreadable
from longcat.corpus.shards import TOKEN_BYTES, TOKENIZER, SplitIndex, token_dtype, write_index, write_shards
from longcat.corpus.sources import Source, resolve
from longcat.corpus.spool import Spool
from longcat.errors import DataError
from longcat.progress import Progress, Reporter, silent

STAGE_VERSION = 1
SOURCES = (Path(__file__).parent,)
_BATCH_BYTES = 1 << 20
_READ, _TRAIN = 15.0, 30.0  # percentages of the whole at which these steps end, as measured on the standard library

Splits = dict[str, Spool]
_In = TypeVar("_In")
_Out = TypeVar("_Out")


def preprocess(config: PipelineConfig, *, workspace: Workspace, report: Reporter = silent) -> Artifact:
    """Turn the corpus into token shards.

    Args:
        config: section `corpus`; `training.batch_sequences` only for a check.
        workspace: where the artifact goes.
        report: hears of progress in percent.

    Returns:
        A `tokens` artifact; `longcat.corpus.shards` describes and opens it.

    Raises:
        DataError: a source is missing or damaged, more records than `corpus.max_bad_share` cannot be read, nothing is
            left after cleaning, or there is less text than one row per split and one training batch.
        StorageError: the disk is full.
    """
    report(Progress("preprocess", 0, 100, "finding the corpus"))
    sources = [resolve(source) for source in config.corpus.sources]
    evaluations = evaluation_files(config.corpus.decontaminate)

    def build(directory: Path) -> Mapping[str, Any]:
        return _build(config.corpus, sources, evaluations, directory, report)

    artifact = workspace.materialize(tokens_recipe(config.corpus, sources, evaluations), build)
    rows = artifact.facts["train_rows"]
    if rows < config.training.batch_sequences:
        raise DataError(
            f"the corpus makes {rows} training sequences of {config.corpus.sequence_length_tokens} tokens, fewer than "
            f"one batch: give it more text, or lower training.batch_sequences={config.training.batch_sequences} or "
            "corpus.sequence_length_tokens"
        )
    report(Progress("preprocess", 100, 100, f"{artifact.facts['train_tokens']:,} training tokens"))
    return artifact


def tokens_recipe(corpus: CorpusConfig, sources: list[Source], evaluations: list[Path]) -> Recipe:
    """What the shards follow from: the configuration, and the content of sources and files instead of their place."""
    essence = identity(corpus)
    essence["decontaminate"] = pins(evaluations)
    for described, source in zip(essence["sources"], sources, strict=True):
        described.update(source.pin)  # a moving `revision` becomes the commit it stands for now
    return Recipe(kind="tokens", version=STAGE_VERSION, identity=essence, sources=SOURCES)


def _build(
    corpus: CorpusConfig, sources: list[Source], evaluations: list[Path], directory: Path, report: Reporter
) -> dict[str, Any]:
    # here and not at the top: reusing a finished artifact does not need the library
    import tokenizers

    from longcat.corpus.tokenizer import END_OF_TEXT, single_threaded, token_bytes, train_tokenizer

    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix=".text-", dir=directory)))
        splits = {name: stack.enter_context(Spool(scratch / name)) for name in ("train", "held_out")}
        judge = Judge(corpus, evaluations)
        facts = _read(corpus, sources, judge, splits, report)
        for name, spool in splits.items():
            if not len(spool):
                raise DataError(f"no document is left for the {name} split: {_account(facts)}; {_MORE[name]}")

        report(Progress("preprocess", _READ, 100, "training the tokenizer"))
        tokenizer = train_tokenizer(splits["train"].sample(corpus.tokenizer_sample_bytes), corpus.vocabulary_size)
        tokenizer.save(str(directory / TOKENIZER))
        np.save(directory / TOKEN_BYTES, token_bytes(tokenizer))
        vocabulary_size = tokenizer.get_vocab_size()

        stack.enter_context(single_threaded())
        indices: dict[str, SplitIndex] = {}
        stream_tokens = done_bytes = 0
        for name, spool in splits.items():
            packer = Packer(
                corpus.sequence_length_tokens, corpus.shard_sequences, END_OF_TEXT, token_dtype(vocabulary_size)
            )
            share = spool.size_bytes / facts["text_bytes"]
            advance = _stretch(report, done_bytes / facts["text_bytes"], share)
            runs = _pack(tokenizer, spool, packer, corpus.workers or os.cpu_count() or 1, advance)
            indices[name] = SplitIndex(
                shards=write_shards(directory, name, runs),
                rows=packer.rows,
                tokens=packer.rows * corpus.sequence_length_tokens,
                tail_tokens=packer.tail_tokens,
                documents=len(spool),
                bytes=spool.size_bytes,
            )
            if not packer.rows:
                raise DataError(
                    f"the {name} split has {packer.tokens} tokens, one sequence needs "
                    f"{corpus.sequence_length_tokens + 1}: {_account(facts)}; {_MORE[name]}, "
                    "or lower corpus.sequence_length_tokens"
                )
            stream_tokens += packer.tokens
            done_bytes += spool.size_bytes
    write_index(
        directory,
        sequence_length=corpus.sequence_length_tokens,
        vocabulary_size=vocabulary_size,
        end_of_text=END_OF_TEXT,
        splits=indices,
    )
    facts = {
        "train_tokens": indices["train"].tokens,
        "held_out_tokens": indices["held_out"].tokens,
        "train_rows": indices["train"].rows,
        "held_out_rows": indices["held_out"].rows,
        "vocabulary_size": vocabulary_size,
        "bytes_per_token": facts["text_bytes"] / stream_tokens,
        **facts,
        "versions": {"python": platform.python_version(), "tokenizers": tokenizers.__version__},
    }
    card.write(facts, judge.samples, directory)
    return facts


def _stretch(report: Reporter, begin: float, length: float) -> Callable[[float], None]:
    """A reporter of shares of one split, which is `length` of all the text and begins at `begin` of it."""

    def advance(share: float) -> None:
        report(Progress("preprocess", _TRAIN + (100 - _TRAIN) * (begin + length * share), 100, "tokenising"))

    return advance


_MORE = {
    "train": "give the corpus more text, or lower corpus.min_characters",
    "held_out": "give the corpus more documents, or raise corpus.held_out_share",
}


def _account(facts: Mapping[str, Any]) -> str:
    """What became of everything that was read, for an error message."""
    losses = {**facts["dropped"], "unreadable": facts["bad_lines"]}
    kept = facts["documents"]
    return f"of {kept + sum(losses.values())} documents read, {kept} were kept" + "".join(
        f", {count} {reason.replace('_', ' ')}" for reason, count in losses.items() if count
    )


# ---------------------------------------------------------------------------------------------------- first pass


def _read(
    corpus: CorpusConfig, sources: list[Source], judge: Judge, splits: Splits, report: Reporter
) -> dict[str, Any]:
    """Fill the spools; returns the facts about what was read and what was left out."""
    bad_lines = 0
    described = []
    for number, (settings, source) in enumerate(zip(corpus.sources, sources, strict=True)):
        texts = bad = read_bytes = reported_bytes = 0
        first_bad: Unreadable | None = None
        for record in source.records():
            if isinstance(record, Unreadable):
                bad += 1
                first_bad = first_bad or record
                if not source.tolerant and corpus.max_bad_share == 0:
                    raise DataError(
                        f"{record.place}: {record.reason}; mend it, or skip such records with corpus.max_bad_share"
                    )
                continue
            texts += 1
            read_bytes += len(record)
            if text := judge.keep(record):
                content = text.encode()
                digest = content_hash(content)
                split = "held_out" if is_held_out(digest, corpus.held_out_share) else "train"
                splits[split].append(content, sample_key(digest))
            if read_bytes - reported_bytes >= _BATCH_BYTES:
                reported_bytes = read_bytes
                share = min(1.0, read_bytes / source.size_bytes) if source.size_bytes else 0.0
                message = f"reading {source.name}: {texts:,} documents"
                report(Progress("preprocess", _READ * (number + share) / len(sources), 100, message))
            if texts == settings.max_documents:
                break
        if first_bad and not source.tolerant:
            if bad > corpus.max_bad_share * (texts + bad):
                raise DataError(
                    f"{bad} of {texts + bad} records of {source.name} cannot be read, more than "
                    f"corpus.max_bad_share={corpus.max_bad_share}; the first is {first_bad.place}: {first_bad.reason}"
                )
            bad_lines += bad
        described.append(
            {
                "kind": settings.kind,
                "name": source.name,
                "licence": source.licence,
                **source.pin,
                "documents": texts,
                "skipped": bad,
            }
        )
    return {
        "documents": sum(map(len, splits.values())),
        "text_bytes": sum(spool.size_bytes for spool in splits.values()),
        "dropped": dict(judge.dropped),
        "masked": dict(judge.masked),
        "languages": dict(judge.languages.most_common()),
        "length_log2": {str(power): judge.length_log2[power] for power in sorted(judge.length_log2)},
        "bad_lines": bad_lines,
        "sources": described,
    }


# ---------------------------------------------------------------------------------------------------- second pass


def _pack(
    tokenizer: Any, spool: Spool, packer: Packer, workers: int, advance: Callable[[float], None]
) -> Iterator[PackedRows]:
    """Tokenise a spool on several threads and pack the documents in their order."""
    from longcat.corpus.tokenizer import encode

    done = 0
    for encoded in _ordered(lambda texts: encode(tokenizer, texts), spool.batches(_BATCH_BYTES), workers):
        for tokens in encoded:
            yield from packer.add(tokens)
        done += len(encoded)
        advance(done / len(spool))
    yield from packer.finish()


def _ordered(function: Callable[[_In], _Out], items: Iterable[_In], workers: int) -> Iterator[_Out]:
    """Map on threads, results in the order of the items, with a bounded number under way."""
    pool = ThreadPoolExecutor(workers, thread_name_prefix="tokenise")
    pending: deque[Future[_Out]] = deque()
    try:
        for item in items:
            pending.append(pool.submit(function, item))
            if len(pending) > 2 * workers:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
