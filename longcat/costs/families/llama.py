"""Families of the Llama kind: RMS norms, grouped queries, gated feed-forward network or a mixture of them."""

from __future__ import annotations

from longcat.costs.attention import Attention
from longcat.costs.families.fields import Family, Fields
from longcat.costs.families.gated import gated, read_experts, windows
from longcat.costs.workload import Workload


def _llama(
    f: Fields,
    family: str,
    *,
    qkv_bias: bool = False,
    output_bias: bool = False,
    ffn_bias: bool = False,
    head_norms: bool = False,
    windowed: bool = False,
) -> Workload:
    """The Llama kind: RMS norms, grouped queries, gated feed-forward network or a mixture of them."""
    h, layers, heads = f.size("hidden_size"), f.size("num_hidden_layers"), f.size("num_attention_heads")
    kv_heads = f.size("num_key_value_heads", default=heads)
    f.divided(heads, kv_heads, "the heads of queries,", "num_key_value_heads")
    dim = f.size("head_dim") if f.values.get("head_dim") is not None else f.divided(h, heads, "the hidden size")
    norms = 2 * h + 2 * dim * head_norms
    biases = dim * (heads + 2 * kv_heads) * qkv_bias + h * output_bias
    experts, sparse, ffn = read_experts(f, h, layers)
    dense = layers - sparse
    if ffn_bias:
        biases += 2 * ffn + h
    return gated(
        f,
        family,
        hidden=h,
        layers=layers,
        dense=(dense, ffn),
        mixture=(sparse, experts),
        attention_weights=2 * h * dim * (heads + kv_heads),
        mixers=windows(f, family, layers, heads, dim) if windowed else (Attention(layers, heads, dim, dim),),
        norm_and_bias_parameters=layers * (norms + biases) + h,
    ).workload()


def _qwen3(f: Fields, family: str) -> Workload:
    bias, windowed = f.flag("attention_bias", False), f.flag("use_sliding_window", False)
    return _llama(f, family, qkv_bias=bias, output_bias=bias, head_norms=True, windowed=windowed)


_SLIDING = {"sliding_window": 4096, "max_window_layers": 28}
FAMILIES = {
    "llama": Family(
        lambda f: _llama(
            f,
            "llama",
            qkv_bias=f.flag("attention_bias", False),
            output_bias=f.flag("attention_bias", False),
            ffn_bias=f.flag("mlp_bias", False),
        ),
        ("LlamaForCausalLM", "LLaMAForCausalLM"),
    ),
    "mistral": Family(
        lambda f: _llama(f, "mistral", windowed=True),
        ("MistralForCausalLM",),
        {"num_key_value_heads": 8, "sliding_window": 4096},
    ),
    "mixtral": Family(
        lambda f: _llama(f, "mixtral", windowed=True),
        ("MixtralForCausalLM",),
        {"num_key_value_heads": 8, "num_local_experts": 8, "num_experts_per_tok": 2},
    ),
    "qwen2": Family(
        lambda f: _llama(f, "qwen2", qkv_bias=True, windowed=f.flag("use_sliding_window", False)),
        ("Qwen2ForCausalLM",),
        {"num_key_value_heads": 32, **_SLIDING},
    ),
    "qwen2_moe": Family(
        lambda f: _llama(
            f, "qwen2_moe", qkv_bias=f.flag("qkv_bias", True), windowed=f.flag("use_sliding_window", False)
        ),
        ("Qwen2MoeForCausalLM",),
        {
            "num_key_value_heads": 16, "num_experts": 60, "num_experts_per_tok": 4, "moe_intermediate_size": 1408,
            "shared_expert_intermediate_size": 5632, **_SLIDING,
        },
    ),
    "qwen3": Family(
        lambda f: _qwen3(f, "qwen3"), ("Qwen3ForCausalLM",), {"num_key_value_heads": 32, "head_dim": 128, **_SLIDING}
    ),
    "qwen3_moe": Family(
        lambda f: _qwen3(f, "qwen3_moe"),
        ("Qwen3MoeForCausalLM",),
        {
            "num_key_value_heads": 4, "num_experts": 128, "num_experts_per_tok": 8, "moe_intermediate_size": 768,
            **_SLIDING,
        },
    ),
    "qwen3_vl_moe_text": Family(
        lambda f: _llama(
            f,
            "qwen3_vl_moe_text",
            qkv_bias=f.flag("attention_bias", False),
            output_bias=f.flag("attention_bias", False),
            head_norms=True,
        ),
        defaults={
            "num_key_value_heads": 16, "num_experts": 60, "num_experts_per_tok": 4, "moe_intermediate_size": 1408,
            "tie_word_embeddings": True,
        },
    ),
}  # fmt: skip
