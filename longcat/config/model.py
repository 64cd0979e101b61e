"""Configuration of the model: LongCat-Flash, Flash-Lite and LongCat-2.0 by their published field names."""

from __future__ import annotations

from pydantic import Field, model_validator

from longcat.config.section import Section
from longcat.errors import ConfigError

BOS_TOKEN_ID, EOS_TOKEN_ID = 1, 2
"""Ids that begin and end a text in LongCat's own tokenizers."""


class NgramConfig(Section):
    """N-gram embedding (arXiv 2601.21204): hash tables of the last tokens in addition to the word embedding."""

    vocab_size_ratio: float = Field(default=78.5, gt=0)
    """Rows of a table, as a multiple of the vocabulary."""
    neighbor_num: int = Field(default=4, ge=2)
    """N, tokens of the longest n-gram; every length from 2 to N has tables."""
    split_num: int = Field(default=4, ge=1)
    """K, tables per n-gram length; their sizes differ so that their collisions differ."""
    allow_near_multiple: bool = False
    """Accept table sizes close to a multiple of the vocabulary, where many n-grams share a row (Flash-Lite has them)."""

    @property
    def branches(self) -> int:
        """Return the number of tables, (N - 1) K."""
        return (self.neighbor_num - 1) * self.split_num

    def rows(self, vocabulary: int) -> list[int]:
        """Return the rows of each table b, M_b = int(ratio * vocabulary) + 2b + 1."""
        return [int(self.vocab_size_ratio * vocabulary) + 2 * branch + 1 for branch in range(self.branches)]


class SparseAttentionConfig(Section):
    """LongCat Sparse Attention (arXiv 2608.01662): an indexer in every layer picks the keys that attention reads."""

    index_n_heads: int = Field(default=32, ge=1)
    """Number of indexer heads."""
    index_head_dim: int = Field(default=128, ge=2)
    """Dimensions per indexer head; the first `qk_rope_head_dim` are rotated."""
    index_topk: int = Field(default=2048, ge=1)
    """Budget: number of keys that a query reads. Attention is dense for shorter sequences."""
    index_init_tokens: int = Field(default=16, ge=0)
    """Number of keys at the start of the sequence that are always in the budget (sink)."""
    index_local_tokens: int = Field(default=1024, ge=1)
    """Number of last keys, the query's own included, that are always in the budget (sliding window)."""
    hierarchical_from_tokens: int = Field(default=262_144, ge=1)
    """Hierarchical indexing: sequence length from which inference scores pages first."""
    index_page_tokens: int = Field(default=128, ge=1)
    """Hierarchical indexing: tokens per page."""
    index_block_tokens: int = Field(default=8, ge=1)
    """Hierarchical indexing: tokens whose index keys are averaged into one."""
    index_pages: int = Field(default=1024, ge=1)
    """Hierarchical indexing: number of pages whose tokens are scored individually."""
    hierarchical_after_layers: int = Field(default=4, ge=0)
    """Hierarchical indexing: number of first layers that always score every token."""

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


class RopeScalingConfig(Section):
    """YaRN (arXiv 2309.00071): rotary frequencies for sequences longer than those first trained on.

    A field that is left out means what it means to transformers' `_compute_yarn_parameters`.
    """

    factor: float = Field(ge=1)
    """Factor by which the sequence length is extended."""
    original_max_position_embeddings: int = Field(ge=1)
    """Maximum sequence length before the extension."""
    beta_fast: float = Field(default=32.0, gt=0)
    """Dimensions with more rotations than this over the original length keep their frequency."""
    beta_slow: float = Field(default=1.0, gt=0)
    """Dimensions with fewer rotations than this have their frequency divided by the whole factor."""
    mscale: float | None = Field(default=None, ge=0)
    """Numerator of the factor on the rotated part's size, 0.1 mscale ln(factor) + 1, over the same of mscale_all_dim; when either is missing or 0, the factor is 0.1 ln(factor) + 1."""
    mscale_all_dim: float | None = Field(default=None, ge=0)
    """Attention scores are multiplied by the square of 0.1 mscale_all_dim ln(factor) + 1; missing or 0 means by 1."""
    attention_factor: float | None = Field(default=None, gt=0)
    """Factor on the rotated part's size, instead of the one that mscale and mscale_all_dim give."""
    truncate: bool = True
    """Whether the bounds between fast and slow dimensions are rounded to whole dimensions."""


class ModelConfig(Section):
    """A LongCat model; names are those of Hugging Face's `LongcatFlashConfig`, or of LongCat-2.0's `config.json`."""

    vocab_size: int | None = Field(default=None, ge=1)
    """Rows of the embedding; null takes the corpus' `vocabulary_size`."""
    eos_token_id: int | None = Field(default=None, ge=0)
    """Token that ends a document; n-grams and multi-token prediction do not cross it. Null takes that of the corpus'
    tokenizer."""
    bos_token_id: int | None = Field(default=None, ge=0)
    """Token that begins a text, for programs that open an exported model; null takes 1 if eos_token_id is 2, as in
    LongCat's tokenizers, and eos_token_id otherwise."""
    hidden_size: int = Field(ge=1)
    """Width of the residual stream."""
    num_layers: int = Field(ge=1)
    """Number of layers; each has two attention sublayers, two dense sublayers and one mixture of experts."""
    num_attention_heads: int = Field(ge=1)
    """Number of attention heads."""
    q_lora_rank: int = Field(ge=1)
    """Rank of the compressed query."""
    kv_lora_rank: int = Field(ge=1)
    """Rank of the compressed key and value."""
    qk_nope_head_dim: int = Field(ge=1)
    """Query and key dimensions per head without position."""
    qk_rope_head_dim: int = Field(ge=2, multiple_of=2)
    """Query and key dimensions per head that are rotated."""
    v_head_dim: int = Field(ge=1)
    """Value dimensions per head."""
    ffn_hidden_size: int = Field(ge=1)
    """Width inside a dense sublayer."""
    expert_ffn_hidden_size: int = Field(ge=1)
    """Width inside a routed expert."""
    n_routed_experts: int = Field(ge=1)
    """Number of routed experts, which have weights."""
    zero_expert_num: int = Field(default=0, ge=0)
    """Number of zero-computation experts, which return their input."""
    moe_topk: int = Field(ge=1)
    """Experts of both kinds chosen per token."""
    routed_scaling_factor: float | None = Field(default=None, gt=0)
    """Factor on the routing weights of both kinds of experts; null takes ffn_hidden_size / expert_ffn_hidden_size
    (variance compensation)."""
    attention_bias: bool = False
    """Whether the projections from and to the residual stream in attention have a bias."""
    rms_norm_eps: float = Field(default=1e-5, gt=0)
    """Epsilon of every RMS norm but the two inside attention, which have 1e-6 as in the reference implementation."""
    rope_theta: float = Field(default=10_000_000.0, gt=0)
    """Base of the rotary frequencies."""
    rope_scaling: RopeScalingConfig | None = None
    """YaRN scaling of the rotary frequencies; null leaves them unscaled."""
    max_position_embeddings: int = Field(default=131072, ge=8)
    """Maximum sequence length of the model."""
    mla_scale_q_lora: bool = True
    """Whether the compressed query is scaled by sqrt(hidden_size / q_lora_rank)."""
    mla_scale_kv_lora: bool = True
    """Whether the compressed key and value are scaled by sqrt(hidden_size / kv_lora_rank)."""
    initializer_range: float = Field(default=0.02, gt=0)
    """Standard deviation of initial weights (not published for LongCat: transformers' value)."""
    proxy_hidden_size: int | None = Field(default=None, ge=1)
    """Width of the proxy model on which initializer_range and the learning rate were tuned; null: this model itself."""
    ngram: NgramConfig | None = None
    """N-gram embedding; null means word embeddings only, as in LongCat-Flash."""
    sparse_attention: SparseAttentionConfig | None = None
    """LongCat Sparse Attention; null means dense attention."""
    mtp_num_layers: int = Field(default=0, ge=0)
    """Number of tokens beyond the next one that the multi-token-prediction module predicts; 0: no such module."""

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
        if self.eos_token_id is not None and self.vocab_size is not None and self.eos_token_id >= self.vocab_size:
            raise ValueError(f"eos_token_id={self.eos_token_id} is not a token of vocab_size={self.vocab_size}")
        if self.bos_token_id is not None and self.vocab_size is not None and self.bos_token_id >= self.vocab_size:
            raise ValueError(f"bos_token_id={self.bos_token_id} is not a token of vocab_size={self.vocab_size}")
        if self.moe_topk > self.n_routed_experts + self.zero_expert_num:
            raise ValueError(
                f"moe_topk={self.moe_topk} exceeds n_routed_experts + zero_expert_num = "
                f"{self.n_routed_experts + self.zero_expert_num}"
            )
        return self

    @staticmethod
    def _check_tables(ngram: NgramConfig, vocabulary: int) -> None:
        """Refuse table sizes within 1 % of a multiple of the vocabulary: V^k mod M_b is small there."""
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
        """Return `vocab_size`, once `PipelineConfig` has resolved it."""
        if self.vocab_size is None:
            raise ConfigError("model.vocab_size is not set and there is no corpus to take it from")
        return self.vocab_size

    @property
    def end_of_text(self) -> int:
        """Return `eos_token_id`, once it has been resolved.

        Raises:
            ConfigError: it has not.
        """
        if self.eos_token_id is None:
            raise ConfigError("model.eos_token_id is not set and there is no tokenizer to take it from")
        return self.eos_token_id

    @property
    def begin_of_text(self) -> int:
        """Return `bos_token_id` or its default; without one, a text begins with the token that ends the text before.

        Raises:
            ConfigError: `eos_token_id` has not been settled.
        """
        if self.bos_token_id is not None:
            return self.bos_token_id
        return BOS_TOKEN_ID if self.end_of_text == EOS_TOKEN_ID else self.end_of_text

    @property
    def routed_scale(self) -> float:
        """Return `routed_scaling_factor`, or ffn_hidden_size / expert_ffn_hidden_size if it is not set."""
        if self.routed_scaling_factor is not None:
            return self.routed_scaling_factor
        return self.ffn_hidden_size / self.expert_ffn_hidden_size
