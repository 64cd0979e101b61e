"""Families with state spaces: Mamba, Mamba-2, and hybrids whose layers have them beside or instead of attention."""

from __future__ import annotations

from longcat.costs.families.fields import Family, Fields
from longcat.costs.families.layers import Layers, decoder, feed_forward, mixture, read_mixture
from longcat.costs.families.recurrent import LINEAR_OR_FULL, check_groups, count_kinds, present, recurrent, softmax
from longcat.costs.recurrence import Recurrence
from longcat.costs.workload import Workload
from longcat.errors import ConfigError


def mamba2(
    h: int,
    layers: int,
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
) -> Layers:
    """Return Mamba-2 layers (arXiv 2405.21060).

    Args:
        h: width of the residual stream.
        layers: how many.
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
    return recurrent(
        Recurrence(layers, heads, state, dim, products=2),
        projections=h * rows + inner * h,
        convolutions=kernel * convolved,
        vectors=3 * heads + inner * normed + biases,
    )


def _mamba(
    h: int,
    layers: int,
    *,
    inner: int,
    state: int,
    rank: int,
    kernel: int,
    convolution_bias: bool,
    bias: bool,
    normed: bool = False,
) -> Layers:
    """Mamba layers (arXiv 2312.00752): a state per channel, time steps of low rank."""
    return recurrent(
        Recurrence(layers, inner, state, 1, products=2),
        projections=h * 2 * inner + inner * (rank + 2 * state) + rank * inner + inner * h,
        convolutions=kernel * inner,
        vectors=inner * (state + 2 + convolution_bias) + (2 * inner + h) * bias + (rank + 2 * state) * normed,
    )


def _or_auto(f: Fields, name: str, auto: int) -> int:
    """Return a size, or this one where the file says "auto" or nothing."""
    return auto if f.values.get(name) == "auto" else f.size(name, default=auto)


def _named_mamba2(
    f: Fields, h: int, layers: int, inner: int, *, output_bias: bool | None = None, normed: bool = True
) -> Layers:
    """Mamba-2 layers by the names of Bamba, Granite and Falcon-H1."""
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
        layers,
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
    only = _mamba(
        h,
        layers,
        inner=h * f.size("expand"),
        state=f.size("state_size"),
        rank=_or_auto(f, "time_step_rank", -(-h // 16)),
        kernel=f.size("conv_kernel"),
        convolution_bias=f.flag("use_conv_bias", False),
        bias=f.flag("use_bias", False),
    )
    return decoder(f, family, h, layers, [only], norms=1)


def _pure2(f: Fields) -> Workload:
    """Mamba-2: nothing but such layers."""
    h, layers, heads, dim = f.size("hidden_size"), f.size("num_hidden_layers"), f.size("num_heads"), f.size("head_dim")
    if heads * dim != h * f.size("expand"):
        raise ConfigError(f"{f.source}: num_heads {heads} times head_dim {dim} is not expand times hidden_size {h}")
    groups = f.size("n_groups")
    check_groups(f, "n_groups", groups, "num_heads", heads)
    only = mamba2(
        h,
        layers,
        heads=heads,
        dim=dim,
        state=f.size("state_size"),
        groups=groups,
        kernel=f.size("conv_kernel"),
        convolution_bias=f.flag("use_conv_bias", False),
        bias=f.flag("use_bias", False),
    )
    return decoder(f, "mamba2", h, layers, [only], norms=1)


def _periodic(f: Fields, kind: str, layers: int) -> int:
    """Count the layers at an offset within each period, as Jamba names them."""
    period, offset = f.size(f"{kind}_layer_period"), f.count(f"{kind}_layer_offset", 0)
    if offset >= period:
        raise ConfigError(f"{f.source}: {kind}_layer_offset {offset} must be less than {kind}_layer_period {period}")
    return len(range(offset, layers, period))


def _jamba(f: Fields) -> Workload:
    """Jamba (arXiv 2403.19887): Mamba, attention every eighth layer, experts every second."""
    h, layers, ffn = f.size("hidden_size"), f.size("num_hidden_layers"), f.size("intermediate_size")
    experts = read_mixture(f, ffn) if f.size("num_experts", "num_local_experts") > 1 else None
    full, sparse = _periodic(f, "attn", layers), _periodic(f, "expert", layers) if experts else 0

    def linear(number: int) -> Layers:
        return _mamba(
            h,
            number,
            inner=h * f.size("mamba_expand"),
            state=f.size("mamba_d_state"),
            rank=_or_auto(f, "mamba_dt_rank", -(-h // 16)),
            kernel=f.size("mamba_d_conv"),
            convolution_bias=f.flag("mamba_conv_bias", False),
            bias=f.flag("mamba_proj_bias", False),
            normed=True,
        )

    parts = present(
        (full, lambda number: softmax(f, h, number)),
        (layers - full, linear),
        (layers - sparse, lambda number: feed_forward(h, number, ffn)),
    )
    routed = [mixture(h, sparse, experts)] if experts else []
    return decoder(f, "jamba", h, layers, [*parts, *routed], experts=experts)


def _bamba(f: Fields) -> Workload:
    """Bamba: Mamba-2, attention where `attn_layer_indices` says."""
    h, layers, ffn = f.size("hidden_size"), f.size("num_hidden_layers"), f.size("intermediate_size")
    full = len({index for index in f.each("attn_layer_indices", int) or () if 0 <= index < layers})
    parts = present(
        (full, lambda number: softmax(f, h, number, bias=f.flag("attention_bias", False))),
        (layers - full, lambda number: _named_mamba2(f, h, number, h * f.size("mamba_expand"))),
        (layers, lambda number: feed_forward(h, number, ffn, bias=f.flag("mlp_bias", False))),
    )
    return decoder(f, "bamba", h, layers, parts)


def _granite(f: Fields) -> Workload:
    """Granite 4: Mamba-2 or attention; experts beside a shared network, or that alone."""
    h, layers, shared = f.size("hidden_size"), f.size("num_hidden_layers"), f.size("shared_intermediate_size")
    kinds = count_kinds(f, "layer_types", layers, LINEAR_OR_FULL) or count_kinds(
        f, "layers_block_type", layers, LINEAR_OR_FULL
    )
    full = 0 if kinds is None else kinds["full"]
    experts = read_mixture(f, f.size("intermediate_size"), shared) if f.count("num_local_experts", 0) else None

    def ffn(number: int) -> Layers:
        return feed_forward(h, number, shared) if experts is None else mixture(h, number, experts)

    parts = present(
        (full, lambda number: softmax(f, h, number, bias=f.flag("attention_bias", False))),
        (layers - full, lambda number: _named_mamba2(f, h, number, h * f.size("mamba_expand"))),
        (layers, ffn),
    )
    return decoder(f, "granitemoehybrid", h, layers, parts, experts=experts)


def _falcon_h1(f: Fields) -> Workload:
    """Falcon-H1 (arXiv 2507.22448): Mamba-2 and attention side by side in every layer."""
    h, layers, ffn = f.size("hidden_size"), f.size("num_hidden_layers"), f.size("intermediate_size")
    inner = f.size("mamba_d_ssm", default=h * f.size("mamba_expand"))
    normed, output_bias = f.flag("mamba_rms_norm", False), f.flag("projectors_bias", False)
    parts = [
        softmax(f, h, layers, bias=f.flag("attention_bias", False)),
        _named_mamba2(f, h, layers, inner, output_bias=output_bias, normed=normed),
        feed_forward(h, layers, ffn, bias=f.flag("mlp_bias", False)),
    ]
    return decoder(f, "falcon_h1", h, layers, parts)


_PURE = {"expand": 2, "state_size": 16, "conv_kernel": 4, "use_conv_bias": True}
_SHARED = {
    "mamba_n_heads": 128, "mamba_n_groups": 1, "mamba_d_state": 256, "mamba_d_conv": 4, "mamba_expand": 2,
    "mamba_conv_bias": True,
}  # fmt: skip
_GROUPED = {"num_key_value_heads": 8, "intermediate_size": 14336}
FAMILIES = {
    "mamba": Family(lambda f: _pure(f, "mamba"), ("MambaForCausalLM",), {**_PURE, "tie_word_embeddings": True}),
    "falcon_mamba": Family(lambda f: _pure(f, "falcon_mamba"), ("FalconMambaForCausalLM",), {**_PURE, "tie_word_embeddings": True}),
    "mamba2": Family(
        _pure2,
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
