"""Families whose recurrence is elementwise, so that it costs its matrices only: RecurrentGemma and RWKV-4."""

from __future__ import annotations

from longcat.costs.attention import Attention
from longcat.costs.families.fields import Family, Fields
from longcat.costs.families.layers import Layers, decoder, feed_forward, grouped_queries
from longcat.costs.families.recurrent import check_groups, present
from longcat.costs.workload import Workload
from longcat.errors import ConfigError


def _recurrences(f: Fields, h: int, layers: int) -> Layers:
    """Real-gated recurrences, whose gates are block-diagonal matrices."""
    heads, width = f.size("num_attention_heads"), f.size("lru_width", default=h)
    block = f.divided(width, heads, "lru_width")
    weights = {
        "recurrence_projections": layers * (3 * h * width + 2 * heads * block * block),
        "convolutions": layers * f.size("conv1d_width") * width,
    }
    return Layers(weights, layers * (2 * width + h + width + 2 * width + width))


def _attentions(f: Fields, h: int, layers: int) -> Layers:
    heads = f.size("num_attention_heads")
    kv_heads = f.size("num_key_value_heads", default=heads)
    check_groups(f, "num_key_value_heads", kv_heads, "num_attention_heads", heads)
    dim = f.divided(h, heads, "the hidden size")
    shape = Attention(layers, heads, dim, dim, f.size("attention_window_size"))
    return grouped_queries(h, shape, kv_heads, qkv_bias=f.flag("attention_bias", False), output_bias=True)


def _recurrent_gemma(f: Fields) -> Workload:
    """RecurrentGemma (arXiv 2402.19427): two layers with a recurrence, then one of attention within a window."""
    h, layers = f.size("hidden_size"), f.depth("num_hidden_layers")
    pattern = f.each("block_types", str) or ["recurrent", "recurrent", "attention"]
    if set(pattern) - {"recurrent", "attention"}:
        raise ConfigError(f"{f.source}: block_types must be recurrent and attention, found {pattern}")
    full = sum(pattern[layer % len(pattern)] == "attention" for layer in range(layers))
    ffn = f.size("intermediate_size") // 2
    parts = present(
        (full, lambda number: _attentions(f, h, number)),
        (layers - full, lambda number: _recurrences(f, h, number)),
        (layers, lambda number: feed_forward(h, number, ffn, bias=True)),
    )
    return decoder(f, "recurrent_gemma", h, layers, parts)


def _rwkv(f: Fields) -> Workload:
    """RWKV-4 (arXiv 2305.13048): every layer mixes each channel over time and, in its network, with the token before."""
    h, layers = f.size("hidden_size"), f.size("num_hidden_layers")
    width, ffn = f.size("attention_hidden_size", default=h), f.size("intermediate_size", default=4 * h)
    weights = {
        "recurrence_projections": layers * 4 * h * width,
        "dense_ffn": layers * (2 * h * ffn + h * h),  # and its gate
    }
    vectors = layers * (2 * width + 5 * h) + 2 * h  # decay and bonus, mixes; the norm of the embedding
    return decoder(f, "rwkv", h, layers, [Layers(weights, vectors)], norms=4, final_norms=2)


FAMILIES = {
    "rwkv": Family(_rwkv, ("RwkvForCausalLM",)),
    "recurrent_gemma": Family(
        _recurrent_gemma,
        ("RecurrentGemmaForCausalLM",),
        {
            "intermediate_size": 7680, "attention_window_size": 2048, "conv1d_width": 4, "tie_word_embeddings": True,
        },
    ),
}  # fmt: skip
