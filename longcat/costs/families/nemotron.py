"""Nemotron-H and Nemotron 3: a layer is one of Mamba-2, attention, a feed-forward network or experts."""

from __future__ import annotations

from longcat.costs.families.blocks import Block, attention, check_groups, count_kinds, mixture, norms, stacked
from longcat.costs.families.fields import Family, Fields
from longcat.costs.families.gated import Experts
from longcat.costs.families.mamba import mamba2
from longcat.costs.workload import Workload
from longcat.errors import ConfigError

_KINDS = {
    "linear_attention": "linear", "mamba": "linear", "full_attention": "full", "attention": "full", "moe": "moe",
    "mlp": "mlp",
}  # fmt: skip
_LETTERS = {"M": "linear", "*": "full", "E": "moe", "-": "mlp"}


def _kinds(f: Fields) -> dict[str, int]:
    """Count the layers of each kind, in a list of names or a string of letters."""
    for name in ("layers_block_type", "layer_types"):
        listed = f.each(name, str)
        counts = count_kinds(f, name, len(listed or ()), _KINDS)
        if counts is not None:
            return counts
    pattern = f.values.get("hybrid_override_pattern")
    if pattern is None:
        raise ConfigError(f"{f.source}: no layers_block_type or hybrid_override_pattern")
    if not isinstance(pattern, str) or not pattern or set(pattern) - set(_LETTERS):
        raise ConfigError(
            f"{f.source}: hybrid_override_pattern must be made of {' '.join(_LETTERS)}, found {pattern!r}"
        )
    return {kind: pattern.count(letter) for letter, kind in _LETTERS.items()}


def _ffn(h: int, width: int, *, bias: bool, component: str = "dense_ffn") -> Block:
    """One feed-forward network without a gate: two matrices around a squared ReLU."""
    return Block({component: 2 * h * width}, (width + h) * bias)


def _experts(f: Fields, h: int) -> Experts:
    """The experts of one layer, two matrices each, in a latent space where there is one."""
    number, shared = f.size("n_routed_experts", "num_local_experts"), f.size("moe_shared_expert_intermediate_size")
    return Experts(
        router=h * number,
        expert=2 * (f.count("moe_latent_size", 0) or h) * f.size("moe_intermediate_size"),
        number=number,
        chosen=f.size("num_experts_per_tok"),
        shared=2 * h * shared,
    )


def _nemotron(f: Fields) -> Workload:
    """Nemotron-H (arXiv 2504.03624) and Nemotron 3, whose larger models have experts in a latent space."""
    h, kinds = f.size("hidden_size"), _kinds(f)
    layers, bias, latent = sum(kinds.values()), f.flag("mlp_bias", False), f.count("moe_latent_size", 0)
    heads, groups = f.size("mamba_num_heads"), f.size("n_groups", "mamba_n_groups")
    check_groups(f, "n_groups", groups, "mamba_num_heads", heads)
    linear = mamba2(
        h,
        heads=heads,
        dim=f.size("mamba_head_dim"),
        state=f.size("ssm_state_size"),
        groups=groups,
        kernel=f.size("conv_kernel"),
        convolution_bias=f.flag("use_conv_bias", False),
        bias=f.flag("use_bias", False),
    )
    latent_biases = (latent + h) * bias if latent else 0
    shared_biases = (f.size("moe_shared_expert_intermediate_size") + h) * bias
    return stacked(
        f,
        "nemotron_h",
        h,
        layers,
        [
            (kinds["full"], attention(f, h, dim=f.size("attention_head_dim", "head_dim"))),
            (kinds["linear"], linear),
            (kinds["mlp"], _ffn(h, f.size("intermediate_size"), bias=bias)),
            (kinds["moe"], mixture(_experts(f, h))),
            (kinds["moe"], Block({"latent_projections": 2 * h * latent}, latent_biases + shared_biases)),
            (layers, norms(h, 1)),
        ],
        tied=None,
    )


FAMILIES = {
    "nemotron_h": Family(
        _nemotron,
        ("NemotronHForCausalLM",),
        {
            "num_key_value_heads": 8, "head_dim": 128, "intermediate_size": 21504, "ssm_state_size": 128,
            "mamba_num_heads": 128, "mamba_head_dim": 64, "n_groups": 8, "conv_kernel": 4, "use_conv_bias": True,
            "n_routed_experts": 8, "moe_intermediate_size": 7688, "moe_shared_expert_intermediate_size": 7688,
            "num_experts_per_tok": 2,
        },
    ),
}  # fmt: skip
