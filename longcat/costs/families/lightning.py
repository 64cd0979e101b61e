"""Families with lightning attention: linear attention whose state decays at a fixed rate (arXiv 2405.17381)."""

from __future__ import annotations

from longcat.costs.families.blocks import (
    LINEAR_OR_FULL,
    Block,
    attention,
    count_kinds,
    gated_ffn,
    latent_attention,
    mixture,
    norms,
    stacked,
)
from longcat.costs.families.delta_rule import delta_attention, sparse_layers
from longcat.costs.families.fields import Family, Fields
from longcat.costs.families.gated import Experts
from longcat.costs.recurrence import Recurrence
from longcat.costs.workload import Workload
from longcat.errors import ConfigError


def _lightning(f: Fields, h: int, *, dim: int, head_norms: bool = False) -> Block:
    """One lightning attention with an output gate and a norm over all its heads."""
    heads = f.size("num_attention_heads")
    width = heads * dim
    return Block(
        {"recurrence_projections": 5 * h * width},
        width + 2 * dim * head_norms,
        Recurrence(1, heads, dim, dim, products=2),
    )


def _minimax(f: Fields) -> Workload:
    """MiniMax-Text-01 and M1 (arXiv 2501.08313): a softmax attention every eighth layer, experts in all of them."""
    h, layers = f.size("hidden_size"), f.size("num_hidden_layers")
    if (kinds := f.each("attn_type_list", int, layers)) is not None:  # of the model's own code
        if any(kind not in (0, 1) for kind in kinds):
            raise ConfigError(f"{f.source}: attn_type_list must hold 0, lightning, or 1, softmax, found {kinds}")
        full = sum(kinds)
    else:
        named = count_kinds(f, "layer_types", layers, LINEAR_OR_FULL)
        full = (layers + 1) // 2 if named is None else named["full"]
    dim = f.size("head_dim", default=f.divided(h, f.size("num_attention_heads"), "the hidden size"))
    shared = f.count("shared_intermediate_size", 0)
    experts = Experts(
        router=h * f.size("num_local_experts", "num_experts"),
        expert=3 * h * f.size("intermediate_size"),
        number=f.size("num_local_experts", "num_experts"),
        chosen=f.size("num_experts_per_tok"),
        shared=3 * h * shared + h if shared else 0,
    )
    return stacked(
        f,
        "minimax",
        h,
        layers,
        [
            (full, attention(f, h, dim=dim, window=f.count("sliding_window", 0) or None)),
            (layers - full, _lightning(f, h, dim=dim)),
            (layers, mixture(experts)),
            (layers, norms(h)),
        ],
    )


def _bailing(f: Fields) -> Workload:
    """Ling and Ring 2.5 with lightning attention, 3.0 with the delta rule per channel; both with latent attention."""
    h, layers, heads = f.size("hidden_size"), f.size("num_hidden_layers"), f.size("num_attention_heads")
    kinds = count_kinds(f, "layer_types", layers, LINEAR_OR_FULL)
    group, dim = f.size("layer_group_size"), f.size("head_dim")
    older = "group_norm_size" in f.values and "kda_safe_gate" not in f.values
    if "BailingMoeV2_5ForCausalLM" in (f.each("architectures", str) or []) or older:
        full = layers // group + layers % group if kinds is None else kinds["full"]  # a rest is softmax
        linear = _lightning(f, h, dim=dim, head_norms=f.flag("use_qk_norm", True))
        softmax = latent_attention(f, h)
    else:
        full = layers // group if kinds is None else kinds["full"]
        dim = f.size("linear_head_dim", default=dim)
        linear = delta_attention(h, heads, dim, f.size("short_conv_kernel_size"), forget_rank=None, gate_rank=None)
        softmax = latent_attention(f, h, bias=f.flag("attention_bias", False), gates=heads)
    sparse = sparse_layers(f, layers)
    width, number = f.size("moe_intermediate_size"), f.size("num_experts", "num_local_experts", "n_routed_experts")
    experts = Experts(
        router=h * number,
        expert=3 * h * width,
        number=number,
        chosen=f.size("num_experts_per_tok", "num_experts_per_token"),
        shared=3 * h * width * f.count("num_shared_experts", f.count("n_shared_experts", 1)),
    )
    return stacked(
        f,
        "bailing_hybrid",
        h,
        layers,
        [
            (full, softmax),
            (layers - full, linear),
            (layers - sparse, gated_ffn(h, f.size("intermediate_size"))),
            (sparse, mixture(experts)),
            (layers, norms(h)),
        ],
        tied=None,
    )


FAMILIES = {
    "minimax": Family(
        _minimax,
        ("MiniMaxForCausalLM", "MiniMaxText01ForCausalLM", "MiniMaxM1ForCausalLM"),
        {"num_key_value_heads": 8, "num_local_experts": 8, "num_experts_per_tok": 2, "intermediate_size": 14336},
    ),
    "bailing_hybrid": Family(
        _bailing,
        ("BailingHybridForCausalLM", "BailingMoeV2_5ForCausalLM", "BailingMoeV3ForCausalLM"),
        {
            "intermediate_size": 6144, "moe_intermediate_size": 768, "kv_lora_rank": 512, "qk_rope_head_dim": 64,
            "v_head_dim": 128, "qk_nope_head_dim": 128, "num_experts_per_tok": 8, "first_k_dense_replace": 2,
            "num_local_experts": 512, "head_dim": 128, "short_conv_kernel_size": 4, "layer_group_size": 6,
        },
    ),
}  # fmt: skip
