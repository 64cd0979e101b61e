"""Families of latent attention (arXiv 2405.04434, section 2), dense or with shared and routed experts."""

from __future__ import annotations

from collections.abc import Callable

from longcat.costs.attention import Attention
from longcat.costs.families.fields import Family, Fields
from longcat.costs.families.layers import (
    Layers,
    after_first,
    decoder,
    depths_of,
    feed_forward,
    latent_queries,
    mixture,
    read_mixture,
)
from longcat.costs.workload import Workload


def latent(f: Fields, hidden: int, layers: int, keys: int | None = None, gate: int = 0) -> Layers:
    """Return latent attention layers; with `keys`, a query reads at most so many; `gate` columns gate the output."""
    heads, rope = f.size("num_attention_heads"), f.size("qk_rope_head_dim")
    return latent_queries(
        hidden,
        Attention(layers, heads, f.size("qk_nope_head_dim") + rope, f.size("v_head_dim"), keys),
        q_rank=0 if f.find("q_lora_rank")[1] is None else f.count("q_lora_rank", 0),
        kv_rank=f.size("kv_lora_rank"),
        rope=rope,
        bias=f.flag("attention_bias", False),
        gate=gate,
    )


def latent_mixture(
    f: Fields,
    family: str,
    *,
    attention: Callable[[Fields, int, int], Layers] = latent,
    depth_attention: Callable[[Fields, int, int], Layers] | None = None,
    first: int = 0,
    norms: int = 2,
    sparse_norms: int = 0,
    shared: tuple[str, ...] = (),
    mtp: bool = True,
) -> Workload:
    """Return the workload of latent attention with shared and routed experts.

    Args:
        f: its config.json.
        family: model type.
        attention: of how many layers, of which hidden size.
        depth_attention: of multi-token prediction, if another.
        first: dense layers where the file does not say.
        norms: in a layer.
        sparse_norms: more of them in a layer with experts.
        shared: fields of the width of a shared expert, if another than that of a routed one.
        mtp: whether the module of multi-token prediction is that of DeepSeek-V3.
    """
    h, layers, depths = f.size("hidden_size"), f.size("num_hidden_layers"), depths_of(f)
    width = f.size("moe_intermediate_size")
    experts = read_mixture(f, width, f.size(*shared, default=width) * f.count("n_shared_experts", 0))
    sparse = after_first(f, layers, first)
    dense = feed_forward(h, layers - sparse, f.size("intermediate_size")) if sparse < layers else Layers()

    def routed(count: int) -> Layers:
        return mixture(h, count, experts) + Layers(vectors=count * sparse_norms * h)

    return decoder(
        f,
        family,
        h,
        layers,
        [attention(f, h, layers), dense, routed(sparse)],
        experts=experts,
        norms=norms,
        depth=[(depth_attention or attention)(f, h, depths), routed(depths)] if mtp else None,
    )


def _minicpm3(f: Fields) -> Workload:
    """Return the dense kind, whose values share the hidden size where the file does not say."""
    value = f.size("v_head_dim", default=f.size("hidden_size") // f.size("num_attention_heads"))
    return _dense(Fields({**f.values, "v_head_dim": value}, f.source, f.mtp), "minicpm3")


def _dense(f: Fields, family: str) -> Workload:
    h, layers = f.size("hidden_size"), f.size("num_hidden_layers")
    ffn = feed_forward(h, layers, f.size("intermediate_size"), bias=f.flag("mlp_bias", False))
    return decoder(f, family, h, layers, [latent(f, h, layers), ffn])


MLA = {
    "kv_lora_rank": 512, "q_lora_rank": 1536, "qk_rope_head_dim": 64, "qk_nope_head_dim": 128, "v_head_dim": 128,
}  # fmt: skip
V3 = {
    "n_routed_experts": 256, "n_shared_experts": 1, "moe_intermediate_size": 2048, "first_k_dense_replace": 3,
    "num_experts_per_tok": 8, **MLA,
}  # fmt: skip
FAMILIES = {
    "deepseek_v2": Family(
        lambda f: latent_mixture(f, "deepseek_v2"),
        ("DeepseekV2ForCausalLM",),
        {"n_routed_experts": 64, "n_shared_experts": 2, "moe_intermediate_size": 1407, **MLA},
        mtp=True,
    ),
    "deepseek_v3": Family(lambda f: latent_mixture(f, "deepseek_v3"), ("DeepseekV3ForCausalLM",), V3, mtp=True),
    "kimi_k2": Family(lambda f: latent_mixture(f, "kimi_k2"), ("KimiK2ForCausalLM",), V3, mtp=True),
    "glm4_moe_lite": Family(
        lambda f: latent_mixture(f, "glm4_moe_lite", first=1),
        ("Glm4MoeLiteForCausalLM",),
        {
            "n_routed_experts": 64, "n_shared_experts": 1, "moe_intermediate_size": 1536, "num_experts_per_tok": 4,
            "kv_lora_rank": 512, "q_lora_rank": 768, "qk_rope_head_dim": 64, "qk_nope_head_dim": 192,
            "v_head_dim": 256,
        },
        mtp=True,
    ),
    "axk1": Family(
        lambda f: latent_mixture(f, "axk1", first=1, sparse_norms=1, mtp=False),
        ("AXK1ForCausalLM",),
        {**V3, "n_routed_experts": 192, "first_k_dense_replace": 1},
    ),
    "mistral4": Family(
        lambda f: latent_mixture(f, "mistral4", mtp=False),
        ("Mistral4ForCausalLM",),
        {
            "n_routed_experts": 128, "n_shared_experts": 1, "moe_intermediate_size": 2048, "num_experts_per_tok": 4,
            "kv_lora_rank": 256, "q_lora_rank": 1024, "qk_rope_head_dim": 64, "qk_nope_head_dim": 64,
            "v_head_dim": 128,
        },
    ),
    "minicpm3": Family(
        _minicpm3,
        ("MiniCPM3ForCausalLM",),
        {"kv_lora_rank": 256, "q_lora_rank": 768, "qk_rope_head_dim": 32, "qk_nope_head_dim": 64,
         "tie_word_embeddings": True},
    ),
    "youtu": Family(lambda f: _dense(f, "youtu"), ("YoutuForCausalLM",), {**MLA, "tie_word_embeddings": True}),
}  # fmt: skip
