"""Families with experts whose code comes with the checkpoint: shapes of the published modules."""

from __future__ import annotations

from longcat.costs.attention import Attention
from longcat.costs.families.deepseek import latent_mixture
from longcat.costs.families.fields import Family, Fields
from longcat.costs.families.layers import Layers, after_first, by_step, decoder, feed_forward, mixture, read_mixture
from longcat.costs.families.mixtures import step_sparse
from longcat.costs.families.routed import Kind, entry, first_dense, times, width_of
from longcat.costs.workload import Workload
from longcat.errors import ConfigError


def _pangu_ultra(f: Fields) -> Workload:
    """Latent attention; `sandwich_norm` has norms behind attention and feed-forward network, too."""
    norms = 4 if f.flag("sandwich_norm", False) else 2
    return latent_mixture(f, "pangu_ultra_moe", first=3, norms=norms)


def _step3(f: Fields) -> Workload:
    """Queries of low rank that all read few heads of keys (multi-matrix factorization, arXiv 2507.19427, section 4)."""
    h, layers, heads = f.size("hidden_size"), f.size("num_hidden_layers"), f.size("num_attention_heads")
    groups, rank, dim = f.size("num_attention_groups", default=1), f.size("share_q_dim"), f.size("head_dim")
    f.divided(heads, groups, "the heads of queries,")
    if f.values.get("moe_layers_enum") is None:
        raise ConfigError(f"{f.source}: no moe_layers_enum")
    weights = h * rank + rank * heads * dim + 2 * h * groups * dim + heads * dim * h
    attention = Layers(
        {"attention_projections": layers * weights}, layers * rank, mixers=(Attention(layers, heads, dim, dim),)
    )
    sparse, experts = (
        step_sparse(f, layers),
        read_mixture(f, f.size("moe_intermediate_size"), f.size("share_expert_dim")),
    )
    dense = feed_forward(h, layers - sparse, f.size("intermediate_size")) if sparse < layers else Layers()
    parts = [attention, dense, mixture(h, sparse, experts)]
    return decoder(f, "step3_text", h, layers, parts, experts=experts)


def _residual(f: Fields) -> bool:
    return f.flag("parallel_attn_mlp_res", False) or f.flag("use_residual", False)


def _xverse_sparse(f: Fields, layers: int) -> int:
    """Return all layers if there are experts: the dense models have the same type."""
    return layers if f.values.get("num_experts") else 0


_LING = Kind(
    bias="use_qkv_bias", output_bias="use_bias", ffn_bias="use_bias", query_norms="head", query_norms_if="use_qk_norm",
    sparse=first_dense(0), shared=times("num_shared_experts", 0, "moe_shared_expert_intermediate_size"), mtp="routed",
)  # fmt: skip
_PANGU = {
    "q_lora_rank": "attention_q_lora_dim", "kv_lora_rank": "attention_kv_lora_dim",
    "qk_nope_head_dim": "attention_qk_dim", "qk_rope_head_dim": "attention_qk_rope_dim",
    "v_head_dim": "attention_v_dim", "first_k_dense_replace": "num_dense_layers",
    "n_routed_experts": "num_routed_experts", "n_shared_experts": "num_shared_experts",
    "num_nextn_predict_layers": "num_mtp_layers",
}  # fmt: skip
FAMILIES = {
    "step3_text": Family(_step3, ("Step3TextForCausalLM",)),
    "pangu_ultra_moe": Family(
        _pangu_ultra, ("PanguUltraMoEForCausalLM", "OpenPanguMoEForCausalLM"), {}, _PANGU, mtp=True
    ),
} | dict(
    (
        entry("bailing_moe", _LING, ("BailingMoeForCausalLM",), {}),
        entry("bailing_moe_v2", _LING, ("BailingMoeV2ForCausalLM",), {"use_qk_norm": True}),
        entry(
            "deepseek",
            Kind(sparse=after_first, shared=times("n_shared_experts", 0)),
            ("DeepseekForCausalLM",),
            {"moe_intermediate_size": 1407},
        ),
        entry(
            "PanguProMoE",
            Kind(
                bias="qkv_bias", bias_default=True, sparse=by_step, correction=True,  # a learned scale per expert
                shared=width_of(0, "shared_expert_intermediate_size"),
            ),
            ("PanguProMoEForCausalLM",),
            {},
        ),
        entry(
            "grok-1",
            Kind(bias=False, norms=4, expert_width=("moe_intermediate_size", "intermediate_size")),
            ("Grok1ModelForCausalLM",),
            {"num_experts": 8, "num_experts_per_tok": 2, "tie_word_embeddings": True},
        ),
        entry(
            "arctic",
            Kind(
                bias=False, expert_width=("intermediate_size",), sparse_norms=_residual,
                sparse=lambda f, n: n // f.size("moe_layer_frequency", default=2),
                shared=lambda f, width: f.size("hidden_size") * _residual(f),
            ),
            ("ArcticForCausalLM",),
            {"num_local_experts": 8, "num_experts_per_tok": 1},
        ),
        entry(
            "xverse",
            Kind(
                bias=False, expert_width=("intermediate_size",), sparse=_xverse_sparse,
                shared=times("num_shared_experts", 0),
            ),
            ("XverseForCausalLM",),
            {},
        ),
        entry(
            "mimo",
            Kind(bias_default=True, output_bias=False, sparse=lambda f, n: 0, mtp="dense"),
            ("MiMoForCausalLM",),
            {"num_key_value_heads": 32},
        ),
    )
)  # fmt: skip
