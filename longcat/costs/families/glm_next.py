"""GLM-5.3-Flash: Kimi delta attention, latent attention whose keys an index of pools chooses, parallel residual streams."""

from __future__ import annotations

from longcat.costs.attention import Attention, Index
from longcat.costs.families.delta_rule import delta_attention
from longcat.costs.families.fields import Family, Fields, shown
from longcat.costs.families.layers import (
    INDEX,
    Layers,
    decoder,
    feed_forward,
    latent_queries,
    mixture,
    read_mixture,
    sparse_layers,
)
from longcat.costs.families.recurrent import count_kinds, present
from longcat.costs.residual import StreamMixing
from longcat.costs.workload import Workload
from longcat.errors import ConfigError

_KINDS = {
    "linear_attention": "linear", "indexed_attention": "full", "full_attention": "full",
    "deepseek_sparse_attention": "full",
}  # fmt: skip


def _indexers(f: Fields, layers: int) -> list[bool]:
    """Tell of each layer whether it would have an index of its own, rather than the keys of the one before."""
    kinds, pattern = f.each("indexer_types", str, layers), f.values.get("index_topk_pattern")
    if kinds is None and pattern is not None:
        if not isinstance(pattern, str | list) or len(pattern) != layers:
            raise ConfigError(
                f"{f.source}: index_topk_pattern must have an entry for each of {layers} layers: {shown(pattern)}"
            )
        kinds = [*pattern]
    if kinds is not None:
        return [kind in ("full", "F") for kind in kinds]
    frequency, offset = max(1, f.count("index_topk_freq", 1)), f.count("index_skip_topk_offset", 2)
    return [max(layer - offset + 1, 0) % frequency == 0 for layer in range(layers)]


def _attentions(f: Fields, h: int, layers: int) -> Layers:
    """Latent attention that reads at most `index_topk` keys; a query's last, unfinished pool comes on top, uncounted."""
    rope = f.count("qk_rope_head_dim", 0)
    shape = Attention(
        layers,
        f.size("num_attention_heads"),
        f.size("qk_nope_head_dim") + rope,
        f.size("v_head_dim"),
        f.size("index_topk"),
    )
    ranks = {"q_rank": f.size("q_lora_rank"), "kv_rank": f.size("kv_lora_rank")}
    return latent_queries(h, shape, rope=rope, bias=f.flag("attention_bias", False), **ranks)


def _indices(f: Fields, h: int, layers: int) -> Layers:
    """Indices that score one key for each pool of tokens, their sum by learned weights."""
    heads, dim, pool = f.size("index_n_heads"), f.size("index_head_dim"), f.size("index_kpool")
    weights = h * (2 * dim + heads) + f.size("q_lora_rank") * heads * dim
    return Layers({INDEX: layers * weights}, layers * (2 + pool) * dim, mixers=(Index(layers, heads, dim + 1, pool),))


def _glm5_next(f: Fields) -> Workload:
    h, layers = f.size("hidden_size"), f.depth("num_hidden_layers")
    inner = Fields(f.inner("linear_attn_config"), f"{f.source}: linear_attn_config")
    kinds = f.each("layer_types", str, layers) or [
        "full_attention" if layer % 4 == 3 else "linear_attention" for layer in range(layers)
    ]
    counts = count_kinds(Fields({"layer_types": kinds}, f.source), "layer_types", layers, _KINDS) or {}
    own = sum(_KINDS[kind] == "full" and first for kind, first in zip(kinds, _indexers(f, layers), strict=True))
    sparse, width, streams = (
        sparse_layers(f, layers, max(0, layers - 3)),
        f.size("moe_intermediate_size"),
        f.size("hc_mult"),
    )
    experts = read_mixture(f, width, width * f.count("n_shared_experts", 1))

    def linear(number: int) -> Layers:
        dim = inner.size("head_dim", default=f.size("linear_head_dim"))
        heads = inner.size("num_heads", default=f.size("linear_num_heads"))
        kernel = inner.size("short_conv_kernel_size", default=f.size("linear_conv_kernel_dim"))
        return delta_attention(h, number, heads, dim, kernel, forget_rank=dim, gate_rank=dim)

    def connections(number: int) -> Layers:
        outputs = (2 + streams) * streams
        weights = {"hyper_connections": number * outputs * streams * h}
        return Layers(weights, number * (outputs + 3), mixers=(StreamMixing(number, streams, h),))

    parts = present(
        (counts["full"], lambda number: _attentions(f, h, number)),
        (own, lambda number: _indices(f, h, number)),
        (counts["linear"], linear),
        (layers - sparse, lambda number: feed_forward(h, number, f.size("intermediate_size"))),
        (sparse, lambda number: mixture(h, number, experts)),
        (2 * layers, connections),
    )
    return decoder(f, "glm5_next_text", h, layers, parts, experts=experts)


FAMILIES = {
    "glm5_next_text": Family(
        _glm5_next,
        ("Glm5NextForConditionalGeneration",),
        {
            "intermediate_size": 12288, "moe_intermediate_size": 2048, "n_routed_experts": 288, "num_experts_per_tok": 8,
            "kv_lora_rank": 512, "q_lora_rank": 1536, "v_head_dim": 256, "qk_nope_head_dim": 256, "index_topk": 2048,
            "index_head_dim": 128, "index_n_heads": 32, "index_kpool": 16, "linear_head_dim": 128,
            "linear_num_heads": 64, "linear_conv_kernel_dim": 4, "hc_mult": 4,
        },
    ),
}  # fmt: skip
