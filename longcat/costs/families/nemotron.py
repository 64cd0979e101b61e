"""Nemotron-H and Nemotron 3: a layer is one of Mamba-2, attention, a feed-forward network or experts."""

from __future__ import annotations

from longcat.costs.families.fields import Family, Fields, shown
from longcat.costs.families.layers import Layers, Mixture, decoder, depths_of, feed_forward, mixture, read_mixture
from longcat.costs.families.mamba import mamba2
from longcat.costs.families.recurrent import check_groups, count_kinds, present, softmax
from longcat.costs.workload import Workload
from longcat.errors import ConfigError

_KINDS = {
    "linear_attention": "linear", "mamba": "linear", "full_attention": "full", "attention": "full", "moe": "moe",
    "mlp": "mlp",
}  # fmt: skip
_LETTERS = {"M": "linear", "*": "full", "E": "moe", "-": "mlp"}


def _listed(f: Fields, names: tuple[str, ...], pattern_name: str) -> dict[str, int] | None:
    """Count the layers of each kind, in a list of names or a string of letters; None where there is neither."""
    for name in names:
        counts = count_kinds(f, name, None, _KINDS)
        if counts is not None:
            return counts
    pattern = f.values.get(pattern_name)
    if pattern is None:
        return None
    if not isinstance(pattern, str) or not pattern or set(pattern) - set(_LETTERS):
        raise ConfigError(f"{f.source}: {pattern_name} must be made of {' '.join(_LETTERS)}, found {shown(pattern)}")
    return {kind: pattern.count(letter) for letter, kind in _LETTERS.items()}


def _mamba2(f: Fields, h: int, layers: int) -> Layers:
    heads, groups = f.size("mamba_num_heads"), f.size("n_groups")
    check_groups(f, "n_groups", groups, "mamba_num_heads", heads)
    return mamba2(
        h,
        layers,
        heads=heads,
        dim=f.size("mamba_head_dim"),
        state=f.size("ssm_state_size"),
        groups=groups,
        kernel=f.size("conv_kernel"),
        convolution_bias=f.flag("use_conv_bias", False),
        bias=f.flag("use_bias", False),
    )


def _experts(f: Fields) -> Mixture:
    """The experts of a layer: squared ReLU between two matrices, in a latent space in the larger models."""
    return read_mixture(
        f,
        f.size("moe_intermediate_size"),
        f.size("moe_shared_expert_intermediate_size"),
        shared_bias=f.flag("mlp_bias", False),
        gated=False,
        latent=f.count("moe_latent_size", 0),
    )


def _nemotron(f: Fields) -> Workload:
    """Nemotron-H (arXiv 2504.03624) and Nemotron 3, whose multi-token prediction has a layer of attention and of experts."""
    h = f.size("hidden_size")
    kinds = _listed(f, ("layers_block_type", "layer_types"), "hybrid_override_pattern")
    if kinds is None:
        raise ConfigError(f"{f.source}: no layers_block_type or hybrid_override_pattern")
    experts = _experts(f) if kinds["moe"] else None

    def parts(kinds: dict[str, int], times: int = 1) -> list[Layers]:
        return present(
            (times * kinds["full"], lambda number: softmax(f, h, number)),
            (times * kinds["linear"], lambda number: _mamba2(f, h, number)),
            (
                times * kinds["mlp"],
                lambda number: feed_forward(
                    h, number, f.size("intermediate_size"), bias=f.flag("mlp_bias", False), gated=False
                ),
            ),
            (times * kinds["moe"], lambda number: mixture(h, number, _experts(f))),
        )

    depths = depths_of(f)
    last = _listed(f, ("mtp_layers_block_type",), "mtp_hybrid_override_pattern")
    last = last or {"full": 1, "moe": 1, "linear": 0, "mlp": 0}
    more_norms = Layers(vectors=depths * (sum(last.values()) - 1) * h)
    return decoder(
        f,
        "nemotron_h",
        h,
        sum(kinds.values()),
        parts(kinds),
        experts=experts,
        norms=1,
        ties=False,
        depth=[*parts(last, depths), more_norms] if depths else None,
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
        {
            "head_dim": "attention_head_dim", "n_groups": "mamba_n_groups", "conv_kernel": "mamba_d_conv",
            "use_conv_bias": "mamba_conv_bias",
        },
        mtp=True,
    ),
}  # fmt: skip
