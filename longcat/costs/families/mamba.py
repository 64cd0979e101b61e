"""Families with state spaces: Mamba, Mamba-2, and hybrids whose layers have them beside or instead of attention."""

from __future__ import annotations

from longcat.costs.families.blocks import (
    LINEAR_OR_FULL,
    Block,
    attention,
    check_groups,
    count_kinds,
    gated_ffn,
    mixture,
    norms,
    stacked,
)
from longcat.costs.families.fields import Family, Fields
from longcat.costs.families.gated import Experts
from longcat.costs.recurrence import Recurrence
from longcat.costs.workload import Workload
from longcat.errors import ConfigError


def mamba2(
    h: int,
    *,
    heads: int,
    dim: int,
    state: int,
    groups: int,
    kernel: int,
    convolution_bias: bool,
    bias: bool = False,
    output_bias: bool | None = None,
    normed: bool = True,
) -> Block:
    """Return one Mamba-2 layer (arXiv 2405.21060).

    Args:
        h: width of the model.
        heads: of the state.
        dim: channels of a head.
        state: size of the state of a channel.
        groups: of heads that share input and output matrices (B and C).
        kernel: of the short convolution.
        convolution_bias: whether that has a bias.
        bias: whether the projections have one.
        output_bias: whether the last one has; as the others when None.
        normed: whether a norm follows the gate.
    """
    inner = heads * dim
    convolved = inner + 2 * groups * state
    rows = inner + convolved + heads  # gate; values, B and C; time steps
    biases = rows * bias + h * (bias if output_bias is None else output_bias) + convolved * convolution_bias
    return Block(
        {"recurrence_projections": h * rows + inner * h, "convolutions": kernel * convolved},
        3 * heads + inner * normed + biases,
        Recurrence(1, heads, state, dim, products=2),
    )


def _mamba(
    h: int, *, inner: int, state: int, rank: int, kernel: int, convolution_bias: bool, bias: bool, normed: bool
) -> Block:
    """One Mamba layer (arXiv 2312.00752): a state per channel, time steps of low rank."""
    vectors = inner * (state + 2 + convolution_bias) + (2 * inner + h) * bias + (rank + 2 * state) * normed
    return Block(
        {
            "recurrence_projections": h * 2 * inner + inner * (rank + 2 * state) + rank * inner + inner * h,
            "convolutions": kernel * inner,
        },
        vectors,
        Recurrence(1, inner, state, 1, products=2),
    )


def _or_auto(f: Fields, name: str, auto: int) -> int:
    """Return a size, or this one where the file says "auto" or nothing."""
    return auto if f.values.get(name) == "auto" else f.size(name, default=auto)


def _shared_mamba2(f: Fields, h: int, inner: int, *, output_bias: bool | None = None, normed: bool = True) -> Block:
    """One Mamba-2 layer by the names of Bamba, Granite and Falcon-H1."""
    heads = f.size("mamba_n_heads")
    dim = _or_auto(f, "mamba_d_head", inner // heads)
    if heads * dim != inner:
        raise ConfigError(
            f"{f.source}: mamba_n_heads {heads} times mamba_d_head {dim} is not {inner}, the channels of mamba_d_ssm "
            "or of mamba_expand times hidden_size"
        )
    groups = f.size("mamba_n_groups")
    check_groups(f, "mamba_n_groups", groups, "mamba_n_heads", heads)
    return mamba2(
        h,
        heads=heads,
        dim=dim,
        state=f.size("mamba_d_state"),
        groups=groups,
        kernel=f.size("mamba_d_conv"),
        convolution_bias=f.flag("mamba_conv_bias", False),
        bias=f.flag("mamba_proj_bias", False),
        output_bias=output_bias,
        normed=normed,
    )


def _pure(f: Fields, family: str) -> Workload:
    """Mamba and Falcon Mamba: nothing but such layers."""
    h, layers = f.size("hidden_size"), f.size("num_hidden_layers")
    layer = _mamba(
        h,
        inner=h * f.size("expand"),
        state=f.size("state_size"),
        rank=_or_auto(f, "time_step_rank", -(-h // 16)),
        kernel=f.size("conv_kernel"),
        convolution_bias=f.flag("use_conv_bias", False),
        bias=f.flag("use_bias", False),
        normed=False,
    )
    return stacked(f, family, h, layers, [(layers, layer), (layers, norms(h, 1))], tied=True)


def _mamba2(f: Fields) -> Workload:
    h, layers, heads, dim = f.size("hidden_size"), f.size("num_hidden_layers"), f.size("num_heads"), f.size("head_dim")
    if heads * dim != h * f.size("expand"):
        raise ConfigError(f"{f.source}: num_heads {heads} times head_dim {dim} is not expand times hidden_size {h}")
    groups = f.size("n_groups")
    check_groups(f, "n_groups", groups, "num_heads", heads)
    layer = mamba2(
        h,
        heads=heads,
        dim=dim,
        state=f.size("state_size"),
        groups=groups,
        kernel=f.size("conv_kernel"),
        convolution_bias=f.flag("use_conv_bias", False),
        bias=f.flag("use_bias", False),
    )
    return stacked(f, "mamba2", h, layers, [(layers, layer), (layers, norms(h, 1))])


def _periodic(f: Fields, kind: str, layers: int) -> int:
    """Count the layers at an offset within each period, as Jamba names them."""
    period, offset = f.size(f"{kind}_layer_period"), f.count(f"{kind}_layer_offset", 0)
    if offset >= period:
        raise ConfigError(f"{f.source}: {kind}_layer_offset {offset} must be less than {kind}_layer_period {period}")
    return len(range(offset, layers, period))


def _jamba(f: Fields) -> Workload:
    """Jamba (arXiv 2403.19887): Mamba, attention every eighth layer, experts every second."""
    h, layers = f.size("hidden_size"), f.size("num_hidden_layers")
    full, ffn, number = _periodic(f, "attn", layers), f.size("intermediate_size"), f.size("num_experts")
    sparse = _periodic(f, "expert", layers) if number > 1 else 0
    experts = Experts(
        router=h * number, expert=3 * h * ffn, number=number, chosen=f.size("num_experts_per_tok"), shared=0
    )
    linear = _mamba(
        h,
        inner=h * f.size("mamba_expand"),
        state=f.size("mamba_d_state"),
        rank=_or_auto(f, "mamba_dt_rank", -(-h // 16)),
        kernel=f.size("mamba_d_conv"),
        convolution_bias=f.flag("mamba_conv_bias", False),
        bias=f.flag("mamba_proj_bias", False),
        normed=True,
    )
    return stacked(
        f,
        "jamba",
        h,
        layers,
        [
            (full, attention(f, h)),
            (layers - full, linear),
            (layers - sparse, gated_ffn(h, ffn)),
            (sparse, mixture(experts)),
            (layers, norms(h)),
        ],
    )


def _bamba(f: Fields) -> Workload:
    """Bamba: Mamba-2, attention where `attn_layer_indices` says."""
    h, layers, ffn = f.size("hidden_size"), f.size("num_hidden_layers"), f.size("intermediate_size")
    full = len({index for index in f.each("attn_layer_indices", int) or () if 0 <= index < layers})
    return stacked(
        f,
        "bamba",
        h,
        layers,
        [
            (full, attention(f, h, bias=f.flag("attention_bias", False))),
            (layers - full, _shared_mamba2(f, h, h * f.size("mamba_expand"))),
            (layers, gated_ffn(h, ffn, bias=f.flag("mlp_bias", False))),
            (layers, norms(h)),
        ],
    )


def _granite(f: Fields) -> Workload:
    """Granite 4: Mamba-2 or attention; experts beside a shared network, or that alone."""
    h, layers = f.size("hidden_size"), f.size("num_hidden_layers")
    kinds = count_kinds(f, "layer_types", layers, LINEAR_OR_FULL)
    if kinds is None:
        kinds = count_kinds(f, "layers_block_type", layers, LINEAR_OR_FULL)
    full = 0 if kinds is None else kinds["full"]
    number, shared = f.count("num_local_experts", 0), f.size("shared_intermediate_size")
    ffn = gated_ffn(h, shared)
    if number:
        ffn = mixture(
            Experts(
                router=h * number,
                expert=3 * h * f.size("intermediate_size"),
                number=number,
                chosen=f.size("num_experts_per_tok"),
                shared=3 * h * shared,
            )
        )
    return stacked(
        f,
        "granitemoehybrid",
        h,
        layers,
        [
            (full, attention(f, h, bias=f.flag("attention_bias", False))),
            (layers - full, _shared_mamba2(f, h, h * f.size("mamba_expand"))),
            (layers, ffn),
            (layers, norms(h)),
        ],
    )


def _falcon_h1(f: Fields) -> Workload:
    """Falcon-H1 (arXiv 2507.22448): Mamba-2 and attention side by side in every layer."""
    h, layers, ffn = f.size("hidden_size"), f.size("num_hidden_layers"), f.size("intermediate_size")
    inner = f.size("mamba_d_ssm", default=h * f.size("mamba_expand"))
    linear = _shared_mamba2(
        f,
        h,
        inner,
        output_bias=f.flag("projectors_bias", False),
        normed=f.flag("mamba_rms_norm", False),
    )
    return stacked(
        f,
        "falcon_h1",
        h,
        layers,
        [
            (layers, attention(f, h, bias=f.flag("attention_bias", False))),
            (layers, linear),
            (layers, gated_ffn(h, ffn, bias=f.flag("mlp_bias", False))),
            (layers, norms(h)),
        ],
    )


_PURE = {"expand": 2, "state_size": 16, "conv_kernel": 4, "use_conv_bias": True}
_SHARED = {
    "mamba_n_heads": 128, "mamba_n_groups": 1, "mamba_d_state": 256, "mamba_d_conv": 4, "mamba_expand": 2,
    "mamba_conv_bias": True,
}  # fmt: skip
_GROUPED = {"num_key_value_heads": 8, "intermediate_size": 14336}
FAMILIES = {
    "mamba": Family(lambda f: _pure(f, "mamba"), ("MambaForCausalLM",), _PURE),
    "falcon_mamba": Family(lambda f: _pure(f, "falcon_mamba"), ("FalconMambaForCausalLM",), _PURE),
    "mamba2": Family(
        _mamba2,
        ("Mamba2ForCausalLM",),
        {**_PURE, "state_size": 128, "n_groups": 8, "num_heads": 128, "head_dim": 64},
    ),
    "jamba": Family(
        _jamba,
        ("JambaForCausalLM",),
        {
            **_GROUPED, "num_experts": 16, "num_experts_per_tok": 2, "expert_layer_period": 2, "expert_layer_offset": 1,
            "attn_layer_period": 8, "attn_layer_offset": 4, "mamba_d_state": 16, "mamba_d_conv": 4, "mamba_expand": 2,
            "mamba_conv_bias": True,
        },
    ),
    "bamba": Family(_bamba, ("BambaForCausalLM",), {**_SHARED, **_GROUPED}),
    "granitemoehybrid": Family(
        _granite,
        ("GraniteMoeHybridForCausalLM",),
        {
            **_SHARED, "num_local_experts": 8, "num_experts_per_tok": 2, "shared_intermediate_size": 1024,
            "intermediate_size": 11008,
        },
    ),
    "falcon_h1": Family(_falcon_h1, ("FalconH1ForCausalLM",), {**_SHARED, **_GROUPED, "mamba_d_ssm": 1024}),
}  # fmt: skip
