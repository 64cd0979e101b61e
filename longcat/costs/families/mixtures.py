"""Families of grouped queries with routed experts: an entry for each, with what sets it apart."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from longcat.costs.attention import Attention, ChunkedAttention
from longcat.costs.families.fields import Family, Fields, shown
from longcat.costs.families.layers import (
    Layers,
    decoder,
    depths_of,
    every_other_than,
    mixture,
    read_mixture,
    sparse_layers,
)
from longcat.costs.families.routed import (
    Heads,
    Kind,
    entry,
    first_dense,
    in_periods,
    late_windows,
    listed,
    times,
    width_of,
)
from longcat.costs.workload import Workload
from longcat.errors import ConfigError


def _cohere_sliding(f: Fields, layers: int) -> int:
    """Return the layers with a window, counted from the first one with experts, and the dense ones by themselves."""
    dense = min(layers, f.count("first_k_dense_replace", 0))
    before = every_other_than(dense, f.size("prefix_dense_sliding_window_pattern", default=1))
    behind = every_other_than(layers - dense, f.size("sliding_window_pattern", default=4))
    return listed(f, layers, before + behind)


def _gate_by_field(f: Fields, heads: Heads, dim: int) -> int:
    per_head = f.values.get("gating", True) in (True, "per-head")
    return heads.queries if per_head else heads.queries * dim


def _ernie_sparse(f: Fields, layers: int) -> int:
    """Return the layers of the interval, from the first to the last that may have experts."""
    step, end = f.size("moe_layer_interval", default=1), f.values.get("moe_layer_end_index")
    last = layers - 1 if end in (None, -1) else min(layers - 1, f.count("moe_layer_end_index", 0))
    start = f.count("moe_layer_start_index", 1)
    return max(0, (last + 1) // step - start // step)


def _llama4_sparse(f: Fields, layers: int) -> int:
    numbers = f.each("moe_layers", int)
    if numbers is not None:
        return sum(0 <= one < layers for one in set(numbers))
    return layers // f.size("interleave_moe_layer_step", default=1)


def _llama4_chunked(f: Fields, layers: int) -> int:
    if f.values.get("layer_types") is not None:
        return listed(f, layers, 0, "chunked_attention")
    rotated = f.each("no_rope_layers", int)
    if rotated:
        return sum(map(bool, rotated[:layers]))
    return every_other_than(layers, f.size("no_rope_layer_interval", default=4))


def _mimo_sliding(f: Fields, layers: int) -> int:
    """Return the layers with a window; the first and every sixth have none."""
    pattern = f.each("hybrid_layer_pattern", int, layers)
    return listed(f, layers, sum(pattern) if pattern else layers - layers // 6 - 1)


def _mimo_heads(f: Fields, heads: Heads) -> Heads:
    return heads._replace(keys=f.size("swa_num_key_value_heads", default=2 * heads.keys))


def _step_lists(f: Fields) -> Fields:
    """Return the fields with lists of layers cut before those of multi-token prediction, and its own names."""
    layers, values = f.size("num_hidden_layers"), dict(f.values)
    for name in ("layer_types", "mlp_layer_types"):
        kinds = f.each(name, str)
        if kinds is not None and len(kinds) == layers + depths_of(f):
            values[name] = kinds[:layers]
    return Fields(values, f.source, f.mtp, f.names)


def step_sparse(f: Fields, layers: int) -> int:
    """Return the layers with experts: those that `moe_layers_enum` names, else all behind the first three."""
    named = f.values.get("moe_layers_enum")
    if named is None:
        return first_dense(3)(f, layers)
    numbers = named.split(",") if isinstance(named, str) else named
    if not isinstance(numbers, list) or not all(str(one).strip().isdigit() for one in numbers):
        raise ConfigError(f"{f.source}: moe_layers_enum must be numbers of layers, found {shown(named)}")
    return sparse_layers(f, layers, sum(int(one) < layers for one in {str(one).strip() for one in numbers}))


def _step_heads(f: Fields, heads: Heads) -> Heads:
    other = Fields(f.inner("attention_other_setting"), f"{f.source}: attention_other_setting")
    queries = f.size("num_sliding_attention_heads", default=other.size("num_attention_heads", default=heads.queries))
    return heads._replace(queries=queries)


def _dbrx(f: Fields) -> Fields:
    """Return the fields under the usual names."""
    attention = Fields(f.inner("attn_config"), f"{f.source}: attn_config")
    ffn = Fields(f.inner("ffn_config"), f"{f.source}: ffn_config")
    usual = {
        "hidden_size": f.size("d_model", "hidden_size"),
        "num_hidden_layers": f.size("n_layers", "num_hidden_layers"),
        "num_attention_heads": f.size("n_heads", "num_attention_heads"),
        "num_key_value_heads": attention.size("kv_n_heads", default=1),
        "moe_intermediate_size": ffn.size("ffn_hidden_size", default=3584),
        "num_experts": ffn.size("moe_num_experts", default=4),
        "num_experts_per_tok": ffn.size("moe_top_k", default=1),
    }
    return Fields({**f.values, **usual}, f.source, f.mtp)


def _jetmoe(f: Fields) -> Workload:
    """Count routed experts in attention, too: each has a head's query and output, all read the same keys and values."""
    h, layers = f.size("hidden_size"), f.size("num_hidden_layers")
    experts = read_mixture(f, f.size("intermediate_size"))
    heads, dim = f.size("num_key_value_heads"), f.size("kv_channels", "head_dim")
    outputs = 2 * h * heads * dim
    attention = Layers(
        {
            "attention_projections": layers * 2 * h * heads * dim,
            "router": layers * h * experts.number,
            "routed_experts": layers * experts.chosen * outputs,
        },
        layers * 2 * h,
        layers * (experts.number - experts.chosen) * outputs,
        (Attention(layers, heads * experts.chosen, dim, dim),),
    )
    return decoder(f, "jetmoe", h, layers, [attention, mixture(h, layers, experts)], experts=experts)


def _same_in_all(*names: str) -> Callable[[Fields], Fields]:
    """Return the fields with these as one number where they are lists of the same number for each layer."""

    def prepare(f: Fields) -> Fields:
        values = dict(f.values)
        for name in names:
            if isinstance(values.get(name), list):
                if len(set(map(shown, values[name]))) != 1:
                    raise ConfigError(
                        f"{f.source}: {name} differs between layers, which is not counted: {shown(values[name])}"
                    )
                values[name] = values[name][0]
        return Fields(values, f.source, f.mtp, f.names)

    return prepare


_GRANITE = Kind(expert_width=("intermediate_size",), shared=width_of(0, "shared_intermediate_size"))
_STEP = Kind(
    query_norms="head", gate=_gate_by_field, sparse=step_sparse, sliding=lambda f, n: listed(f, n, 0),
    sliding_heads=_step_heads, shared=width_of(1280, "share_expert_dim", "share_expert_dims"), ffn_bias="mlp_bias",
    expert_number=("moe_num_experts",),
)  # fmt: skip
_STEP_DEFAULTS = {
    "num_key_value_heads": 8, "head_dim": 128, "n_routed_experts": 288, "num_experts_per_tok": 8,
    "moe_intermediate_size": 1280,
}  # fmt: skip
FAMILIES = {
    "jetmoe": Family(
        _jetmoe,
        ("JetMoeForCausalLM",),
        {
            "num_key_value_heads": 16, "kv_channels": 128, "num_local_experts": 8, "num_experts_per_tok": 2,
            "tie_word_embeddings": True,
        },
    ),
} | dict(
    (
        entry("dbrx", Kind(bias=False), ("DbrxForCausalLM",), {}, _dbrx),
        entry(
            "gpt_oss",
            Kind(
                bias_default=True, sinks="all", expert_width=("intermediate_size",), expert_bias=True,
                sliding=lambda f, n: listed(f, n, (n + 1) // 2),
            ),
            ("GptOssForCausalLM",),
            {
                "num_key_value_heads": 8, "head_dim": 64, "num_local_experts": 128, "num_experts_per_tok": 4,
                "sliding_window": 128,
            },
        ),
        entry(
            "minimax_m2",
            Kind(bias=False, query_norms="whole", expert_width=("intermediate_size",)),
            ("MiniMaxM2ForCausalLM",),
            {"num_key_value_heads": 8, "head_dim": 128, "num_local_experts": 256, "num_experts_per_tok": 8},
        ),
        entry(
            "glm4_moe",
            Kind(
                output_bias=False, query_norms="head", query_norms_if="use_qk_norm",
                sparse=first_dense(1), shared=times("n_shared_experts", 1), mtp="routed",
            ),
            ("Glm4MoeForCausalLM",),
            {
                "num_key_value_heads": 8, "n_routed_experts": 128, "num_experts_per_tok": 8,
                "moe_intermediate_size": 1408,
            },
        ),
        entry(
            "mimo_v2_flash",
            Kind(
                output_bias=False, value_dim="v_head_dim", sinks="sliding", sliding=_mimo_sliding,
                sliding_heads=_mimo_heads, sparse=first_dense(1), window=("sliding_window", "sliding_window_size"),
            ),
            ("MiMoV2FlashForCausalLM",),
            {
                "num_key_value_heads": 4, "head_dim": 192, "v_head_dim": 128, "n_routed_experts": 256,
                "num_experts_per_tok": 8, "moe_intermediate_size": 2048, "sliding_window": 129,
            },
        ),
        entry("step3p5", _STEP, ("Step3p5ForCausalLM",), _STEP_DEFAULTS, _step_lists),
        entry("step3p7", _STEP, ("Step3p7FlashForCausalLM",), _STEP_DEFAULTS, _step_lists),
        entry(
            "llama4_text",
            Kind(
                sparse=_llama4_sparse, sliding=_llama4_chunked, window=("attention_chunk_size",),
                attention=ChunkedAttention, dense_width=("intermediate_size_mlp",),
                expert_width=("intermediate_size",), shared=lambda f, width: width,
            ),
            ("Llama4ForCausalLM",),
            {
                "num_key_value_heads": 8, "head_dim": 128, "intermediate_size_mlp": 16384, "num_local_experts": 16,
                "num_experts_per_tok": 1, "attention_chunk_size": 8192,
            },
        ),
        entry(
            "ernie4_5_moe",
            Kind(
                bias="use_bias", ffn_bias="use_bias", head_bias="use_bias", correction=True, sparse=_ernie_sparse,
                shared=times("moe_num_shared_experts", 2), mtp="dense", mtp_norms=2,
            ),
            ("Ernie4_5_MoeForCausalLM", "Ernie4_5_MoEForCausalLM"),
            {
                "num_key_value_heads": 4, "moe_num_experts": 64, "num_experts_per_tok": 6,
                "moe_intermediate_size": 1536, "tie_word_embeddings": True,
            },
        ),
        entry(
            "hunyuan_v1_moe",
            Kind(
                query_norms="head", expert_width=("intermediate_size",),
                shared=times("num_shared_expert", 1),
            ),
            ("HunYuanMoEV1ForCausalLM",),
            {"num_experts": 1, "num_experts_per_tok": 1},
            _same_in_all("num_experts", "moe_topk", "num_shared_expert"),
        ),
        entry(
            "hy_v3",
            Kind(
                query_norms="head", sparse=first_dense(1), shared=times("num_shared_experts", 1),
                ffn_bias="mlp_bias",
            ),
            ("HYV3ForCausalLM",),
            {
                "num_key_value_heads": 8, "head_dim": 128, "num_experts": 192, "num_experts_per_tok": 8,
                "moe_intermediate_size": 1536,
            },
        ),
        entry(
            "dots1",
            Kind(
                query_norms="head", sliding=late_windows, sparse=first_dense(0),
                shared=times("n_shared_experts", 0),
            ),
            ("Dots1ForCausalLM",),
            {"num_key_value_heads": 32, "moe_intermediate_size": 1408, "sliding_window": 4096, "max_window_layers": 62},
        ),
        entry(
            "olmoe",
            Kind(query_norms="whole", expert_width=("intermediate_size",)),
            ("OlmoeForCausalLM",),
            {"num_experts": 64, "num_experts_per_tok": 8},
        ),
        entry(
            "flex_olmo",
            Kind(query_norms="whole", expert_width=("intermediate_size",)),
            ("FlexOlmoForCausalLM",),
            {"num_experts": 7, "num_experts_per_tok": 5},
        ),
        entry(
            "phimoe",
            Kind(
                norms=4, final_norms=2, head_bias="lm_head_bias", expert_width=("intermediate_size",),
                sliding=lambda f, n: n,
            ),
            ("PhimoeForCausalLM", "PhiMoEForCausalLM"),
            {"num_key_value_heads": 8, "num_local_experts": 16, "num_experts_per_tok": 2},
        ),
        entry("granitemoe", _GRANITE, ("GraniteMoeForCausalLM",), {"num_local_experts": 8, "num_experts_per_tok": 2}),
        entry(
            "granitemoeshared",
            _GRANITE,
            ("GraniteMoeSharedForCausalLM",),
            {"num_local_experts": 8, "num_experts_per_tok": 2},
        ),
        entry(
            "granitemoe_swa",
            replace(_GRANITE, sinks="all", sliding=lambda f, n: listed(f, n, n - -(-n // 4))),
            ("GraniteMoeSWAForCausalLM",),
            {"num_local_experts": 8, "num_experts_per_tok": 2, "sliding_window": 128},
        ),
        entry(
            "cohere2_moe",
            Kind(
                norms=1, expert_width=("intermediate_size",), sparse=first_dense(0), sliding=_cohere_sliding,
                dense_width=("prefix_dense_intermediate_size", "intermediate_size"),
                shared=times("num_shared_experts", 0),
            ),
            ("Cohere2MoeForCausalLM",),
            {
                "head_dim": 128, "num_experts": 8, "num_experts_per_tok": 2, "sliding_window": 4096,
                "tie_word_embeddings": True,
            },
        ),
        entry(
            "afmoe",
            Kind(
                norms=4, query_norms="head", gate=lambda f, heads, dim: heads.queries * dim, correction=True,
                sliding=in_periods("global_attn_every_n_layers", 4), sparse=first_dense(1, "num_dense_layers"),
                shared=times("num_shared_experts", 2),
            ),
            ("AfmoeForCausalLM",),
            {
                "head_dim": 128, "num_experts": 64, "num_experts_per_tok": 6, "moe_intermediate_size": 1408,
                "sliding_window": 1024,
            },
        ),
        entry(
            "exaone_moe",
            Kind(
                bias=False, query_norms="head", sparse=first_dense(1), shared=times("num_shared_experts", 1),
                sliding=in_periods("sliding_window_pattern", 4),
            ),
            ("ExaoneMoeForCausalLM", "ExaoneMoEForCausalLM"),
            {
                "num_key_value_heads": 32, "num_experts": 64, "num_experts_per_tok": 8, "moe_intermediate_size": 1024,
                "sliding_window": 4096,
            },
        ),
        entry(
            "solar_open",
            Kind(output_bias=False, shared=times("n_shared_experts", 1)),
            ("SolarOpenForCausalLM",),
            {
                "num_key_value_heads": 8, "head_dim": 128, "n_routed_experts": 128, "num_experts_per_tok": 8,
                "moe_intermediate_size": 1280,
            },
        ),
        entry(
            "mellum",
            Kind(query_norms="head", sliding=lambda f, n: listed(f, n, 0), sparse=lambda f, n: sparse_layers(f, n, n)),
            ("MellumForCausalLM",),
            {
                "num_key_value_heads": 4, "head_dim": 128, "num_experts": 64, "num_experts_per_tok": 8,
                "moe_intermediate_size": 896, "sliding_window": 1024,
            },
        ),
        entry(
            "laguna",
            Kind(
                query_norms="head", gate=_gate_by_field, correction=True,
                sliding=lambda f, n: listed(f, n, 0), per_layer="num_attention_heads_per_layer", sparse=first_dense(1),
                shared=width_of(512, "shared_expert_intermediate_size"),
            ),
            ("LagunaForCausalLM",),
            {
                "num_key_value_heads": 8, "head_dim": 128, "num_experts": 256, "num_experts_per_tok": 8,
                "moe_intermediate_size": 512, "sliding_window": 512,
            },
        ),
    )
)  # fmt: skip
