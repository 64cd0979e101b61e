"""Configuration of data preprocessing: what is read, how it is cleaned, and how it becomes token shards."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from longcat.config.section import RUNTIME, Formerly, Section, each_once

PersonalData = Literal["email", "phone", "national_id", "address"]
"""Kinds of personal data that `longcat.corpus.privacy` finds."""

TRAINED_END_OF_TEXT = 2
"""Id of the token that ends a document in the tokenizer that preprocessing trains."""


class SourceConfig(Section):
    """One place that text comes from. Written short as a string: `stdlib`, a path, `hub:NAME`, `apt:NAME`, `pip:NAME==VERSION` or `own:NAME`."""

    kind: Literal["stdlib", "files", "hub", "package", "local_services", "own"]
    """`own`: a function of your own (docs/extending.md); `stdlib`: the running Python's standard library; `files`: local files; `hub`: a `datasets` data set by name; `package`: what
    apt or pip installs; `local_services`: questions about local services with their answers, made up (docs/local_services.md)."""
    path: Annotated[str | None, RUNTIME] = None
    """For `files`: a file in a format of `longcat.corpus.readers` (see docs/preprocess.md), a folder of them, a pattern, or an address. The files' sha256 stand
    in for it."""
    documents: Literal["files", "lines"] = "files"
    """For `files`: what a document is in text files (.txt, .md), a whole file or each line of it that is not empty."""
    package: str | None = None
    """For `package`: `apt:NAME` or `pip:NAME==VERSION`. It is fetched by its client when it is first needed, and not installed."""
    members: str = "*"
    """For `package`: a pattern for the paths in it, such as `*/html/zh-CN/*`."""
    licence: Annotated[str | None, RUNTIME] = None
    """The text's licence (SPDX), recorded with the artifact; null takes what the source states."""
    name: str | None = None
    """For `hub`: the data set's name, as in `datasets.load_dataset`."""
    subset: str | None = None
    """For `hub`: the configuration name, where the data set has several."""
    split: str = "train"
    """For `hub`: which split is read."""
    revision: str = "main"
    """For `hub`: branch, tag or commit; resolved to a commit before it is hashed."""
    language: Literal["zh", "en"] | None = None
    """For `local_services`: the language of the texts."""
    count: int | None = Field(default=None, ge=1)
    """For `local_services`: how many texts are made."""
    seed: int = 0
    """For `local_services`: each makes other texts, and the same ones each time."""
    tasks: list[str] = Field(default_factory=list)
    """For `local_services`: the tasks that are asked, by name; an empty list takes all."""
    forms: list[str] = Field(default_factory=list)
    """For `local_services`: the forms of the texts, of `plain`, `listed`, `explained` and `reasoned`; an empty list takes all."""
    function: Annotated[str | None, RUNTIME] = None
    """For `own`: a function that yields texts, by its registered name or as `package.module:function`. Its name and its code stand in
    for it."""
    arguments: Annotated[dict[str, str | int | float | bool | None], RUNTIME] = Field(default_factory=dict)
    """For `own`: what the function is called with, by name; part of the identity as well."""
    text_field: str = "text"
    """The field that holds the text in records of JSON, Parquet, Arrow and hub data sets; dots lead to nested ones (`data.text`)."""
    max_documents: int | None = Field(default=None, ge=1)
    """Number of documents after which this source is not read further; null reads all."""
    max_tokens: int | None = Field(default=None, ge=1)
    """Most tokens of this source to train on, documents chosen by the hash of their content; null takes all."""
    weight: float | None = Field(default=None, gt=0)
    """Weight of this source in the training tokens relative to the other sources; without weights sources keep their sizes."""
    tokenizer_weight: float | None = Field(default=None, gt=0)
    """Weight of this source in the bytes that the tokenizer is trained on; without weights sources keep their sizes."""

    @model_validator(mode="before")
    @classmethod
    def _from_string(cls, value: Any) -> Any:
        if isinstance(value, str):
            return _source_fields(value)
        if isinstance(value, SourceConfig):
            return value
        if not isinstance(value, Mapping):
            raise ValueError(f"expected a source: {_SOURCES}")
        if prefix := next((name for name in ("hub", "apt", "pip", "own", "stdlib") if name in value), None):
            name = value[prefix]
            hint = f"{prefix}:{'NAME' if name is None else name}" if prefix != "stdlib" else "stdlib"
            raise ValueError(
                f"YAML reads `{prefix}: {'' if name is None else name}` as a mapping; write {hint}, without a space behind the colon"
            )
        if "kind" not in value:
            raise ValueError(f"a mapping needs `kind`, one of {', '.join(_KINDS)}; or write {_SOURCES}")
        return value

    @field_validator("package")
    @classmethod
    def _is_package(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(
            r"(apt|pip):[A-Za-z0-9][A-Za-z0-9+._-]*(==[A-Za-z0-9+._!-]+)?", value
        ):
            raise ValueError("expected apt:NAME or pip:NAME==VERSION")
        return value

    @field_validator("tasks", "forms", mode="before")
    @classmethod
    def _one_or_many(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value

    _each_once = field_validator("tasks", "forms")(each_once)

    @model_validator(mode="after")
    def _complete(self) -> SourceConfig:
        for name in _NEEDED.get(self.kind, ()):
            if not getattr(self, name):
                raise ValueError(f"a source of kind {self.kind!r} needs `{name}`")
        for kind, fields in _FIELDS_OF_KIND.items():
            for name in fields:
                default = type(self).model_fields[name].get_default(call_default_factory=True)
                if kind != self.kind and getattr(self, name) != default:
                    raise ValueError(f"`{name}` is for sources of kind {kind!r}, this one is of kind {self.kind!r}")
        return self


_KINDS = ("stdlib", "files", "hub", "package", "local_services", "own")
_NEEDED = {
    "files": ("path",),
    "hub": ("name",),
    "package": ("package",),
    "local_services": ("language", "count"),
    "own": ("function",),
}
_FIELDS_OF_KIND = {
    "files": ("path", "documents"),
    "hub": ("name", "subset", "split", "revision"),
    "package": ("package", "members"),
    "local_services": ("language", "count", "seed", "tasks", "forms"),
    "own": ("function", "arguments"),
}
_SOURCES = "`stdlib`, a path, `hub:NAME`, `apt:NAME`, `pip:NAME==VERSION` or `own:NAME`"


def _source_fields(text: str) -> dict[str, str]:
    """Read a source that is written short.

    Raises:
        ValueError: it names nothing.
    """
    prefix, colon, name = text.partition(":")
    if text == "stdlib":
        return {"kind": "stdlib"}
    if colon and prefix in ("hub", "apt", "pip", "own") and not name.strip():
        raise ValueError(f"{text!r} names nothing; write {prefix}:NAME")
    if colon and prefix == "hub":
        return {"kind": "hub", "name": name}
    if colon and prefix == "own":
        return {"kind": "own", "function": name}
    if colon and prefix in ("apt", "pip"):
        return {"kind": "package", "package": text}
    if not text.strip():
        raise ValueError(f"a source cannot be empty; write {_SOURCES}")
    return {"kind": "files", "path": text}


class NearDuplicateConfig(Section):
    """Near-duplicates by MinHash and locality-sensitive hashing: the first of several similar documents stays."""

    threshold: float = Field(default=0.8, gt=0, le=1)
    """Smallest estimated Jaccard similarity of two documents' shingles that makes the later one a duplicate."""
    shingle_words: int = Field(default=5, ge=1)
    """Words in a shingle; a Chinese character counts as a part of one, see docs/preprocess.md."""
    bands: int = Field(default=16, ge=1)
    """Bands of the signature; documents that agree in one are compared. 16 bands of 8 rows find 95 % of pairs of similarity 0.8."""
    rows: int = Field(default=8, ge=1)
    """Minima per band."""


class QualityConfig(Section):
    """Quality filter by a score, for a classifier of your own."""

    function: str = Field(pattern=r"^[\w.]+:[\w.]+$")
    """`package.module:name` of a function from text to a number. The module's source is part of the artifact's identity."""
    minimum: float
    """Documents that score less are left out."""


class LongDocumentsConfig(Section):
    """Mixture for a stage of long sequences, with more long documents."""

    min_tokens: int = Field(ge=2)
    """Tokens from which on a document is long."""
    fraction: Annotated[float, Formerly("share")] = Field(gt=0, lt=1)
    """Fraction of the training tokens that comes from long documents."""


class CorpusConfig(Section):
    """Data preprocessing: sources, cleaning, tokenizer, mixture and packing."""

    sources: list[SourceConfig] = Field(default_factory=lambda: [SourceConfig(kind="stdlib")], min_length=1)
    """Where the text comes from, read in this order. A single string is accepted for a single source."""
    max_bad_fraction: Annotated[float, Formerly("max_bad_share")] = Field(default=0.0, ge=0, lt=1)
    """Fraction of unreadable records (broken JSON, missing field, invalid UTF-8) that may be skipped; more stop the stage."""
    encodings: list[str] = Field(default_factory=lambda: ["detect"], min_length=1)
    """Encodings tried in this order on text that comes as bytes, for example `[utf-8, gb18030]`; `detect` detects them."""
    repair_encoding: bool = False
    """Repair text that was decoded wrongly (â€™ for ’), with ftfy."""
    min_characters: int = Field(default=200, ge=0)
    """Documents shorter than this after cleaning are dropped."""
    max_characters: int = Field(default=1_000_000, ge=1)
    """Documents longer than this after cleaning are dropped."""
    filters: list[str] = Field(default_factory=list)
    """Rules of `longcat.corpus.filters` that leave documents or lines out, `gopher` and `c4` for all of theirs; and functions of your own from
    a text to whether it is kept, registered ones or `package.module:function`. Empty by default: code fails them."""
    mask: list[PersonalData] = Field(default_factory=list)
    """Personal data that is replaced by its kind, such as `<email>`."""
    languages: list[str] = Field(default_factory=list)
    """Keep documents in these languages only, as ISO 639 codes (`en`, `zh`); an empty list keeps all and identifies none."""
    quality: QualityConfig | None = None
    """Leave out documents with a low score by a function of your own."""
    near_duplicates: NearDuplicateConfig | None = None
    """Leave out near-duplicates; null leaves out exact duplicates only."""
    repeated_paragraph_characters: int | None = Field(default=None, ge=1)
    """Characters from which on a paragraph is cut out if an earlier document keeps it; null cuts none."""
    decontaminate: list[str] = Field(default_factory=list)
    """Evaluation sets, as .jsonl files, whose 13-grams must not occur in training text; `data` stands for all in data/evaluation."""
    held_out_fraction: Annotated[float, Formerly("held_out_share")] = Field(default=0.02, gt=0, lt=0.5)
    """Fraction of documents, chosen by the hash of their content, that is never trained on."""
    tokenizer: Annotated[str | None, RUNTIME] = None
    """A tokenizer.json to use instead of training one; its content's hash stands in for it."""
    end_of_text: str = "</longcat_s>"
    """The special token of `tokenizer` that follows every document."""
    vocabulary_size: int = Field(default=4096, ge=259)
    """Tokens of the byte-level BPE, special tokens included; with a `tokenizer` of your own at least its largest id + 1."""
    digits_per_token: int = Field(default=3, ge=1, le=3)
    """Most digits in a token of the trained tokenizer; 1 makes each digit a token, from which a small model learns to compare sooner."""
    tokenizer_sample_bytes: int = Field(default=20_000_000, ge=1)
    """Most bytes of training text that the tokenizer is trained on."""
    block_bytes: int = Field(default=16_000_000, ge=1)
    """Bytes of input per block, the unit that is processed, saved and, after an interruption, repeated. A compressed file is one block."""
    sequence_length_tokens: int = Field(default=512, ge=8)
    """Tokens per sequence."""
    shard_sequences: int = Field(default=8192, ge=1)
    """Most sequences per token shard."""
    max_padding: float = Field(default=0.005, ge=0, lt=1)
    """Fraction of padding above which documents are cut to fill sequences."""
    mixture_tokens: int | None = Field(default=None, ge=1)
    """Training tokens in the mixture; null takes as many as the weights allow without repeating a document."""
    max_repeats: float = Field(default=4.0, ge=1)
    """How often a document may be repeated to reach `mixture_tokens` (arXiv 2305.16264: up to 4 are nearly as good as new)."""
    long_documents: LongDocumentsConfig | None = None
    """More long documents, for a stage of long sequences; null keeps the lengths as they are."""
    runner: Annotated[Literal["processes", "dask", "ray"], RUNTIME] = "processes"
    """What does the work: processes of this machine, or a cluster of Dask or Ray that sees the same files."""
    cluster: Annotated[str | None, RUNTIME] = None
    """Address of the Dask scheduler or the Ray head; null starts one on this machine."""
    workers: Annotated[int, RUNTIME] = Field(default=0, ge=0)
    """Worker processes; 0 takes one per core."""
    hang_timeout_s: Annotated[float, RUNTIME] = Field(default=60, ge=0)
    """Seconds after which a worker process that was stopped by a signal is ended, and its block is done by another one; one that uses
    no processor time, as it waits for a disk or the network, may take ten times as long; 0 never."""

    @field_validator("sources", "filters", "mask", "languages", "encodings", "decontaminate", mode="before")
    @classmethod
    def _one_or_many(cls, value: Any) -> Any:
        return [value] if isinstance(value, str | Mapping) else value

    @field_validator("languages", mode="before")
    @classmethod
    def _is_norwegian(cls, value: Any) -> Any:
        if False in (value if isinstance(value, list) else [value]):
            raise ValueError('YAML reads no as false; write "no" in quotes for Norwegian')
        return value

    @field_validator("encodings")
    @classmethod
    def _are_encodings(cls, value: list[str]) -> list[str]:
        for name in value:
            if name == "detect":
                continue
            try:
                b"a".decode(name)
            except LookupError:
                raise ValueError(f"{name!r} is no encoding of text that Python knows") from None
            except UnicodeError:  # of more than one byte a character
                pass
        return value

    @model_validator(mode="after")
    def _consistent(self) -> CorpusConfig:
        for name in ("weight", "tokenizer_weight"):
            given = [getattr(source, name) is not None for source in self.sources]
            if any(given) and not all(given):
                raise ValueError(f"sources.{given.index(False)} has no `{name}`; give one to every source, or to none")
        if self.max_characters < self.min_characters:
            raise ValueError(
                f"max_characters={self.max_characters} is less than min_characters={self.min_characters}: no document is left"
            )
        if self.tokenizer is None and self.end_of_text != type(self).model_fields["end_of_text"].default:
            raise ValueError(
                f"end_of_text={self.end_of_text!r} is a token of a `tokenizer` of your own, and none is given; the trained one "
                f"ends documents with {type(self).model_fields['end_of_text'].default!r}"
            )
        if self.mixture_tokens is not None and self.mixture_tokens <= self.sequence_length_tokens:
            raise ValueError(
                f"mixture_tokens={self.mixture_tokens} does not fill one sequence of "
                f"sequence_length_tokens={self.sequence_length_tokens} + 1"
            )
        return self
