"""Configuration of the model: LongCat-Flash, Flash-Lite and LongCat-2.0 by their published field names."""

from __future__ import annotations

from pydantic import Field, model_validator

from longcat.config.section import Section
from longcat.errors import ConfigError

BOS_TOKEN_ID, EOS_TOKEN_ID = 1, 2
"""Ids that begin and end a text in LongCat's own tokenizers."""


class NgramConfig(Section):
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


class SparseAttentionConfig(Section):
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


class RopeScalingConfig(Section):
    """YaRN (arXiv 2309.00071): rotary frequencies for sequences longer than those first trained on.

    A field that is left out means what it means to transformers' `_compute_yarn_parameters`.
    """

    factor: float = Field(ge=1)
    """How much longer sequences become."""
    original_max_position_embeddings: int = Field(ge=1)
    """Longest sequence before."""
    beta_fast: float = Field(default=32.0, gt=0)
    """Dimensions that turn more often than this over the original length keep their frequency."""
    beta_slow: float = Field(default=1.0, gt=0)
    """Dimensions that turn less often than this are slowed down by the whole factor."""
    mscale: float | None = Field(default=None, ge=0)
    """Numerator of the factor on the rotated part's size, 0.1 mscale ln(factor) + 1, over the same of mscale_all_dim; when either is missing or 0, the factor is 0.1 ln(factor) + 1."""
    mscale_all_dim: float | None = Field(default=None, ge=0)
    """Attention scores are multiplied by the square of 0.1 mscale_all_dim ln(factor) + 1; missing or 0 leaves them as they are."""
    attention_factor: float | None = Field(default=None, gt=0)
    """Factor on the rotated part's size, instead of the one that mscale and mscale_all_dim give."""
    truncate: bool = True
    """Round the bounds between fast and slow dimensions to whole dimensions."""


class ModelConfig(Section):
    """A LongCat model; names are those of Hugging Face's `LongcatFlashConfig`, or of LongCat-2.0's `config.json`."""

    vocab_size: int | None = Field(default=None, ge=1)
    """Rows of the embedding; none takes the corpus' `vocabulary_size`."""
    eos_token_id: int | None = Field(default=None, ge=0)
    """Token that ends a document: n-grams and multi-token prediction do not reach over it; none takes that of the corpus' tokenizer."""
    bos_token_id: int | None = Field(default=None, ge=0)
    """Token that begins a text, for programs that open an exported model; none takes 1 where 2 ends a text, as LongCat's tokenizers do, and eos_token_id otherwise."""
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
        if self.eos_token_id is not None and self.vocab_size is not None and self.eos_token_id >= self.vocab_size:
            raise ValueError(f"eos_token_id={self.eos_token_id} is not a token of vocab_size={self.vocab_size}")
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

    @property
    def end_of_text(self) -> int:
        """`eos_token_id` once it has been settled.

        Raises:
            ConfigError: it has not.
        """
        if self.eos_token_id is None:
            raise ConfigError("model.eos_token_id is not set and there is no tokenizer to take it from")
        return self.eos_token_id

    @property
    def begin_of_text(self) -> int:
        """`bos_token_id`, or what stands in for it: a tokenizer without one begins where another text has ended.

        Raises:
            ConfigError: `eos_token_id` has not been settled.
        """
        if self.bos_token_id is not None:
            return self.bos_token_id
        return BOS_TOKEN_ID if self.end_of_text == EOS_TOKEN_ID else self.end_of_text

    @property
    def routed_scale(self) -> float:
        """`routed_scaling_factor`, or ffn_hidden_size / expert_ffn_hidden_size where it is not set."""
        if self.routed_scaling_factor is not None:
            return self.routed_scaling_factor
        return self.ffn_hidden_size / self.expert_ffn_hidden_size
