"""Liquid's families: most layers are a gated short convolution, the others attention."""

from __future__ import annotations

from longcat.costs.families.fields import Family, Fields, shown
from longcat.costs.families.layers import Layers, decoder, feed_forward, mixture, read_mixture
from longcat.costs.families.recurrent import count_kinds, present, softmax
from longcat.costs.workload import Workload
from longcat.errors import ConfigError

_KINDS = {"conv": "conv", "full_attention": "full", "attention": "full", "sliding_attention": "sliding"}


def _convolutions(f: Fields, h: int, layers: int) -> Layers:
    """Gated short convolutions: two gates and the values in, one product with a kernel per channel, one matrix out."""
    weights = {"convolution_projections": layers * 4 * h * h, "convolutions": layers * f.size("conv_L_cache") * h}
    return Layers(weights, layers * 5 * h * f.flag("conv_bias", False))


def _attention(f: Fields, h: int, layers: int, window: int | None = None) -> Layers:
    """Attention with normalized heads, and a gate for each head's output where the file says so."""
    gate = layers * f.size("num_attention_heads") * h * f.flag("use_attention_gate", False)
    bias = f.flag("attention_bias", False)
    grouped = softmax(f, h, layers, norms="head", bias=bias, window=window)
    return grouped + Layers({"attention_projections": gate} if gate else {})


def _adjusted_width(f: Fields) -> int:
    """Return the width of LFM2's feed-forward networks: two thirds of the field's, times a factor, rounded up."""
    width = f.size("intermediate_size")
    if not f.flag("block_auto_adjust_ff_dim", False):
        return width
    width, factor = int(2 * width / 3), f.values.get("block_ffn_dim_multiplier")
    if factor is None:
        return width
    if isinstance(factor, bool) or not isinstance(factor, int | float) or not 0 < factor < 10**6:
        raise ConfigError(f"{f.source}: block_ffn_dim_multiplier must be a number above 0, found {shown(factor)}")
    multiple = f.size("block_multiple_of")
    return multiple * -(-int(factor * width) // multiple)


def _lfm2(f: Fields) -> Workload:
    """LFM2 (arXiv 2511.23404)."""
    h, layers, ffn = f.size("hidden_size"), f.size("num_hidden_layers"), _adjusted_width(f)
    kinds = count_kinds(f, "layer_types", layers, _KINDS)
    if kinds is None:
        listed = f.each("full_attn_idxs", int)
        full = layers if listed is None else len({index for index in listed if 0 <= index < layers})
    else:
        full = layers - kinds["conv"]
    parts = present(
        (full, lambda number: _attention(f, h, number)),
        (layers - full, lambda number: _convolutions(f, h, number)),
        (layers, lambda number: feed_forward(h, number, ffn)),
    )
    return decoder(f, "lfm2", h, layers, parts)


def _lfm2_moe(f: Fields) -> Workload:
    """LFM2 with experts behind the first layers."""
    h, layers = f.size("hidden_size"), f.size("num_hidden_layers")
    kinds = count_kinds(f, "layer_types", layers, _KINDS)
    if kinds is None:
        raise ConfigError(f"{f.source}: no layer_types")
    experts = read_mixture(f, f.size("moe_intermediate_size"))
    dense = min(layers, f.count("num_dense_layers", 0))
    parts = present(
        (layers - kinds["conv"], lambda number: _attention(f, h, number)),
        (kinds["conv"], lambda number: _convolutions(f, h, number)),
        (dense, lambda number: feed_forward(h, number, f.size("intermediate_size"))),
        (layers - dense, lambda number: mixture(h, number, experts)),
    )
    return decoder(f, "lfm2_moe", h, layers, parts, experts=experts)


def _lfm3(f: Fields) -> Workload:
    """LFM3: also attention within a window; gates, norms on both sides of a layer."""
    h, layers = f.size("hidden_size"), f.size("num_hidden_layers")
    kinds = count_kinds(f, "layer_types", layers, _KINDS)
    if kinds is None:
        full, sliding = len(range(2, layers, 4)), len(range(4, layers, 4))
    else:
        full, sliding = kinds["full"], kinds["sliding"]
    window = f.count("sliding_window", 0) or None
    parts = present(
        (full, lambda number: _attention(f, h, number)),
        (sliding, lambda number: _attention(f, h, number, window)),
        (layers - full - sliding, lambda number: _convolutions(f, h, number)),
        (layers, lambda number: feed_forward(h, number, f.size("intermediate_size"))),
    )
    return decoder(f, "lfm3", h, layers, parts, norms=4 if f.flag("use_sandwich_norm", False) else 2)


_SHARED = {"num_key_value_heads": 8, "conv_L_cache": 3, "tie_word_embeddings": True}
FAMILIES = {
    "lfm2": Family(
        _lfm2,
        ("Lfm2ForCausalLM",),
        {
            **_SHARED, "intermediate_size": 12288, "block_auto_adjust_ff_dim": True, "block_ffn_dim_multiplier": 1,
            "block_multiple_of": 256,
        },
        {"intermediate_size": "block_ff_dim", "tie_word_embeddings": "tie_embedding"},
    ),
    "lfm2_moe": Family(
        _lfm2_moe,
        ("Lfm2MoeForCausalLM",),
        {
            **_SHARED, "intermediate_size": 7168, "moe_intermediate_size": 1792, "num_dense_layers": 2,
            "num_experts_per_tok": 4, "num_experts": 32,
        },
        {"tie_word_embeddings": "tie_embedding"},
    ),
    "lfm3": Family(
        _lfm3,
        ("Lfm3ForCausalLM",),
        {
            **_SHARED, "num_key_value_heads": 4, "conv_L_cache": 7, "intermediate_size": 7680, "head_dim": 128,
            "sliding_window": 256, "use_sandwich_norm": True, "use_attention_gate": True,
        },
    ),
}  # fmt: skip
