"""The preprocessing stage: text in, token shards out.

It makes two artifacts. `documents` holds the cleaned corpus as tokens, and takes nearly all of the time; `tokens` holds
a mixture of it packed into rows of one length. Another mixture, or longer sequences, start from the same documents.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from longcat.artifact import Artifact, Recipe, Workspace, sha256_file
from longcat.config import CorpusConfig, PipelineConfig, identity
from longcat.corpus import card
from longcat.corpus.checks import check_corpus
from longcat.corpus.decontamination import evaluation_files, pins
from longcat.corpus.documents import (
    BLOCKS,
    DOCUMENTS,
    MORE,
    SAMPLES_FILE,
    SCRATCH,
    build_documents,
    describe_losses,
)
from longcat.corpus.facts import DocumentsFacts, TokensFacts
from longcat.corpus.filters import Filter
from longcat.corpus.judge import quality_function
from longcat.corpus.mapping import Mapper, processes
from longcat.corpus.mixture import Group, mix
from longcat.corpus.sharding import ShardTarget, write_split
from longcat.corpus.shards import TOKEN_BYTES, TOKENIZER, write_index
from longcat.corpus.sources import Source, resolve
from longcat.corpus.table import DocumentsTable
from longcat.disk import copy_file
from longcat.errors import ConfigError, DataError
from longcat.progress import Progress, Reporter, no_progress
from longcat.provenance import code_of
from longcat.unpacking import read_json

STAGE_VERSION = 7
_MIXING = (
    "sequence_length_tokens", "shard_sequences", "max_padding", "mixture_tokens", "max_repeats", "long_documents",
)  # fmt: skip
_MIXING_OF_SOURCES = ("weight", "max_tokens")
_PACKING = 85.0  # percentage of the whole at which packing begins


def preprocess(
    config: PipelineConfig, *, workspace: Workspace, report: Reporter = no_progress, mapper: Mapper | None = None
) -> Artifact[TokensFacts]:
    """Turn the corpus into token shards; an interrupted run goes on with the block it was at.

    Args:
        config: section `corpus`; `training.global_batch_sequences` only for a check.
        workspace: where the artifacts go.
        report: receives progress in percent.
        mapper: does the work; `corpus.workers` processes of this machine if none is given.

    Returns:
        A `tokens` artifact; `longcat.corpus.shards` describes and opens it.

    Raises:
        DataError: a source is missing or damaged, more records than `corpus.max_bad_fraction` cannot be read, nothing is
            left after cleaning, or there is less text than one row per split and one training batch.
        ConfigError: the mixture cannot be made, or a tokenizer, filter or function cannot be used, or the tokenizer ends
            documents with another token than the model.
        StorageError: the disk is full.
    """
    if mapper is None:
        with processes(config.corpus.workers, config.corpus.hang_timeout_s) as mapper:
            return preprocess(config, workspace=workspace, report=report, mapper=mapper)
    corpus = config.corpus
    report(Progress("preprocess", 0, 100, "finding the corpus"))
    check_corpus(config)
    sources, evaluations, recipe = _found(corpus, workspace)

    def build(directory: Path) -> TokensFacts:
        documents = workspace.materialize(
            recipe,
            lambda inner: DocumentsFacts(**build_documents(corpus, sources, evaluations, inner, mapper, report)),
            resumable=True,
            same_code=True,
            scratch=(SCRATCH,),
        )
        report(Progress("preprocess", _PACKING, 100, "packing"))
        return _build_tokens(corpus, documents, directory, mapper, report)

    artifact = workspace.materialize(tokens_recipe(corpus, recipe), build, resumable=True, same_code=True)
    rows = artifact.facts.train_rows
    if rows < config.training.global_batch_sequences:
        raise DataError(
            f"the corpus makes {rows} training sequences of {corpus.sequence_length_tokens} tokens, fewer than "
            f"one batch: give it more text, or lower training.global_batch_sequences={config.training.global_batch_sequences} or "
            "corpus.sequence_length_tokens"
        )
    report(Progress("preprocess", 100, 100, f"{artifact.facts.train_tokens:,} training tokens"))
    return artifact


def tokenizer_of_documents(corpus: CorpusConfig, workspace: Workspace) -> Path | None:
    """Return the tokenizer of the documents that preprocessing would start from; None if they have not been made.

    Raises:
        DataError: a source is missing.
        ConfigError: a tokenizer, filter or function cannot be used.
    """
    _, _, recipe = _found(corpus, workspace)
    path = workspace.path / recipe.kind / recipe.digest / TOKENIZER
    return path if path.is_file() else None


def _found(corpus: CorpusConfig, workspace: Workspace) -> tuple[list[Source], list[Path], Recipe[DocumentsFacts]]:
    """Find the sources and the evaluation sets of a corpus, and make the recipe of its documents."""
    sources = [resolve(source, corpus.block_bytes, workspace.sha256) for source in corpus.sources]
    workspace.hashes.save()
    evaluations = evaluation_files(corpus.decontaminate)
    return sources, evaluations, documents_recipe(corpus, sources, evaluations)


def documents_recipe(corpus: CorpusConfig, sources: list[Source], evaluations: list[Path]) -> Recipe[DocumentsFacts]:
    """Make the recipe of the documents: the configuration, with the content of files instead of their paths."""
    payload = {name: value for name, value in identity(corpus).items() if name not in _MIXING}
    payload["decontaminate"] = pins(evaluations)
    if corpus.tokenizer is not None:
        payload["tokenizer"] = _content(Path(corpus.tokenizer).expanduser(), "corpus.tokenizer")
    rules = Filter(corpus.filters)
    payload["filters"] = [
        *rules.line_rules,
        *rules.document_rules,
        *([own.name, own.identity] for own in rules.own),
    ]
    if quality := quality_function(corpus):
        payload["quality"]["source"] = quality.identity
    for described, origin in zip(payload["sources"], sources, strict=True):
        described.update(origin.pin)  # a moving `revision` becomes the commit it stands for now
        for name in _MIXING_OF_SOURCES:
            del described[name]
    return Recipe(
        kind="documents", facts=DocumentsFacts, version=STAGE_VERSION, identity=payload, sources=code_of(__name__)
    )


def tokens_recipe(corpus: CorpusConfig, documents: Recipe[DocumentsFacts]) -> Recipe[TokensFacts]:
    """Make the recipe of the shards: the documents' recipe and the mixture."""
    payload = {name: value for name, value in identity(corpus).items() if name in _MIXING}
    payload["sources"] = [
        {name: value for name, value in identity(source).items() if name in _MIXING_OF_SOURCES}
        for source in corpus.sources
    ]
    payload["documents"] = documents.digest
    return Recipe(kind="tokens", facts=TokensFacts, version=STAGE_VERSION, identity=payload, sources=code_of(__name__))


def _content(path: Path, field: str) -> str:
    try:
        return sha256_file(path)
    except OSError as error:
        raise ConfigError(f"{field}={path} cannot be read: {error.strerror}") from None


def _build_tokens(
    corpus: CorpusConfig, documents: Artifact[DocumentsFacts], directory: Path, mapper: Mapper, report: Reporter
) -> TokensFacts:
    facts = documents.facts.model_dump()
    mixture = mix(DocumentsTable(documents.path / DOCUMENTS), corpus)
    for name in (TOKENIZER, TOKEN_BYTES):
        copy_file(documents.path / name, directory / name)
    width = corpus.sequence_length_tokens + 1
    for name, used in mixture.tokens.items():
        if used < width:
            available = mixture.available[name]
            reason, advice = describe_losses(facts), MORE[name]
            if available >= width:
                reason = f"the mixture takes no more of the {available} available"
                advice = "raise corpus.mixture_tokens or max_tokens of the sources, change their weights"
            raise DataError(
                f"the {name} split has {used} tokens, one sequence needs {width}: {reason}; "
                f"{advice}, or lower corpus.sequence_length_tokens"
            )
    target = ShardTarget(
        documents=documents.path,
        blocks=read_json(documents.path / BLOCKS),
        vocabulary_size=documents.facts.vocabulary_size,
        end_of_text=documents.facts.end_of_text,
        directory=directory,
    )
    indices = {}
    all_tokens, before = sum(mixture.tokens.values()), 0

    def tell(name: str, done: float) -> None:
        packed = (before + done * mixture.tokens[name]) / all_tokens
        report(Progress("preprocess", _PACKING + (100 - _PACKING) * packed, 100, "packing"))

    for name, used in mixture.tokens.items():
        indices[name] = write_split(mixture, corpus, target, name, mapper, partial(tell, name))
        before += used
    write_index(
        directory,
        sequence_length=corpus.sequence_length_tokens,
        vocabulary_size=facts["vocabulary_size"],
        end_of_text=facts["end_of_text"],
        splits=indices,
    )
    train = indices["train"]
    facts = {
        "train_tokens": train.tokens,
        "held_out_tokens": indices["held_out"].tokens,
        "train_rows": train.rows,
        "held_out_rows": indices["held_out"].rows,
        "padding_fraction": train.padding_tokens / (train.rows * (corpus.sequence_length_tokens + 1)),
        "extra_cuts_fraction": train.extra_cuts / train.documents,
        "mixture": [_describe(group, facts["sources"]) for group in mixture.groups],
        **facts,
        "documents_artifact": documents.digest,
    }
    samples = read_json(documents.path / SAMPLES_FILE)
    card.write(facts, samples, directory)
    return TokensFacts(**facts)


def _describe(group: Group, sources: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "source": sources[group.source]["name"],
        "long": group.long,
        "documents": group.documents,
        "tokens": group.tokens,
        "wanted_tokens": round(float(group.wanted)),
        "repeats": round(float(group.repeats), 4),
    }
