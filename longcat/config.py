"""The one configuration tree, and how presets, files and `--set` make it.

Every field says what it does in the line below it. A field marked `RUNTIME` cannot change the bytes of any artifact
(paths, worker counts, intervals of logging); every other one is part of the identity of the stage that reads it, see
`identity`.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from longcat.errors import ConfigError

RUNTIME = "runtime"
"""Field marker: has no influence on the bytes of an artifact, so it is left out of `identity`."""

PRESET_DIRECTORY = Path(__file__).parent / "presets"


OperatorName = Literal[
    "attention", "gating", "grouped_matmul", "key_selection", "linear_cross_entropy", "permute", "rms_norm", "rotary",
    "sparse_attention", "swiglu",
]  # fmt: skip
"""Operators of `longcat.ops` that have a plain reference and faster paths."""


class _Section(BaseModel):
    model_config = ConfigDict(
        extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False, protected_namespaces=()
    )


class SourceConfig(_Section):
    """One place that text comes from. Written short as a string: `stdlib`, a path, `hub:NAME`, `apt:NAME` or `pip:NAME==VERSION`."""

    kind: Literal["stdlib", "files", "hub", "package"]
    """`stdlib`: the running Python's standard library; `files`: local files; `hub`: a `datasets` data set by name; `package`: what
    apt or pip installs."""
    path: Annotated[str | None, RUNTIME] = None
    """For `files`: a .jsonl, .jsonl.zst, .jsonl.gz, .parquet, .arrow, .txt, .html, .py file or a manual page, or a folder of them. The
    files' sha256 stand in for it."""
    package: str | None = Field(default=None, pattern=r"^(apt|pip):[A-Za-z0-9][A-Za-z0-9+._-]*(==[A-Za-z0-9+._!-]+)?$")
    """For `package`: `apt:NAME` or `pip:NAME==VERSION`. It is fetched by its client when it is first needed, and not installed."""
    members: str = "*"
    """For `package`: a pattern for the paths in it, such as `*/html/zh-CN/*`."""
    licence: Annotated[str | None, RUNTIME] = None
    """The text's licence (SPDX), recorded with the artifact; as the source states it when none."""
    name: str | None = None
    """For `hub`: the data set's name, as in `datasets.load_dataset`."""
    subset: str | None = None
    """For `hub`: the configuration name, where the data set has several."""
    split: str = "train"
    """For `hub`: which split is read."""
    revision: str = "main"
    """For `hub`: branch, tag or commit; resolved to a commit before it is hashed."""
    text_field: str = "text"
    """The field that holds the text in .jsonl, .parquet and hub data sets."""
    max_documents: int | None = Field(default=None, ge=1)
    """Stop reading this source after so many documents."""
    max_tokens: int | None = Field(default=None, ge=1)
    """Train on no more tokens of this source, documents chosen by the hash of their content."""
    weight: float | None = Field(default=None, gt=0)
    """Share of this source in the training tokens, against the weights of the others; with none, sources keep their sizes."""
    tokenizer_weight: float | None = Field(default=None, gt=0)
    """The same for the bytes that the tokenizer is trained on."""

    @model_validator(mode="before")
    @classmethod
    def _from_string(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        if value == "stdlib":
            return {"kind": "stdlib"}
        if value.startswith("hub:"):
            return {"kind": "hub", "name": value.removeprefix("hub:")}
        if value.startswith(("apt:", "pip:")):
            return {"kind": "package", "package": value}
        return {"kind": "files", "path": value}

    @model_validator(mode="after")
    def _complete(self) -> SourceConfig:
        if self.kind == "files" and not self.path:
            raise ValueError("a source of kind 'files' needs `path`")
        if self.kind == "hub" and not self.name:
            raise ValueError("a source of kind 'hub' needs `name`")
        if self.kind == "package" and not self.package:
            raise ValueError("a source of kind 'package' needs `package`")
        return self


RuleName = Literal[
    "c4_line_punctuation", "c4_line_words", "c4_line_javascript", "c4_line_policy",
    "c4_sentences", "c4_lorem_ipsum", "c4_curly_bracket",
    "gopher_word_count", "gopher_word_length", "gopher_symbols", "gopher_bullets", "gopher_ellipses",
    "gopher_alphabetic", "gopher_stop_words", "gopher_duplicate_lines", "gopher_duplicate_paragraphs",
    "gopher_top_ngrams", "gopher_duplicate_ngrams",
]  # fmt: skip
"""Rules of `longcat.corpus.filters`."""
PersonalData = Literal["email", "phone", "national_id", "address"]
"""Kinds of `longcat.corpus.privacy`."""


class NearDuplicateConfig(_Section):
    """Near-duplicates by MinHash and locality-sensitive hashing: of several alike documents the first one stays."""

    threshold: float = Field(default=0.8, gt=0, le=1)
    """Least estimated Jaccard similarity of two documents' shingles that makes the later one a duplicate."""
    shingle_words: int = Field(default=5, ge=1)
    """Words in a shingle; a Chinese, Japanese or Korean character counts as one."""
    bands: int = Field(default=16, ge=1)
    """Bands of the signature; documents that agree in one are compared. 16 of 8 rows find 95 % of pairs of similarity 0.8."""
    rows: int = Field(default=8, ge=1)
    """Minima in a band."""


class QualityConfig(_Section):
    """A score that documents need: the hook for a classifier of one's own."""

    function: str = Field(pattern=r"^[\w.]+:[\w.]+$")
    """`package.module:name` of a function from text to a number. The module's source is part of the artifact's identity."""
    minimum: float
    """Documents that score less are left out."""


class LongDocumentsConfig(_Section):
    """Another mixture for a stage of long sequences: more of what is long."""

    min_tokens: int = Field(ge=2)
    """Documents of at least so many tokens are long."""
    share: float = Field(gt=0, lt=1)
    """Their share in the training tokens."""


class CorpusConfig(_Section):
    """What is read, how it is cleaned and how it becomes token shards."""

    sources: list[SourceConfig] = Field(default_factory=lambda: [SourceConfig(kind="stdlib")], min_length=1)
    """Where the text comes from, read in this order. A single string is accepted for a single source."""
    max_bad_share: float = Field(default=0.0, ge=0, lt=1)
    """Share of unreadable lines (broken JSON, missing field, invalid UTF-8) that is skipped and counted before the stage stops."""
    encodings: list[str] = Field(default_factory=lambda: ["utf-8"], min_length=1)
    """Tried in this order on text that comes as bytes, for example `[utf-8, gb18030]`."""
    repair_encoding: bool = False
    """Mend text that was once decoded wrongly (â€™ for ’), by ftfy."""
    min_characters: int = Field(default=200, ge=0)
    """Documents shorter than this after cleaning are dropped."""
    max_characters: int = Field(default=1_000_000, ge=1)
    """Documents longer than this after cleaning are dropped."""
    filters: list[RuleName] = Field(default_factory=list)
    """Rules that leave documents or lines out; `gopher` and `c4` stand for all of theirs. None by default: code fails them."""
    mask: list[PersonalData] = Field(default_factory=list)
    """Personal data that is replaced by what it is, such as `<email>`."""
    languages: list[str] = Field(default_factory=list)
    """Keep documents in these languages only, as ISO 639 codes (`en`, `zh`); none keeps and identifies nothing."""
    quality: QualityConfig | None = None
    """Leave out documents with a low score of a function of one's own."""
    near_duplicates: NearDuplicateConfig | None = None
    """Leave out near-duplicates; none leaves out exact ones only."""
    repeated_paragraph_characters: int | None = Field(default=None, ge=1)
    """Cut out paragraphs of at least so many characters that an earlier document keeps; none cuts nothing."""
    decontaminate: list[str] = Field(default_factory=list)
    """Evaluation sets, as .jsonl files, whose 13-grams must not occur in training text; `data` stands for all in data/evaluation."""
    held_out_share: float = Field(default=0.02, gt=0, lt=0.5)
    """Share of documents, chosen by their content's hash, that is never trained on."""
    tokenizer: Annotated[str | None, RUNTIME] = None
    """A tokenizer.json to use instead of training one; its content's hash stands in for it."""
    end_of_text: str = "</longcat_s>"
    """The special token of `tokenizer` that follows every document."""
    vocabulary_size: int = Field(default=4096, ge=259)
    """Tokens of the byte-level BPE, special tokens included; at least those of `tokenizer`, if there is one."""
    tokenizer_sample_bytes: int = Field(default=20_000_000, ge=1)
    """At most so much training text is used to train the tokenizer."""
    block_bytes: int = Field(default=16_000_000, ge=1)
    """Input that is worked on, saved and, after an interruption, repeated as one piece. A compressed file is always one."""
    sequence_length_tokens: int = Field(default=512, ge=8)
    """Tokens the model sees in one sequence."""
    shard_sequences: int = Field(default=8192, ge=1)
    """Sequences in one token shard, at most."""
    max_padding: float = Field(default=0.005, ge=0, lt=1)
    """Share of padding above which documents are cut to fill rows, if they do not fill them otherwise."""
    mixture_tokens: int | None = Field(default=None, ge=1)
    """Training tokens to mix; with none, as many as the weights allow without repeating a document."""
    max_repeats: float = Field(default=4.0, ge=1)
    """Times that a document may be repeated to reach `mixture_tokens` (arXiv 2305.16264: up to 4 are nearly as good as new)."""
    long_documents: LongDocumentsConfig | None = None
    """More of the long documents, for a stage of long sequences; none keeps them as they come."""
    runner: Annotated[Literal["processes", "dask", "ray"], RUNTIME] = "processes"
    """Where the work is done: processes of this machine, or a cluster of Dask or Ray that sees the same files."""
    cluster: Annotated[str | None, RUNTIME] = None
    """Address of the Dask scheduler or the Ray head; none starts one on this machine."""
    workers: Annotated[int, RUNTIME] = Field(default=0, ge=0)
    """Processes that work at once; 0 takes one a core."""

    @field_validator("filters", mode="before")
    @classmethod
    def _groups(cls, value: Any) -> Any:
        if not isinstance(value, list):
            return value
        names = list(get_args(RuleName))
        return [
            name
            for asked in value
            for name in (
                [rule for rule in names if rule.startswith(f"{asked}_")] if asked in ("gopher", "c4") else [asked]
            )
        ]

    @field_validator("sources", mode="before")
    @classmethod
    def _one_or_many(cls, value: Any) -> Any:
        return [value] if isinstance(value, str | Mapping) else value


class NgramConfig(_Section):
    """N-gram embedding (arXiv 2601.21204): hash tables of the last tokens beside the word embedding."""

    vocab_size_ratio: float = Field(default=78.5, gt=0)
    """Rows of a table over the vocabulary."""
    neighbor_num: int = Field(default=4, ge=2)
    """N, tokens of the longest n-gram; every length from 2 on has tables."""
    split_num: int = Field(default=4, ge=1)
    """K, tables for each length, of different sizes so that they do not collide alike."""
    allow_near_multiple: bool = False
    """Accept table sizes close to a multiple of the vocabulary, where many n-grams share a row (Flash-Lite has them)."""

    @property
    def branches(self) -> int:
        """Tables: (N - 1) K."""
        return (self.neighbor_num - 1) * self.split_num

    def rows(self, vocabulary: int) -> list[int]:
        """M_b = int(ratio * vocabulary) + 2b + 1 of each table."""
        return [int(self.vocab_size_ratio * vocabulary) + 2 * branch + 1 for branch in range(self.branches)]


class SparseAttentionConfig(_Section):
    """LongCat Sparse Attention (arXiv 2608.01662): an indexer in every layer picks the keys that attention reads."""

    index_n_heads: int = Field(default=32, ge=1)
    """Heads of the indexer."""
    index_head_dim: int = Field(default=128, ge=2)
    """Dimensions of an indexer head; the first `qk_rope_head_dim` are rotated."""
    index_topk: int = Field(default=2048, ge=1)
    """Budget: keys that a query reads. Shorter sequences have dense attention."""
    index_init_tokens: int = Field(default=16, ge=0)
    """Keys at the start of the sequence that are always in the budget (sink)."""
    index_local_tokens: int = Field(default=1024, ge=1)
    """Last keys, the query's own included, that are always in the budget (sliding window)."""
    hierarchical_from_tokens: int = Field(default=262_144, ge=1)
    """In inference, sequences from this length on are indexed by pages first."""
    index_page_tokens: int = Field(default=128, ge=1)
    """Hierarchical indexing: tokens of a page."""
    index_block_tokens: int = Field(default=8, ge=1)
    """Hierarchical indexing: tokens whose index keys are averaged into one."""
    index_pages: int = Field(default=1024, ge=1)
    """Hierarchical indexing: pages whose tokens are scored one by one."""
    hierarchical_after_layers: int = Field(default=4, ge=0)
    """Hierarchical indexing: the first so many layers always score every token."""

    @model_validator(mode="after")
    def _consistent(self) -> SparseAttentionConfig:
        fixed = self.index_init_tokens + self.index_local_tokens
        if self.index_topk < fixed:
            raise ValueError(
                f"index_topk={self.index_topk} is less than index_init_tokens + index_local_tokens = {fixed}"
            )
        if self.index_page_tokens % self.index_block_tokens:
            raise ValueError(
                f"index_block_tokens={self.index_block_tokens} does not divide index_page_tokens={self.index_page_tokens}"
            )
        if self.index_pages * self.index_page_tokens < self.index_topk:
            raise ValueError(
                f"index_pages={self.index_pages} pages of {self.index_page_tokens} tokens hold fewer than "
                f"index_topk={self.index_topk}"
            )
        return self


class RopeScalingConfig(_Section):
    """YaRN (arXiv 2309.00071): rotary frequencies for sequences longer than those first trained on."""

    factor: float = Field(gt=1)
    """How much longer sequences become."""
    original_max_position_embeddings: int = Field(ge=1)
    """Longest sequence before."""
    beta_fast: float = Field(default=32.0, gt=0)
    """Dimensions that turn more often than this over the original length keep their frequency."""
    beta_slow: float = Field(default=1.0, gt=0)
    """Dimensions that turn less often than this are slowed down by the whole factor."""
    mscale: float = Field(default=1.0, ge=0)
    """Factor m of the rotated part's size, 0.1 m ln(factor) + 1. Not published for LongCat-2.0: DeepSeek's value."""
    mscale_all_dim: float = Field(default=1.0, ge=0)
    """The same for the whole query and key: sharpens the softmax by its square. Not published: DeepSeek's value."""


class ModelConfig(_Section):
    """A LongCat model; names are those of Hugging Face's `LongcatFlashConfig`, or of LongCat-2.0's `config.json`."""

    vocab_size: int | None = Field(default=None, ge=1)
    """Rows of the embedding; none takes the corpus' `vocabulary_size`."""
    hidden_size: int = Field(ge=1)
    """Width of the residual stream."""
    num_layers: int = Field(ge=1)
    """Layers; each holds two attention and two dense sublayers and one mixture of experts."""
    num_attention_heads: int = Field(ge=1)
    """Attention heads."""
    q_lora_rank: int = Field(ge=1)
    """Rank of the compressed query."""
    kv_lora_rank: int = Field(ge=1)
    """Rank of the compressed key and value."""
    qk_nope_head_dim: int = Field(ge=1)
    """Query and key dimensions of a head that carry no position."""
    qk_rope_head_dim: int = Field(ge=2, multiple_of=2)
    """Query and key dimensions of a head that are rotated."""
    v_head_dim: int = Field(ge=1)
    """Value dimensions of a head."""
    ffn_hidden_size: int = Field(ge=1)
    """Width inside a dense sublayer."""
    expert_ffn_hidden_size: int = Field(ge=1)
    """Width inside a routed expert."""
    n_routed_experts: int = Field(ge=1)
    """Experts with weights."""
    zero_expert_num: int = Field(default=0, ge=0)
    """Zero-computation experts, which return their input."""
    moe_topk: int = Field(ge=1)
    """Experts, of both kinds, chosen for a token."""
    routed_scaling_factor: float | None = Field(default=None, gt=0)
    """Factor on the routing weights of both kinds of experts; none takes ffn_hidden_size / expert_ffn_hidden_size (variance compensation)."""
    attention_bias: bool = False
    """Whether the projections from and to the residual stream in attention have a bias."""
    rms_norm_eps: float = Field(default=1e-5, gt=0)
    """Epsilon of every RMS norm but the two inside attention, which have 1e-6 as in the reference implementation."""
    rope_theta: float = Field(default=10_000_000.0, gt=0)
    """Base of the rotary frequencies."""
    rope_scaling: RopeScalingConfig | None = None
    """YaRN; none turns positions as they are."""
    max_position_embeddings: int = Field(default=131072, ge=8)
    """Longest sequence the model is meant for."""
    mla_scale_q_lora: bool = True
    """Scale the compressed query by sqrt(hidden_size / q_lora_rank)."""
    mla_scale_kv_lora: bool = True
    """Scale the compressed key and value by sqrt(hidden_size / kv_lora_rank)."""
    initializer_range: float = Field(default=0.02, gt=0)
    """Standard deviation of initial weights (not published for LongCat: transformers' value)."""
    proxy_hidden_size: int | None = Field(default=None, ge=1)
    """Width of the proxy on which initializer_range and the learning rate were found; none: this model itself."""
    ngram: NgramConfig | None = None
    """N-gram embedding; none has word embeddings only, as LongCat-Flash."""
    sparse_attention: SparseAttentionConfig | None = None
    """LongCat Sparse Attention; none is dense."""
    mtp_num_layers: int = Field(default=0, ge=0)
    """Tokens beyond the next one that the multi-token-prediction module learns to predict; 0 has no such module."""

    @model_validator(mode="after")
    def _consistent(self) -> ModelConfig:
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"num_attention_heads={self.num_attention_heads} does not divide hidden_size={self.hidden_size}"
            )
        if self.ngram is not None and self.hidden_size % self.ngram.branches:
            raise ValueError(
                f"ngram: (neighbor_num - 1) * split_num = {self.ngram.branches} tables do not divide "
                f"hidden_size={self.hidden_size}"
            )
        if self.sparse_attention is not None and self.sparse_attention.index_head_dim < self.qk_rope_head_dim:
            raise ValueError(
                f"sparse_attention.index_head_dim={self.sparse_attention.index_head_dim} is less than "
                f"qk_rope_head_dim={self.qk_rope_head_dim}, the dimensions that are rotated"
            )
        if self.ngram is not None and self.vocab_size is not None:
            self._check_tables(self.ngram, self.vocab_size)
        if self.moe_topk > self.n_routed_experts + self.zero_expert_num:
            raise ValueError(
                f"moe_topk={self.moe_topk} exceeds n_routed_experts + zero_expert_num = "
                f"{self.n_routed_experts + self.zero_expert_num}"
            )
        return self

    @staticmethod
    def _check_tables(ngram: NgramConfig, vocabulary: int) -> None:
        """Refuse tables within 1 % of the vocabulary from a multiple of it: V^k mod M_b is small there, and rows collide."""
        for branch, rows in enumerate(ngram.rows(vocabulary)):
            distance = min(rows % vocabulary, -rows % vocabulary)
            if distance < 0.01 * vocabulary and not ngram.allow_near_multiple:
                raise ValueError(
                    f"ngram.vocab_size_ratio={ngram.vocab_size_ratio}: table {branch} has {rows} rows, {distance} from a "
                    f"multiple of vocab_size={vocabulary}, where n-grams collide; choose a ratio like "
                    f"{int(ngram.vocab_size_ratio)}.5, or accept it with ngram.allow_near_multiple=true"
                )

    @property
    def vocabulary(self) -> int:
        """`vocab_size` once `PipelineConfig` has settled it."""
        if self.vocab_size is None:
            raise ConfigError("model.vocab_size is not set and there is no corpus to take it from")
        return self.vocab_size


class OptimizerConfig(_Section):
    """The optimizer, with warm-up and cosine decay."""

    name: Literal["adamw", "muon"] = "adamw"
    """`adamw`, or `muon` for the matrices of the layers and AdamW for the rest."""
    learning_rate: float = Field(default=1e-3, gt=0)
    """Peak learning rate."""
    final_learning_rate_share: float = Field(default=0.1, ge=0, le=1)
    """Learning rate at the last step as a share of the peak."""
    warmup_steps: int = Field(default=20, ge=0)
    """Steps of linear warm-up."""
    beta1: float = Field(default=0.9, ge=0, lt=1)
    """Decay of the first moment."""
    beta2: float = Field(default=0.95, ge=0, lt=1)
    """Decay of the second moment."""
    momentum: float = Field(default=0.95, ge=0, lt=1)
    """Momentum of Muon."""
    epsilon: float = Field(default=1e-16, gt=0)
    """Well below the gradients' RMS, as LongCat-Flash prescribes (arXiv 2509.01322)."""
    weight_decay: float = Field(default=0.1, ge=0)
    """Decoupled decay of matrices; norms, embeddings and biases have none."""
    max_gradient_norm: float = Field(default=1.0, gt=0)
    """Gradients are scaled down to this global norm."""


class BalanceConfig(_Section):
    """Control of the experts' load through the selection bias (arXiv 2509.01322, section on zero-computation experts)."""

    target_ffn_experts: float | None = Field(default=None, gt=0)
    """K_e, mean routed experts of a token; none takes moe_topk * 2/3 (8 of 12 in LongCat-Flash), or moe_topk without zero experts."""
    bias_update_rate: float = Field(default=1e-3, ge=0)
    """mu of the bias update. Meituan has published no value: ours."""
    final_bias_update_share: float = Field(default=0.1, ge=0, le=1)
    """mu at the last step as a share of the first, with a straight line between. That mu decays is published, how is not."""


def target_ffn_experts(model: ModelConfig, balance: BalanceConfig) -> float:
    """K_e: the configured value, or two thirds of the slots (all of them without zero-computation experts)."""
    if balance.target_ffn_experts is not None:
        return balance.target_ffn_experts
    return model.moe_topk * 2 / 3 if model.zero_expert_num else float(model.moe_topk)


class LossConfig(_Section):
    """Weights of what is learnt beside the next token. Where Meituan has published no value, the choice is ours."""

    mtp_weight: float = Field(default=0.3, ge=0)
    """Of multi-token prediction, the mean over its depths (DeepSeek-V3's first value; LongCat's is not published)."""
    indexer_weight: float = Field(default=1.0, ge=0)
    """Of the indexer's divergence from attention; nothing but the indexer learns from it. Ours."""
    balance_weight: float = Field(default=1e-3, ge=0)
    """alpha of the device-level balance loss. Ours; published is that its gradient stays below a tenth of the main one."""
    balance_groups: int = Field(default=1, ge=1)
    """D of the balance loss: groups of routed experts, one for each expert-parallel device."""
    hidden_z_weight: float = Field(default=1e-7, ge=0)
    """lambda of the hidden z-loss, which keeps activations from growing (arXiv 2509.01322)."""


class TrainingConfig(_Section):
    """Pre-training: batch, length, layout and what is saved."""

    steps: int = Field(ge=1)
    """Optimizer steps."""
    batch_sequences: int = Field(ge=1)
    """Sequences in one optimizer step, over all processes."""
    micro_batch_sequences: int = Field(default=0, ge=0)
    """Sequences of one process that go through the model at once; 0 takes all of its share."""
    recompute: Literal["none", "full"] = "none"
    """What is worked out again for the backward pass instead of kept: nothing, or every layer (less memory, a third more work)."""
    processes: int = Field(default=0, ge=0)
    """Training processes; 0 takes one per accelerator, or two on a CPU with two cores or more."""
    expert_parallel: int = Field(default=0, ge=0)
    """Processes over which the experts are spread; 0 takes the most that divide both `processes` and the routed experts."""
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    """Compute precision; weights and optimizer state stay fp32. `auto`: bf16 where the hardware has it."""
    compile: bool = False
    """Compile the layers with torch.compile: about half a minute once, and faster steps. Needs a C++ compiler on a CPU."""
    reference_operators: list[OperatorName] = Field(default_factory=list)
    """Operators that are computed by their plain torch reference, whatever the device has a faster path for (docs/ascend.md)."""
    mask_documents: bool = False
    """Attention, its indexer, n-grams and multi-token prediction do not reach from a document into those before it in its row.
    Off by default: LongCat's reports do not say."""
    optimizer: OptimizerConfig = OptimizerConfig()
    """The optimizer and its schedule."""
    balance: BalanceConfig = BalanceConfig()
    """Control of the experts' load."""
    losses: LossConfig = LossConfig()
    """What is learnt beside the next token."""
    dense_attention_steps: int = Field(default=0, ge=0)
    """With sparse attention: first steps, in which attention is dense and the indexer rests."""
    indexer_warmup_steps: int = Field(default=0, ge=0)
    """With sparse attention: steps after those, in which attention is dense and only the indexer learns."""
    log_every_steps: Annotated[int, RUNTIME] = Field(default=10, ge=1)
    """Steps between two records of throughput and MFU; the loss is recorded at every step."""
    checkpoint_every_steps: Annotated[int, RUNTIME] = Field(default=200, ge=1)
    """Steps between two checkpoints that an interrupted run resumes from."""
    keep_checkpoints: Annotated[int, RUNTIME] = Field(default=2, ge=1)
    """Checkpoints kept while training."""
    max_restarts: Annotated[int, RUNTIME] = Field(default=2, ge=0)
    """Restarts from the last checkpoint after a failed process, as long as each attempt gets further."""
    collective_timeout_s: Annotated[float, RUNTIME] = Field(default=300, gt=0)
    """No collective waits longer than this."""
    deadline_s: Annotated[float, RUNTIME] = Field(default=7 * 24 * 3600, gt=0)
    """The whole stage takes no longer than this."""
    grace_s: Annotated[float, RUNTIME] = Field(default=20, gt=0)
    """Time that processes told to stop have for saving a checkpoint before they are killed."""


class SweepConfig(_Section):
    """Settings of training whose every combination is timed; an empty list leaves the run's own."""

    micro_batch_sequences: list[int] = Field(default_factory=list)
    """Sequences of one process that go through the model at once."""
    sequence_length_tokens: list[int] = Field(default_factory=list)
    """The tokens of a batch are cut anew, without padding."""
    recompute: list[Literal["none", "full"]] = Field(default_factory=list)
    """See `training.recompute`."""
    processes: list[int] = Field(default_factory=list)
    """Training processes, for the scaling curve."""


class BenchmarkConfig(_Section):
    """Measurement of the trained model's throughput."""

    warmup_steps: int = Field(default=3, ge=0)
    """Steps before measuring."""
    windows: int = Field(default=3, ge=1)
    """Measured windows; the median is reported with the spread."""
    window_steps: int = Field(default=4, ge=1)
    """Steps in one window."""
    profiled_steps: int = Field(default=2, ge=0)
    """Steps under the profiler, after the timed ones; 0 leaves the breakdown out."""
    kernel_seconds: float = Field(default=0.3, ge=0)
    """Time for each operator of the roofline; 0 leaves it out."""
    collective_bytes: list[int] = Field(default_factory=lambda: [2**14, 2**18, 2**22, 2**26])
    """Sizes at which collectives are timed; none leaves them out."""
    sweep: SweepConfig = SweepConfig()
    """Further settings to time."""
    reference_rows: int = Field(default=6, ge=3)
    """Published rows that the result is set against; a verdict takes three."""


class EvaluationConfig(_Section):
    """What the checkpoint is scored on."""

    held_out_sequences: int = Field(default=256, ge=1)
    """At most so many held-out sequences are scored."""
    ngram_order: int = Field(default=5, ge=1, le=8)
    """Order of the n-gram baseline."""
    tasks: list[str] = Field(default_factory=lambda: ["python_completion"])
    """lm-evaluation-harness tasks, by name; each is a YAML file with its JSONL in data/evaluation/."""
    task_limit: int | None = Field(default=None, ge=1)
    """At most so many documents of each task."""
    batch_sequences: int = Field(default=16, ge=1)
    """Sequences scored at once; fixed, because results can depend on it."""


class PipelineConfig(_Section):
    """Everything a run depends on."""

    preset: Annotated[str, RUNTIME] = "custom"
    """Name of the preset this configuration started from."""
    seed: int = Field(default=0, ge=0)
    """Seed of initial weights and of the order of data."""
    accelerator: Annotated[Literal["auto", "npu", "cuda", "cpu"], RUNTIME] = "auto"
    """Device to train on. The stages that compute put the resolved kind into their identity."""
    experiment: Annotated[str, RUNTIME] = "longcat"
    """MLflow experiment."""
    corpus: CorpusConfig = CorpusConfig()
    """Data preprocessing."""
    model: ModelConfig
    """The model."""
    training: TrainingConfig
    """Pre-training."""
    benchmark: BenchmarkConfig = BenchmarkConfig()
    """MFU benchmark."""
    evaluation: EvaluationConfig = EvaluationConfig()
    """Checkpoint evaluation."""

    @model_validator(mode="after")
    def _consistent(self) -> PipelineConfig:
        if self.model.vocab_size is None:
            fields = {
                **dict(self.model),
                "vocab_size": self.corpus.vocabulary_size,
            }  # checked again, with the vocabulary
            object.__setattr__(self, "model", ModelConfig(**fields))
        elif self.model.vocab_size < self.corpus.vocabulary_size:
            raise ValueError(
                f"model.vocab_size={self.model.vocab_size} is smaller than "
                f"corpus.vocabulary_size={self.corpus.vocabulary_size}"
            )
        if self.corpus.sequence_length_tokens > self.model.max_position_embeddings:
            raise ValueError(
                f"corpus.sequence_length_tokens={self.corpus.sequence_length_tokens} exceeds "
                f"model.max_position_embeddings={self.model.max_position_embeddings}"
            )
        if self.model.n_routed_experts % self.training.losses.balance_groups:
            raise ValueError(
                f"training.losses.balance_groups={self.training.losses.balance_groups} does not divide "
                f"model.n_routed_experts={self.model.n_routed_experts}"
            )
        if self.training.expert_parallel and self.model.n_routed_experts % self.training.expert_parallel:
            raise ValueError(
                f"training.expert_parallel={self.training.expert_parallel} does not divide "
                f"model.n_routed_experts={self.model.n_routed_experts}"
            )
        return self


# ---------------------------------------------------------------------------------------------------- identity


def identity(section: BaseModel) -> dict[str, Any]:
    """The part of a configuration section that can change bytes, as plain JSON values.

    Raises:
        TypeError: a field holds something that has no canonical JSON form; falling back to `repr` would let such a
            value fork digests silently.
    """
    return {
        name: _canonical(getattr(section, name), name)
        for name, field in type(section).model_fields.items()
        if RUNTIME not in field.metadata
    }


def _canonical(value: Any, where: str) -> Any:
    if isinstance(value, BaseModel):
        return identity(value)
    if isinstance(value, list):
        return [_canonical(item, where) for item in value]
    if value is None or isinstance(value, str | bool | int | float):
        return value
    raise TypeError(f"{where}: a {type(value).__name__} cannot be part of an identity")


# ---------------------------------------------------------------------------------------------------- loading


def preset_names() -> list[str]:
    """Names of the presets, in alphabetical order."""
    return sorted(path.stem for path in PRESET_DIRECTORY.glob("*.yaml"))


def load_config(preset: str | None = None, file: Path | None = None, overrides: Iterable[str] = ()) -> PipelineConfig:
    """Build the configuration: preset, then file, then `a.b=c` overrides, each over the one before.

    Without preset and file the preset is `tiny`; a file alone has to be complete, or name a `preset` itself.

    Raises:
        ConfigError: naming the file or override and the field, with the nearest right key for an unknown one.
    """
    tree: dict[str, Any] = {}
    origin = "--set"
    if file is not None:
        origin = str(file)
        tree = _read_yaml(file)
    preset = preset or tree.get("preset") or (None if file else "tiny")
    if preset is not None:
        names = preset_names()
        if preset not in names:
            raise ConfigError(f"unknown preset {preset!r}{_nearest(preset, names)}; there are: {', '.join(names)}")
        tree = _merge(_read_yaml(PRESET_DIRECTORY / f"{preset}.yaml"), tree)
        tree["preset"] = preset
        origin = f"preset {preset}" if file is None else origin
    for override in overrides:
        tree = _merge(tree, _parse_override(override))
        origin = f"{origin} with --set" if "--set" not in origin else origin
    try:
        return PipelineConfig.model_validate(tree)
    except ValidationError as error:
        raise ConfigError(_explain(error, origin)) from None


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read configuration {path}: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not valid YAML: {error}") from None
    if not isinstance(tree, dict):
        raise ConfigError(f"{path}: expected a mapping of sections, found {type(tree).__name__}")
    return tree


def _parse_override(text: str) -> dict[str, Any]:
    key, separator, value = text.partition("=")
    if not separator or not key.strip():
        raise ConfigError(f"--set {text!r}: expected KEY=VALUE, for example --set training.steps=100")
    try:
        tree: Any = yaml.safe_load(value)
    except yaml.YAMLError:
        raise ConfigError(f"--set {text!r}: the value is not valid YAML") from None
    if isinstance(tree, str):
        try:
            tree = float(tree)  # YAML 1.1 reads 1e-3 as a string
        except ValueError:
            pass
    for part in reversed(key.strip().split(".")):
        tree = {part: tree}
    return dict(tree)


def _merge(base: dict[str, Any], top: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in top.items():
        old = merged.get(key)
        merged[key] = _merge(old, value) if isinstance(old, dict) and isinstance(value, Mapping) else value
    return merged


def _explain(error: ValidationError, origin: str) -> str:
    lines = []
    for problem in error.errors():
        location = [str(part) for part in problem["loc"]]
        key = ".".join(location)
        if problem["type"] == "extra_forbidden":
            lines.append(f"unknown key {key!r}{_nearest_key(location)}")
        elif problem["type"] == "missing":
            lines.append(f"{key} is missing")
        else:
            found = (
                "" if isinstance(problem["input"], dict) else f" (found {json.dumps(problem['input'], default=str)})"
            )
            message = problem["msg"].removeprefix("Value error, ")
            lines.append(f"{key}: {message}{found}" if key else message)
    return f"{origin}: " + "; ".join(lines)


def _nearest_key(location: list[str]) -> str:
    """Suggest a sibling of the unknown key, else the same name elsewhere in the tree."""
    section: type[BaseModel] = PipelineConfig
    for part in location[:-1]:
        if part in section.model_fields:
            section = _section_of(section.model_fields[part].annotation) or section
    siblings = difflib.get_close_matches(location[-1], section.model_fields, n=1, cutoff=0.6)
    if siblings:
        return f"; did you mean {'.'.join([*location[:-1], siblings[0]])!r}?"
    leaf = location[-1]
    elsewhere = [key for key in all_keys(PipelineConfig) if key.rsplit(".", 1)[-1] == leaf]
    if elsewhere:
        return f"; did you mean {elsewhere[0]!r}?"
    return f"; there are: {', '.join(section.model_fields)}"


def _section_of(annotation: Any) -> type[BaseModel] | None:
    for candidate in (annotation, *get_args(annotation)):
        if isinstance(candidate, type) and issubclass(candidate, BaseModel):
            return candidate
    return None


def all_keys(section: type[BaseModel], prefix: str = "") -> Iterable[str]:
    """Every dotted key of a configuration section, sections themselves included."""
    for name, field in section.model_fields.items():
        yield prefix + name
        nested = _section_of(field.annotation)
        if nested is not None:
            yield from all_keys(nested, f"{prefix}{name}.")


def _nearest(word: str, words: list[str]) -> str:
    near = difflib.get_close_matches(word, words, n=1, cutoff=0.6)
    return f"; did you mean {near[0]!r}?" if near else ""
