"""Families with lightning attention: linear attention whose state decays at a fixed rate (arXiv 2405.17381)."""

from __future__ import annotations

from longcat.costs.families.deepseek import latent
from longcat.costs.families.delta_rule import delta_attention
from longcat.costs.families.fields import Family, Fields
from longcat.costs.families.layers import Layers, after_first, decoder, feed_forward, mixture, read_mixture
from longcat.costs.families.recurrent import LINEAR_OR_FULL, count_kinds, present, recurrent, softmax
from longcat.costs.recurrence import Recurrence
from longcat.costs.workload import Workload
from longcat.errors import ConfigError


def _lightning(f: Fields, h: int, layers: int, dim: int, *, head_norms: bool = False) -> Layers:
    """Lightning attentions with an output gate and a norm over all their heads."""
    heads = f.size("num_attention_heads")
    width = heads * dim
    return recurrent(
        Recurrence(layers, heads, dim, dim, products=2),
        projections=5 * h * width,
        vectors=width + 2 * dim * head_norms,
    )


def _minimax(f: Fields) -> Workload:
    """MiniMax-Text-01 and M1 (arXiv 2501.08313): a softmax attention every eighth layer, experts in all of them."""
    h, layers = f.size("hidden_size"), f.size("num_hidden_layers")
    if (listed := f.each("attn_type_list", int, layers)) is not None:  # of the models' own code
        if any(kind not in (0, 1) for kind in listed):
            raise ConfigError(f"{f.source}: attn_type_list must hold 0, lightning, or 1, softmax, found {listed}")
        full = sum(listed)
    else:
        kinds = count_kinds(f, "layer_types", layers, LINEAR_OR_FULL)
        full = (layers + 1) // 2 if kinds is None else kinds["full"]
    dim = f.size("head_dim", default=0) or f.divided(h, f.size("num_attention_heads"), "the hidden size")
    experts = read_mixture(f, f.size("intermediate_size"), f.count("shared_intermediate_size", 0), shared_gate=True)
    return decoder(
        f,
        "minimax",
        h,
        layers,
        present(
            (full, lambda number: softmax(f, h, number, window=f.count("sliding_window", 0) or None)),
            (layers - full, lambda number: _lightning(f, h, number, dim)),
            (layers, lambda number: mixture(h, number, experts)),
        ),
        experts=experts,
    )


def _older_bailing(f: Fields) -> bool:
    """Tell whether a file of this type is of Ling or Ring 2.5, with lightning attention."""
    named = "BailingMoeV2_5ForCausalLM" in (f.each("architectures", str) or [])
    return named or ("group_norm_size" in f.values and "kda_safe_gate" not in f.values)


def _bailing(f: Fields, family: str) -> Workload:
    """Ling and Ring with linear attention.

    2.0 (arXiv 2510.19338) and 2.5 have lightning attention between grouped or latent queries, 3.0 the delta rule per
    channel between gated latent ones.
    """
    h, layers, heads = f.size("hidden_size"), f.size("num_hidden_layers"), f.size("num_attention_heads")
    kinds = count_kinds(f, "layer_types", layers, LINEAR_OR_FULL)
    group, width = f.size("layer_group_size"), f.size("moe_intermediate_size")
    grouped = family == "bailing_moe_linear"
    lightning = grouped or _older_bailing(f)
    normed = f.flag("use_qk_norm", True)
    rest = layers % group if lightning else 0  # layers behind the last whole group are attention
    full = layers // group + rest if kinds is None else kinds["full"]
    sparse = after_first(f, layers)
    experts = read_mixture(f, width, width * f.count("n_shared_experts", 1))

    def attention(number: int) -> Layers:
        if grouped:
            return softmax(f, h, number, norms="head" if normed else "none")
        return latent(f, h, number, gate=0 if lightning else heads)

    def linear(number: int) -> Layers:
        dim = f.size("linear_head_dim", "head_dim", default=h // heads)
        if lightning:
            return _lightning(f, h, number, dim, head_norms=normed)
        kernel = f.size("short_conv_kernel_size")
        return delta_attention(h, number, heads, dim, kernel, forget_rank=None, gate_rank=None)

    return decoder(
        f,
        family,
        h,
        layers,
        present(
            (full, attention),
            (layers - full, linear),
            (layers - sparse, lambda number: feed_forward(h, number, f.size("intermediate_size"))),
            (sparse, lambda number: mixture(h, number, experts)),
        ),
        experts=experts,
        ties=grouped,
    )


_BAILING_NAMES = {"num_experts_per_tok": "num_experts_per_token", "n_shared_experts": "num_shared_experts"}
FAMILIES = {
    "minimax": Family(
        _minimax,
        ("MiniMaxForCausalLM", "MiniMaxText01ForCausalLM", "MiniMaxM1ForCausalLM"),
        {"num_key_value_heads": 8, "num_local_experts": 8, "num_experts_per_tok": 2, "intermediate_size": 14336},
    ),
    "bailing_moe_linear": Family(
        lambda f: _bailing(f, "bailing_moe_linear"),
        ("BailingMoeLinearForCausalLM", "BailingMoeLinearV2ForCausalLM"),
        names=_BAILING_NAMES,
    ),
    "bailing_hybrid": Family(
        lambda f: _bailing(f, "bailing_hybrid"),
        ("BailingHybridForCausalLM", "BailingMoeV2_5ForCausalLM", "BailingMoeV3ForCausalLM"),
        {
            "intermediate_size": 6144, "moe_intermediate_size": 768, "kv_lora_rank": 512, "qk_rope_head_dim": 64,
            "v_head_dim": 128, "qk_nope_head_dim": 128, "num_experts_per_tok": 8, "first_k_dense_replace": 2,
            "num_local_experts": 512, "head_dim": 128, "short_conv_kernel_size": 4, "layer_group_size": 6,
        },
        _BAILING_NAMES,
    ),
}  # fmt: skip
