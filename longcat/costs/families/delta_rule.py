"""Families with the delta rule: most layers keep a state that each token corrects, every fourth or so is attention."""

from __future__ import annotations

from longcat.costs.families.blocks import (
    LINEAR_OR_FULL,
    Block,
    attention,
    check_groups,
    count_kinds,
    gated_ffn,
    latent_attention,
    mixture,
    norms,
    stacked,
)
from longcat.costs.families.fields import Family, Fields
from longcat.costs.families.gated import Experts, read_experts
from longcat.costs.recurrence import Recurrence
from longcat.costs.workload import Workload
from longcat.errors import ConfigError


def _gated_delta_net(f: Fields, h: int) -> Block:
    """One gated delta net (arXiv 2412.06464): queries, keys and values go through a short convolution."""
    key_heads, value_heads = f.size("linear_num_key_heads"), f.size("linear_num_value_heads")
    key_dim, value_dim = f.size("linear_key_head_dim"), f.size("linear_value_head_dim")
    check_groups(f, "linear_num_key_heads", key_heads, "linear_num_value_heads", value_heads)
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


def delta_attention(
    h: int, heads: int, dim: int, kernel: int, *, forget_rank: int | None, gate_rank: int | None
) -> Block:
    """Return one Kimi delta attention (arXiv 2510.26692), whose state decays per channel.

    Args:
        h: width of the model.
        heads: of queries, keys and values alike.
        dim: of each.
        kernel: of the short convolutions.
        forget_rank: of the projection of the decay; a full one when None.
        gate_rank: of the projection of the output gate; a full one when None.
    """
    width = heads * dim
    projections = sum(h * width if rank is None else h * rank + rank * width for rank in (forget_rank, gate_rank))
    return Block(
        {"recurrence_projections": projections + 4 * h * width + h * heads, "convolutions": kernel * 3 * width},
        width + heads + dim,
        Recurrence(1, heads, dim, dim, products=3),
    )


def sparse_layers(f: Fields, layers: int) -> int:
    """Return how many layers have experts: `mlp_layer_types`, or all after the first dense ones."""
    kinds = count_kinds(f, "mlp_layer_types", layers, {"dense": "dense", "sparse": "sparse"})
    if kinds is not None:
        return kinds["sparse"]
    first, step = f.count("first_k_dense_replace", 1), f.size("moe_layer_freq", default=1)
    return len(range(-(-first // step) * step, layers, step))


def _kimi_kinds(f: Fields, inner: Fields, layers: int) -> int:
    """Return how many layers of Kimi Linear are attention."""
    kinds = count_kinds(f, "layer_types", layers, LINEAR_OR_FULL)
    if kinds is not None:
        return kinds["full"]
    full, linear = inner.each("full_attn_layers", int), inner.each("kda_layers", int)
    if full is None or linear is None:
        return (layers - 1) // 4
    if sorted(full + linear) != list(range(1, layers + 1)):
        raise ConfigError(
            f"{inner.source}: full_attn_layers and kda_layers must name each of the {layers} layers once, "
            f"found {len(full)} and {len(linear)}"
        )
    return len(full)


def _kimi(f: Fields) -> Workload:
    """Kimi Linear (arXiv 2510.26692), and K3: experts in a latent space, gated attention, residuals over blocks."""
    h, layers, heads = f.size("hidden_size"), f.size("num_hidden_layers"), f.size("num_attention_heads")
    inner = Fields(f.inner("linear_attn_config"), f"{f.source}: linear_attn_config")
    full = _kimi_kinds(f, inner, layers)
    dim = inner.size("head_dim", default=f.size("linear_head_dim"))
    linear = delta_attention(
        h,
        inner.size("num_heads", default=f.size("linear_num_heads")),
        dim,
        inner.size("short_conv_kernel_size", default=f.size("linear_conv_kernel_dim")),
        forget_rank=dim,
        gate_rank=None if inner.flag("use_full_rank_gate", False) else dim,
    )
    gates = heads * f.size("v_head_dim") * f.flag("mla_use_output_gate", False)
    width, number = f.size("moe_intermediate_size"), f.size("num_experts", "num_local_experts")
    latent = f.count("routed_expert_hidden_size", 0)
    experts = Experts(
        router=h * number,
        expert=3 * (latent or h) * width,
        number=number,
        chosen=f.size("num_experts_per_token", "num_experts_per_tok"),
        shared=3 * h * width * f.count("num_shared_experts", f.count("n_shared_experts", 1)),
    )
    sparse = sparse_layers(f, layers)
    residuals = h if f.count("attn_res_block_size", 0) else 0  # a norm and a score, of one channel each
    return stacked(
        f,
        "kimi_linear",
        h,
        layers,
        [
            (full, latent_attention(f, h, bias=f.flag("attention_bias", False), gates=gates)),
            (layers - full, linear),
            (layers - sparse, gated_ffn(h, f.size("intermediate_size"))),
            (sparse, mixture(experts)),
            (sparse, Block({"latent_projections": 2 * h * latent}, latent * f.flag("latent_moe_use_norm", False))),
            (layers, norms(h)),
            (layers, Block(vectors=4 * residuals)),
        ],
        tied=None,
        vectors=h + 2 * residuals,
        assumptions=("the sums of residuals over blocks of layers are not counted",) if residuals else (),
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
    "kimi_linear": Family(
        _kimi,
        ("KimiLinearForCausalLM",),
        {
            "intermediate_size": 9216, "moe_intermediate_size": 1024, "kv_lora_rank": 512, "qk_rope_head_dim": 64,
            "v_head_dim": 128, "qk_nope_head_dim": 128, "num_experts_per_tok": 8, "num_local_experts": 256,
            "linear_head_dim": 128, "linear_num_heads": 32, "linear_conv_kernel_dim": 4,
        },
    ),
}  # fmt: skip
