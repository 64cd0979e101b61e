"""Families with the delta rule: most layers keep a state that each token corrects, every fourth or so is attention."""

from __future__ import annotations

from longcat.costs.families.deepseek import latent
from longcat.costs.families.fields import Family, Fields
from longcat.costs.families.layers import (
    Layers,
    after_first,
    by_step,
    decoder,
    depths_of,
    feed_forward,
    mixture,
    read_mixture,
)
from longcat.costs.families.recurrent import LINEAR_OR_FULL, check_groups, count_kinds, present, recurrent, softmax
from longcat.costs.recurrence import Recurrence
from longcat.costs.workload import Workload
from longcat.errors import ConfigError


def _gated_delta_net(f: Fields, h: int, layers: int) -> Layers:
    """Gated delta nets (arXiv 2412.06464): queries, keys and values go through a short convolution."""
    key_heads, value_heads = f.size("linear_num_key_heads"), f.size("linear_num_value_heads")
    key_dim, value_dim = f.size("linear_key_head_dim"), f.size("linear_value_head_dim")
    check_groups(f, "linear_num_key_heads", key_heads, "linear_num_value_heads", value_heads)
    keys, values = key_heads * key_dim, value_heads * value_dim
    return recurrent(
        Recurrence(layers, value_heads, key_dim, value_dim, products=3),
        # queries, keys, values, output gate; write strength and decay of each head; the way back
        projections=h * (2 * keys + 2 * values + 2 * value_heads) + values * h,
        convolutions=f.size("linear_conv_kernel_dim") * (2 * keys + values),
        vectors=2 * value_heads + value_dim,
    )


def _qwen(f: Fields, family: str, *, routed: bool) -> Workload:
    """Qwen3-Next and Qwen3.5: gated delta nets and gated attention, with which multi-token prediction has its layer."""
    h, layers, depths = f.size("hidden_size"), f.size("num_hidden_layers"), depths_of(f)
    kinds = count_kinds(f, "layer_types", layers, LINEAR_OR_FULL)
    full = layers // f.size("full_attention_interval") if kinds is None else kinds["full"]
    bias = f.flag("attention_bias", False)
    experts, sparse = None, 0
    if routed and f.count("num_experts", 0):
        experts = read_mixture(
            f, f.size("moe_intermediate_size"), f.size("shared_expert_intermediate_size"), shared_gate=True
        )
        sparse = by_step(f, layers)

    def attention(number: int) -> Layers:
        return softmax(f, h, number, norms="head", gated=True, bias=bias)

    def ffn(number: int) -> Layers:
        return feed_forward(h, number, f.size("intermediate_size"))

    def mixed(number: int) -> Layers:
        return ffn(number) if experts is None else mixture(h, number, experts)

    return decoder(
        f,
        family,
        h,
        layers,
        present(
            (full, attention),
            (layers - full, lambda number: _gated_delta_net(f, h, number)),
            (layers - sparse, ffn),
            (sparse, mixed),
        ),
        experts=experts,
        depth=present((depths, attention), (depths, mixed)),
    )


def delta_attention(
    h: int, layers: int, heads: int, dim: int, kernel: int, *, forget_rank: int | None, gate_rank: int | None
) -> Layers:
    """Return Kimi delta attentions (arXiv 2510.26692), whose states decay per channel.

    Args:
        h: width of the residual stream.
        layers: how many.
        heads: of queries, keys and values alike.
        dim: of each.
        kernel: of the short convolutions.
        forget_rank: of the projection of the decay; a full one when None.
        gate_rank: of the projection of the output gate; a full one when None.
    """
    width = heads * dim
    ranks = sum(h * width if rank is None else h * rank + rank * width for rank in (forget_rank, gate_rank))
    return recurrent(
        Recurrence(layers, heads, dim, dim, products=3),
        projections=4 * h * width + h * heads + ranks,
        convolutions=kernel * 3 * width,
        vectors=width + heads + dim,
    )


def _kimi_attentions(f: Fields, inner: Fields, layers: int) -> int:
    """Return how many layers of Kimi Linear are attention."""
    kinds = count_kinds(f, "layer_types", layers, LINEAR_OR_FULL)
    if kinds is not None:
        return kinds["full"]
    full, linear = inner.each("full_attn_layers", int), inner.each("kda_layers", int)
    if full is None or linear is None:
        return (layers - 1) // 4
    if sorted(full + linear) != list(range(1, len(full) + len(linear) + 1)) or len(full) + len(linear) != layers:
        raise ConfigError(
            f"{inner.source}: full_attn_layers and kda_layers must name each of the {layers} layers once, "
            f"found {len(full)} and {len(linear)}"
        )
    return len(full)


def _kimi(f: Fields) -> Workload:
    """Kimi Linear (arXiv 2510.26692), and K3: experts in a latent space, gated attention, residuals over blocks."""
    h, layers, heads = f.size("hidden_size"), f.size("num_hidden_layers"), f.size("num_attention_heads")
    inner = Fields(f.inner("linear_attn_config"), f"{f.source}: linear_attn_config")
    full, sparse = _kimi_attentions(f, inner, layers), after_first(f, layers, 1)
    gate = heads * f.size("v_head_dim") * f.flag("mla_use_output_gate", False)
    width = f.size("moe_intermediate_size")
    experts = read_mixture(
        f,
        width,
        width * f.count("n_shared_experts", 1),
        latent=f.count("routed_expert_hidden_size", 0),
        latent_norm=f.flag("latent_moe_use_norm", False),
    )

    def linear(number: int) -> Layers:
        dim = inner.size("head_dim", default=f.size("linear_head_dim"))
        return delta_attention(
            h,
            number,
            inner.size("num_heads", default=f.size("linear_num_heads")),
            dim,
            inner.size("short_conv_kernel_size", default=f.size("linear_conv_kernel_dim")),
            forget_rank=dim,
            gate_rank=None if inner.flag("use_full_rank_gate", False) else dim,
        )

    parts = present(
        (full, lambda number: latent(f, h, number, gate=gate)),
        (layers - full, linear),
        (layers - sparse, lambda number: feed_forward(h, number, f.size("intermediate_size"))),
        (sparse, lambda number: mixture(h, number, experts)),
    )
    summed = bool(f.count("attn_res_block_size", 0))  # before either half of a layer and the head: a norm, a score
    return decoder(
        f,
        "kimi_linear",
        h,
        layers,
        [*parts, Layers(vectors=(2 * layers + 1) * 2 * h * summed)],
        experts=experts,
        ties=False,
        assumptions=("the sums of residuals over blocks of layers are not counted",) if summed else (),
    )


def _olmo(f: Fields) -> Workload:
    """OLMo Hybrid: gated delta nets and attention whose queries and keys are normalized over all heads."""
    h, layers, heads = f.size("hidden_size"), f.size("num_hidden_layers"), f.size("num_attention_heads")
    kinds = count_kinds(f, "layer_types", layers, LINEAR_OR_FULL)
    full = max(1, layers // 4) if kinds is None else kinds["full"]
    key_heads = f.size("linear_num_key_heads", default=heads)
    key_dim = f.size("linear_key_head_dim", default=3 * h // (4 * key_heads))
    sizes = {
        "linear_num_key_heads": key_heads,
        "linear_num_value_heads": f.size("linear_num_value_heads", default=heads),
        "linear_key_head_dim": key_dim,
        "linear_value_head_dim": f.size("linear_value_head_dim", default=2 * key_dim),
    }
    filled = Fields({**f.values, **sizes}, f.source)
    parts = present(
        (full, lambda number: softmax(f, h, number, norms="whole", bias=f.flag("attention_bias", False))),
        (layers - full, lambda number: _gated_delta_net(filled, h, number)),
        (layers, lambda number: feed_forward(h, number, f.size("intermediate_size"))),
    )
    return decoder(f, "olmo_hybrid", h, layers, parts)


_QWEN = {
    "head_dim": 256, "linear_conv_kernel_dim": 4, "linear_key_head_dim": 128, "linear_value_head_dim": 128,
    "linear_num_key_heads": 16, "linear_num_value_heads": 32, "full_attention_interval": 4,
}  # fmt: skip
_QWEN_EXPERTS = {"moe_intermediate_size": 512, "shared_expert_intermediate_size": 512, "num_key_value_heads": 2}
FAMILIES = {
    "qwen3_next": Family(
        lambda f: _qwen(f, "qwen3_next", routed=True),
        ("Qwen3NextForCausalLM",),
        {**_QWEN, **_QWEN_EXPERTS, "intermediate_size": 5632, "num_experts": 512, "num_experts_per_tok": 10},
        mtp=True,
    ),
    "qwen3_5_text": Family(
        lambda f: _qwen(f, "qwen3_5_text", routed=False),
        ("Qwen3_5ForCausalLM",),
        {**_QWEN, "num_key_value_heads": 4, "intermediate_size": 12288},
        mtp=True,
    ),
    "qwen3_5_moe_text": Family(
        lambda f: _qwen(f, "qwen3_5_moe_text", routed=True),
        ("Qwen3_5MoeForCausalLM",),
        {**_QWEN, **_QWEN_EXPERTS, "num_experts": 256, "num_experts_per_tok": 8},
        mtp=True,
    ),
    "olmo_hybrid": Family(
        _olmo, ("OlmoHybridForCausalLM",), {"intermediate_size": 11008, "linear_conv_kernel_dim": 4}
    ),
    "kimi_linear": Family(
        _kimi,
        ("KimiLinearForCausalLM",),
        {
            "intermediate_size": 9216, "moe_intermediate_size": 1024, "kv_lora_rank": 512, "qk_rope_head_dim": 64,
            "v_head_dim": 128, "qk_nope_head_dim": 128, "num_experts_per_tok": 8, "num_local_experts": 256,
            "linear_head_dim": 128, "linear_num_heads": 32, "linear_conv_kernel_dim": 4,
        },
        {"num_experts_per_tok": "num_experts_per_token", "n_shared_experts": "num_shared_experts"},
    ),
}  # fmt: skip
