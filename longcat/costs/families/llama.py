"""Families of the Llama kind: RMS norms, grouped queries, gated feed-forward network or a mixture of them."""

from __future__ import annotations

from dataclasses import replace

from longcat.costs.families.fields import EXPERTS, Fields
from longcat.costs.families.layers import by_step
from longcat.costs.families.routed import Kind, entry, late_windows, listed, width_of


def _if_any(f: Fields, layers: int) -> int:
    """Return the layers with experts: none if the file has no experts, as most of this type."""
    return by_step(f, layers) if any(f.values.get(name) for name in EXPERTS) else 0


def _all_windows(f: Fields, layers: int) -> int:
    return listed(f, layers, layers)


def _late_if_used(f: Fields, layers: int) -> int:
    return late_windows(f, layers) if f.flag("use_sliding_window", False) else 0


def _all_if_used(f: Fields, layers: int) -> int:
    return _all_windows(f, layers) if f.flag("use_sliding_window", False) else 0


def _every_other_early_if_used(f: Fields, layers: int) -> int:
    early = (min(layers, f.count("max_window_layers", layers)) + 1) // 2
    return listed(f, layers, early) if f.flag("use_sliding_window", False) else 0


_EITHER_WIDTH = ("moe_intermediate_size", "intermediate_size")
_QWEN2 = Kind(bias=True, output_bias=False, sparse=_if_any, expert_width=_EITHER_WIDTH, sliding=_late_if_used)
_QWEN3 = Kind(query_norms="head", sparse=_if_any, expert_width=_EITHER_WIDTH, sliding=_late_if_used)
_SLIDING = {"sliding_window": 4096, "max_window_layers": 28}
FAMILIES = dict(
    (
        entry(
            "llama",
            Kind(ffn_bias="mlp_bias", sparse=_if_any, expert_width=_EITHER_WIDTH),
            ("LlamaForCausalLM", "LLaMAForCausalLM"),
            {},
        ),
        entry(
            "mistral",
            Kind(bias=False, sparse=_if_any, expert_width=_EITHER_WIDTH, sliding=_all_windows),
            ("MistralForCausalLM",),
            {"num_key_value_heads": 8, "sliding_window": 4096},
        ),
        entry(
            "mixtral",
            Kind(bias=False, expert_width=_EITHER_WIDTH, sliding=_all_windows),
            ("MixtralForCausalLM",),
            {"num_key_value_heads": 8, "num_local_experts": 8, "num_experts_per_tok": 2},
        ),
        entry("qwen2", _QWEN2, ("Qwen2ForCausalLM",), {"num_key_value_heads": 32, **_SLIDING}),
        entry(
            "qwen2_moe",
            Kind(
                bias="qkv_bias", bias_default=True, output_bias=False, sparse=by_step, shared_gate=True,
                shared=width_of(0, "shared_expert_intermediate_size"), sliding=_every_other_early_if_used,
            ),
            ("Qwen2MoeForCausalLM",),
            {
                "num_key_value_heads": 16, "num_experts": 60, "num_experts_per_tok": 4, "moe_intermediate_size": 1408,
                "shared_expert_intermediate_size": 5632, **_SLIDING,
            },
        ),
        entry("qwen3", _QWEN3, ("Qwen3ForCausalLM",), {"num_key_value_heads": 32, "head_dim": 128, **_SLIDING}),
        entry(
            "qwen3_moe",
            replace(_QWEN3, sparse=by_step, sliding=_all_if_used),
            ("Qwen3MoeForCausalLM",),
            {
                "num_key_value_heads": 4, "num_experts": 128, "num_experts_per_tok": 8, "moe_intermediate_size": 768,
                **_SLIDING,
            },
        ),
        entry(
            "qwen3_vl_moe_text",
            Kind(query_norms="head", sparse=by_step),
            (),
            {
                "num_key_value_heads": 16, "num_experts": 60, "num_experts_per_tok": 4, "moe_intermediate_size": 1408,
                "tie_word_embeddings": True,
            },
        ),
    )
)  # fmt: skip
