"""Families whose attention reads chosen or compressed keys only."""

from __future__ import annotations

from longcat.costs.attention import Attention, CompressedAttention, Index
from longcat.costs.families.deepseek import V3, latent, latent_mixture
from longcat.costs.families.fields import Family, Fields, shown
from longcat.costs.families.layers import (
    INDEX,
    Layers,
    after_first,
    decoder,
    index,
    mixture,
    read_mixture,
    sparse_layers,
)
from longcat.costs.families.routed import Kind, entry, listed, width_of
from longcat.costs.residual import StreamMixing
from longcat.costs.workload import Workload
from longcat.errors import ConfigError


def _read_index(f: Fields, hidden: int, layers: int) -> Layers:
    heads, dim = f.size("index_n_heads"), f.size("index_head_dim")
    return index(hidden, layers, q_rank=f.size("q_lora_rank"), heads=heads, dim=dim)


def _indexed(f: Fields, hidden: int, layers: int) -> Layers:
    """Return layers of latent attention in which an index chooses the keys (DeepSeek-V3.2-Exp's report)."""
    return latent(f, hidden, layers, f.size("index_topk")) + _read_index(f, hidden, layers)


def _partly_indexed(f: Fields, hidden: int, layers: int) -> Layers:
    """Return the same layers where some take over the keys of the one before (arXiv 2603.12201)."""
    return latent(f, hidden, layers, f.size("index_topk")) + _read_index(f, hidden, _full_indices(f, layers))


def _full_indices(f: Fields, layers: int) -> int:
    """Return how many layers have an index of their own: as listed, by a pattern of letters, or every n-th."""
    kinds = f.each("indexer_types", str, layers)
    if kinds is not None:
        return kinds.count("full")
    pattern = f.values.get("index_topk_pattern")
    if pattern is not None:
        if not isinstance(pattern, str | list) or len(pattern) != layers:
            raise ConfigError(
                f"{f.source}: index_topk_pattern must have a letter for each of {layers} layers: {shown(pattern)}"
            )
        return sum(one in ("F", "full") for one in pattern)
    first = min(layers, f.count("index_skip_topk_offset", 2))
    return first + (layers - first) // max(1, f.count("index_topk_freq", 1))


def _streams(f: Fields, hidden: int, layers: int, *, outputs: int, scales: int) -> Layers:
    """Return the projections that mix parallel residual streams, of each connection and before the head.

    Args:
        f: its config.json.
        hidden: width of one stream.
        layers: how many; each has two connections.
        outputs: numbers that a connection computes for each token.
        scales: learned scales of a connection.
    """
    streams = f.size("hc_mult")
    return Layers(
        {"hyper_connections": (2 * layers * outputs + streams) * streams * hidden},
        2 * layers * (outputs + scales) + streams + 1,
    )


def _hy_v4(f: Fields) -> Workload:
    """Latent attention with an index in every fourth layer, gated outputs and sinks, over parallel residual streams."""

    def attention(f: Fields, hidden: int, layers: int) -> Layers:
        heads, value = f.size("num_attention_heads"), f.size("v_head_dim")
        kinds = f.each("indexer_types", str, layers)
        indices = min(layers, 1 + -(-(layers - 1) // 4)) if kinds is None else kinds.count("full")
        gates = Layers({"attention_projections": layers * hidden * heads * value}, layers * heads)  # and sinks
        streams = _streams(f, hidden, layers, outputs=2 * f.size("hc_mult"), scales=2)
        return latent(f, hidden, layers, f.size("index_topk")) + _read_index(f, hidden, indices) + gates + streams

    return latent_mixture(f, "hy_v4", attention=attention, first=1, mtp=False)


def _axk2(f: Fields) -> Workload:
    """Queries and output gates from the rank before and behind its norm, and norms with a gate of low rank."""

    def attention(f: Fields, hidden: int, layers: int) -> Layers:
        heads, rank, value = f.size("num_attention_heads"), f.size("q_lora_rank"), f.size("v_head_dim")
        key = f.size("qk_nope_head_dim") + f.size("qk_rope_head_dim")
        gates, gated_norms = layers * rank * heads * (key + 2 * value), layers + after_first(f, layers, 1)
        norm_gates = gated_norms * 2 * hidden * f.size("gated_norm_rank")
        more = Layers({"attention_projections": gates, "norm_gates": norm_gates})
        return _indexed(f, hidden, layers) + more

    return latent_mixture(f, "axk2", attention=attention, first=1, mtp=False)


_DOTS3_WINDOW = {
    "num_attention_heads": 64, "q_lora_rank": 1024, "kv_lora_rank": 1024, "head_dim": 256, "qk_nope_head_dim": 192,
    "v_head_dim": 128,
}  # fmt: skip


def _dots3(f: Fields) -> Workload:
    """Latent attention of two shapes: with an index, and with a window; both gate each head and norm the shared key."""
    h, layers = f.size("hidden_size"), f.size("num_hidden_layers")
    kinds = f.each("layer_types", str, layers)
    used = f.flag("use_sliding_window", True)
    full = kinds.count("sliding_attention") if kinds else layers - min(layers, 2) - max(0, layers - 2) // 4
    sliding = full if kinds or used else 0
    first = kinds.index("sliding_attention") if kinds and sliding else 2
    written = Fields(f.inner("per_layer_config"), f"{f.source}: per_layer_config").inner(str(first))
    names = {name: f"swa_{name}" for name in (*_DOTS3_WINDOW, "qk_rope_head_dim")}
    own = {**_DOTS3_WINDOW, **written, **{name: f.values.get(name) for name in names.values()}}
    window = Fields(own, f.source, names=names)
    if window.find("qk_rope_head_dim")[1] is None:
        own["qk_rope_head_dim"] = window.size("head_dim") - window.size("qk_nope_head_dim")
    as_listed = f.values["use_dsa"] is None if "use_dsa" in f.values else "per_layer_config" in f.values
    indexed = "full_attention" not in (kinds or ()) if as_listed else f.flag("use_dsa", True)
    read = _indexed if indexed else latent
    keys = f.size("sliding_window", "sliding_window_size", default=512)

    def gated(g: Fields, part: Layers, count: int) -> Layers:
        heads, rope = g.size("num_attention_heads"), g.size("qk_rope_head_dim")
        return part + Layers({"attention_projections": count * h * heads}, count * rope)

    def attention(f: Fields, hidden: int, layers: int) -> Layers:
        with_index = gated(f, read(f, hidden, layers - sliding), layers - sliding)
        return with_index + gated(window, latent(window, hidden, sliding, keys), sliding) if sliding else with_index

    shared = ("moe_shared_expert_intermediate_size", "shared_experts_intermediate_size")
    return latent_mixture(f, "dots3_note_text", attention=attention, first=1, shared=shared, mtp=False)


_RATES = {"compressed_sparse_attention": 4, "heavily_compressed_attention": 128}


def _deepseek_v4(f: Fields) -> Workload:
    """Shared keys and values of a window and of compressed entries, over parallel residual streams (V4's class)."""
    h, layers, heads, dim = (
        f.size("hidden_size"), f.size("num_hidden_layers"), f.size("num_attention_heads"), f.size("head_dim")
    )  # fmt: skip
    rank, out_rank, groups = f.size("q_lora_rank"), f.size("o_lora_rank"), f.size("o_groups")
    f.divided(heads * dim, groups, "the width of all heads,", "o_groups")
    streams, width = f.size("hc_mult"), f.size("moe_intermediate_size")
    experts = read_mixture(f, width, width, shared_bias=f.flag("mlp_bias", False))
    queries = h * rank + rank * heads * dim
    outputs = heads * dim * out_rank + groups * out_rank * h
    attention = Layers(
        {"attention_projections": layers * (queries + h * dim + outputs)},
        layers * (rank + dim + heads),
        mixers=(Attention(layers, heads, dim, dim, f.size("sliding_window")),),
    )
    mixed = Layers(mixers=(StreamMixing(2 * layers, streams, h),))
    return decoder(
        f,
        "deepseek_v4",
        h,
        layers,
        [
            attention,
            *(_compressed(f, h, kind, count) for kind, count in _compressing(f, layers).items() if count),
            mixture(h, layers, experts),
            _streams(f, h, layers, outputs=(2 + streams) * streams, scales=3),
            mixed,
        ],
        experts=experts,
    )


def _compressing(f: Fields, layers: int) -> dict[str, int]:
    """Return how many layers compress, by kind; the others have a window only."""
    ratios = f.each("compress_ratios", int)
    if f.values.get("layer_types") is not None:
        return {kind: listed(f, layers, 0, kind) for kind in _RATES}
    if ratios is not None:
        unknown = {*ratios} - {0, *_RATES.values()}
        if unknown or len(ratios) < layers:
            raise ConfigError(
                f"{f.source}: compress_ratios must be 0, 4 or 128 for each of {layers} layers: {shown(ratios)}"
            )
        return {kind: ratios[:layers].count(rate) for kind, rate in _RATES.items()}
    sparse = max(0, layers - 2) // 2
    return dict(zip(_RATES, (sparse, layers - sparse), strict=True))


def _compressed(f: Fields, hidden: int, kind: str, layers: int) -> Layers:
    """Return what layers hold to compress keys and, where they choose among them, to do so.

    The entries of sparse layers overlap, so each is projected twice as wide. No gradient reaches the index.
    """
    heads, dim = f.size("num_attention_heads"), f.size("head_dim")
    rates = Fields(f.inner("compress_rates"), f"{f.source}: compress_rates")
    rate = rates.size(kind, default=_RATES[kind])
    sparse = kind == "compressed_sparse_attention"
    overlap = 1 + sparse
    budget = f.size("index_topk") if sparse else None
    compressor = Layers(
        {"attention_projections": layers * 2 * hidden * overlap * dim},
        layers * (rate * overlap * dim + dim),
        mixers=(CompressedAttention(layers, heads, dim, dim, budget, rate),),
    )
    if not sparse:
        return compressor
    indices, size = f.size("index_n_heads"), f.size("index_head_dim")
    weights = 2 * hidden * overlap * size + f.size("q_lora_rank") * indices * size + hidden * indices
    vectors = rate * overlap * size + size
    return compressor + Layers(
        {INDEX: layers * weights}, layers * vectors, mixers=(Index(layers, indices, size, rate),)
    )


def _minimax_m3(f: Fields) -> Fields:
    """Return the fields with those of `sparse_attention_config` beside the others, and the most keys of a query."""
    inner = f.inner("sparse_attention_config")
    names = {
        "index_n_heads": "sparse_num_index_heads", "index_head_dim": "sparse_index_dim",
        "index_block_size": "sparse_block_size", "index_topk_blocks": "sparse_topk_blocks",
    }  # fmt: skip
    values = {**f.values, **{flat: inner[name] for flat, name in names.items() if name in inner}}
    flat = Fields(values, f.source, f.mtp)
    values["index_keys"] = flat.size("index_block_size", default=128) * flat.size("index_topk_blocks", default=16)
    return flat


def _minimax_m3_sparse(f: Fields, layers: int) -> int:
    frequencies = Fields(f.inner("sparse_attention_config"), f.source).each("sparse_attention_freq", int, layers)
    return listed(f, layers, sum(map(bool, frequencies or [])), "minimax_m3_sparse")


def _minimax_m3_index(f: Fields, layers: int) -> Layers:
    """Return the index of blocks, whose heads score every key; the best of a block stands for it."""
    heads, dim = f.size("index_n_heads", default=4), f.size("index_head_dim", default=128)
    weights = f.size("hidden_size") * (heads + 1) * dim
    return Layers({INDEX: layers * weights}, layers * 2 * dim, mixers=(Index(layers, heads, dim),))


_DSA = {**V3, "index_topk": 2048, "index_head_dim": 128, "index_n_heads": 64}
_GLM = {
    **_DSA, "index_n_heads": 32, "q_lora_rank": 2048, "qk_nope_head_dim": 192, "v_head_dim": 256,
}  # fmt: skip
_M3 = Kind(
    bias=False, query_norms="head", sparse=lambda f, n: sparse_layers(f, n, n), sliding=_minimax_m3_sparse,
    window=("index_keys",), index=_minimax_m3_index, dense_width=("dense_intermediate_size",),
    expert_width=("intermediate_size",), shared=width_of(3072, "shared_intermediate_size"),
)  # fmt: skip
_M3_DEFAULTS = {
    "num_key_value_heads": 4, "head_dim": 128, "num_local_experts": 128, "num_experts_per_tok": 4,
    "dense_intermediate_size": 12288,
}  # fmt: skip
_M3_NAMES = {
    "minimax_m3": ("MiniMaxM3ForCausalLM",), "minimax_m3_vl_text": ("MiniMaxM3VLForCausalLM", "MiniMaxM3SparseForCausalLM"), "minimax_m3_vl": (),
}  # fmt: skip
FAMILIES = {
    "deepseek_v32": Family(
        lambda f: latent_mixture(f, "deepseek_v32", attention=_indexed),
        ("DeepseekV32ForCausalLM",),
        _DSA,
        mtp=True,
    ),
    "glm_moe_dsa": Family(
        lambda f: latent_mixture(f, "glm_moe_dsa", attention=_partly_indexed, depth_attention=_indexed, first=3),
        ("GlmMoeDsaForCausalLM",),
        _GLM,
        mtp=True,
    ),
    "hy_v4": Family(
        _hy_v4,
        ("HYV4ForCausalLM",),
        {
            **V3, "moe_intermediate_size": 768, "first_k_dense_replace": 1, "qk_nope_head_dim": 192, "v_head_dim": 256,
            "index_topk": 2048, "index_head_dim": 128, "index_n_heads": 16, "hc_mult": 4,
        },
    ),
    "axk2": Family(
        _axk2,
        ("AXK2ForCausalLM",),
        {
            "n_routed_experts": 128, "n_shared_experts": 1, "moe_intermediate_size": 512, "num_experts_per_tok": 8,
            "kv_lora_rank": 128, "q_lora_rank": 384, "qk_rope_head_dim": 32, "qk_nope_head_dim": 64, "v_head_dim": 64,
            "index_topk": 2048, "index_head_dim": 128, "index_n_heads": 16, "gated_norm_rank": 16,
        },
    ),
    "dots3_note_text": Family(
        _dots3,
        ("Dots3NoteForCausalLM",),
        {
            **_DSA, "moe_intermediate_size": 1536, "q_lora_rank": 1024, "first_k_dense_replace": 1,
            "shared_experts_intermediate_size": 1536,
        },
    ),
    "deepseek_v4": Family(
        _deepseek_v4,
        ("DeepseekV4ForCausalLM",),
        {
            "head_dim": 512, "q_lora_rank": 1024, "o_lora_rank": 1024, "o_groups": 8, "hc_mult": 4,
            "moe_intermediate_size": 2048, "n_routed_experts": 256, "num_experts_per_tok": 6, "sliding_window": 128,
            "index_n_heads": 64, "index_head_dim": 128, "index_topk": 512,
        },
    ),
    **dict(entry(name, _M3, architectures, _M3_DEFAULTS, _minimax_m3) for name, architectures in _M3_NAMES.items()),
}  # fmt: skip
