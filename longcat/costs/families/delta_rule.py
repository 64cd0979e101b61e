"""Families with the delta rule: most layers keep a state that each token corrects, every fourth or so is attention."""

from __future__ import annotations

from longcat.costs.families.blocks import (
    LINEAR_OR_FULL,
    Block,
    attention,
    count_kinds,
    gated_ffn,
    mixture,
    norms,
    stacked,
)
from longcat.costs.families.fields import Family, Fields
from longcat.costs.families.gated import read_experts
from longcat.costs.recurrence import Recurrence
from longcat.costs.workload import Workload
from longcat.errors import ConfigError


def _gated_delta_net(f: Fields, h: int) -> Block:
    """One gated delta net (arXiv 2412.06464): queries, keys and values go through a short convolution."""
    key_heads, value_heads = f.size("linear_num_key_heads"), f.size("linear_num_value_heads")
    key_dim, value_dim = f.size("linear_key_head_dim"), f.size("linear_value_head_dim")
    if value_heads % key_heads:
        raise ConfigError(
            f"{f.source}: linear_num_key_heads {key_heads} does not divide linear_num_value_heads {value_heads}"
        )
    keys, values = key_heads * key_dim, value_heads * value_dim
    return Block(
        {
            # queries, keys, values, output gate; write strength and decay of each head; the way back
            "recurrence_projections": h * (2 * keys + 2 * values + 2 * value_heads) + values * h,
            "convolutions": f.size("linear_conv_kernel_dim") * (2 * keys + values),
        },
        2 * value_heads + value_dim,
        Recurrence(1, value_heads, key_dim, value_dim, products=3),
    )


def _qwen(f: Fields, family: str) -> Workload:
    """Qwen3-Next and Qwen3.5: gated delta nets and gated attention."""
    h, layers = f.size("hidden_size"), f.size("num_hidden_layers")
    kinds = count_kinds(f, "layer_types", layers, LINEAR_OR_FULL)
    full = layers // f.size("full_attention_interval") if kinds is None else kinds["full"]
    experts, sparse, ffn = read_experts(f, h, layers)
    bias = f.flag("attention_bias", False)
    return stacked(
        f,
        family,
        h,
        layers,
        [
            (full, attention(f, h, dim=f.size("head_dim"), gate=True, bias=bias, head_norms=True)),
            (layers - full, _gated_delta_net(f, h)),
            (layers - sparse, gated_ffn(h, ffn)),
            (sparse, mixture(experts)),
            (layers, norms(h)),
        ],
    )


_QWEN = {
    "head_dim": 256, "linear_conv_kernel_dim": 4, "linear_key_head_dim": 128, "linear_value_head_dim": 128,
    "linear_num_key_heads": 16, "linear_num_value_heads": 32, "full_attention_interval": 4,
}  # fmt: skip
_QWEN_EXPERTS = {"moe_intermediate_size": 512, "shared_expert_intermediate_size": 512, "num_key_value_heads": 2}
FAMILIES = {
    "qwen3_next": Family(
        lambda f: _qwen(f, "qwen3_next"),
        ("Qwen3NextForCausalLM",),
        {**_QWEN, **_QWEN_EXPERTS, "intermediate_size": 5632, "num_experts": 512, "num_experts_per_tok": 10},
    ),
    "qwen3_5_text": Family(
        lambda f: _qwen(f, "qwen3_5_text"),
        ("Qwen3_5ForCausalLM",),
        {**_QWEN, "num_key_value_heads": 4, "intermediate_size": 12288},
    ),
    "qwen3_5_moe_text": Family(
        lambda f: _qwen(f, "qwen3_5_moe_text"),
        ("Qwen3_5MoeForCausalLM",),
        {**_QWEN, **_QWEN_EXPERTS, "num_experts": 256, "num_experts_per_tok": 8},
    ),
}
