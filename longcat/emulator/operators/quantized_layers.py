"""Normalisations and activations whose result is quantised."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from longcat.emulator.number_formats import (
    HIFLOAT8,
    INT4,
    Format,
    encode,
    encode_blocks,
    format_of,
)
from longcat.emulator.operators import norm
from longcat.emulator.operators.groups import group_bounds, numbered_groups
from longcat.emulator.operators.quantization import quantize_rows
from longcat.emulator.reference import FLOATS, gradients, reference


def rms_norm(x: Tensor, gamma: Tensor, beta: Tensor | None, epsilon: float) -> tuple[Tensor, Tensor]:
    """Normalise over gamma's dimensions; return the float32 result and the reciprocal root of the mean square."""
    gamma = gamma.squeeze(0) if gamma.dim() > 1 and gamma.shape[0] == 1 else gamma
    result, reciprocal = norm.rms_norm(x.float(), gamma, epsilon)
    return (result if beta is None else result + beta.float().reshape(gamma.shape)), reciprocal


@reference("npu_rms_norm_quant", checked=True)
def rms_norm_quant(
    x: Tensor,
    gamma: Tensor,
    beta: Tensor,
    scale: Tensor,
    offset: Tensor,
    epsilon: float = 1e-6,
    dst_dtype: int | None = None,
) -> Tensor:
    """Normalise and quantise: `y / scale + offset`, with one scale and one offset."""
    _same_type("npu_rms_norm_quant", x=x, gamma=gamma, beta=beta)
    if scale.numel() != 1 or offset.numel() != 1:
        raise RuntimeError("npu_rms_norm_quant: scale and offset must have one element")
    normalised = rms_norm(x, gamma, beta, epsilon)[0]
    return encode(normalised / scale.float() + offset.float(), format_of(dst_dtype, "npu_rms_norm_quant"))


@reference("npu_rms_norm_quant_v2", checked=True)
def rms_norm_quant_v2(
    x: Tensor,
    gamma: Tensor,
    scale: Tensor,
    *,
    offset: Tensor | None = None,
    beta: Tensor | None = None,
    epsilon: float = 1e-6,
    div_mode: bool = True,
    dst_dtype: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Normalise and quantise with a scale of all or of columns; return the reciprocal root mean square too."""
    normalised, reciprocal = rms_norm(x, gamma, beta, epsilon)
    codes = _static(normalised, scale, offset, div_mode, format_of(dst_dtype, "npu_rms_norm_quant_v2"))
    return codes, reciprocal


@reference("npu_rms_norm_dynamic_mx_quant", checked=True)
def rms_norm_dynamic_mx_quant(
    x: Tensor,
    gamma: Tensor,
    *,
    beta: Tensor | None = None,
    epsilon: float = 1e-6,
    scale_alg: int = 0,
    round_mode: str = "rint",
    dst_type: int = 296,
) -> tuple[Tensor, Tensor, Tensor]:
    """Normalise and quantise with shared exponents."""
    normalised, reciprocal = rms_norm(x, gamma, beta, epsilon)
    form = format_of(dst_type, "npu_rms_norm_dynamic_mx_quant")
    return *encode_blocks(normalised.to(x.dtype), form, -1, 32, round_mode, scale_alg), reciprocal


@reference("npu_add_rms_norm_dynamic_mx_quant", checked=True)
def add_rms_norm_dynamic_mx_quant(
    x1: Tensor,
    x2: Tensor,
    gamma: Tensor,
    *,
    beta: Tensor | None = None,
    epsilon: float = 1e-6,
    scale_alg: int = 0,
    round_mode: str = "rint",
    dst_type: int = 296,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Add, normalise and quantise with shared exponents: values, sum, scales, reciprocal root mean square."""
    total = (x1.float() + x2.float()).to(x1.dtype)
    codes, scales, reciprocal = rms_norm_dynamic_mx_quant(
        total, gamma, beta=beta, epsilon=epsilon, scale_alg=scale_alg, round_mode=round_mode, dst_type=dst_type
    )
    return codes, total, scales, reciprocal


@reference("npu_add_rms_norm_quant", checked=True)
def add_rms_norm_quant(
    x1: Tensor,
    x2: Tensor,
    gamma: Tensor,
    scales1: Tensor,
    zero_points1: Tensor | None,
    beta: Tensor | None = None,
    scales2: Tensor | None = None,
    zero_points2: Tensor | None = None,
    *,
    axis: int = -1,
    epsilon: float = 1e-6,
    div_mode: bool = True,
    dst_type: int | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Add, normalise and quantise once or twice, with scales of columns; without `scales2` the second is zero."""
    _same_type("npu_add_rms_norm_quant", x1=x1, x2=x2, gamma=gamma)
    form = format_of(dst_type, "npu_add_rms_norm_quant")
    total = x1.float() + x2.float()
    normalised = rms_norm(total, gamma, beta, epsilon)[0]
    first = _static(normalised, scales1, zero_points1, div_mode, form)
    second = torch.zeros_like(first)
    if scales2 is not None:
        second = _static(normalised, scales2, zero_points2, div_mode, form)
    return first, second, total.to(x1.dtype)


@reference("npu_add_rms_norm_dynamic_quant", checked=True)
def add_rms_norm_dynamic_quant(
    x1: Tensor,
    x2: Tensor,
    gamma: Tensor,
    *,
    smooth_scale1: Tensor | None = None,
    smooth_scale2: Tensor | None = None,
    beta: Tensor | None = None,
    epsilon: float = 1e-6,
    output_mask: list[bool] | None = None,
    y_dtype: int | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Add, normalise and quantise rows once or twice: two codes, the sum, two scales.

    What is not asked for has one element, as on a device; the wheel's meta kernel says none.
    """
    name = "npu_add_rms_norm_dynamic_quant"
    _same_type(name, x1=x1, x2=x2, gamma=gamma, smooth_scale1=smooth_scale1, smooth_scale2=smooth_scale2, beta=beta)
    if x1.dtype not in (torch.float16, torch.bfloat16):
        raise RuntimeError(f"{name}: x1 must be float16 or bfloat16, got {x1.dtype}")
    wanted = output_mask or [True, smooth_scale1 is not None and smooth_scale2 is not None]
    for number, smooth in enumerate((smooth_scale1, smooth_scale2)):
        if output_mask and smooth is not None and not wanted[number]:
            raise RuntimeError(f"{name}: smooth_scale{number + 1} is given, so output_mask[{number}] must be True")
    form = format_of(y_dtype, name)
    total = x1.float() + x2.float()
    normalised = rms_norm(total, gamma, beta, epsilon)[0]
    none = torch.zeros(1, dtype=form.storage), torch.zeros(1)
    results = []
    for smooth, asked in zip((smooth_scale1, smooth_scale2), wanted, strict=True):
        smoothed = normalised if smooth is None else normalised * smooth.float()
        results.append(quantize_rows(smoothed, form) if asked else none)
    return results[0][0], results[1][0], total.to(x1.dtype), results[0][1], results[1][1]


@reference("_npu_rms_norm_backward_quant", checked=True)
def rms_norm_backward_quant(
    d_y: Tensor,
    x: Tensor,
    rstd: Tensor,
    gamma: Tensor,
    scale_x: Tensor,
    *,
    offset_x: Tensor | None = None,
    div_mode: bool | None = True,
    quant_mode: str = "static",
    dst_type: int | None = 1,
) -> tuple[Tensor, Tensor]:
    """Return the gradients of an RMS normalisation, that of x quantised with a given scale."""
    reciprocal = rstd.reshape(*x.shape[: x.dim() - gamma.dim()], *[1] * gamma.dim())

    def normalise(values: Tensor, weight: Tensor) -> Tensor:
        dims = tuple(range(x.dim() - gamma.dim(), x.dim()))
        mean = values.square().mean(dims, keepdim=True)
        # the reciprocal that was saved, with the derivative of the formula
        factor = reciprocal - 0.5 * reciprocal**3 * (mean - mean.detach())
        return values * factor * weight

    d_x, d_gamma = gradients(normalise, [x.float(), gamma.float()], d_y.float())
    assert d_x is not None and d_gamma is not None
    form = format_of(dst_type, "_npu_rms_norm_backward_quant")
    return _static(d_x, scale_x, offset_x, div_mode is not False, form), d_gamma


@reference("npu_gelu_quant", checked=True)
def gelu_quant(
    x: Tensor,
    *,
    input_scale: Tensor | None = None,
    input_offset: Tensor | None = None,
    approximate: str = "none",
    quant_mode: str = "dynamic",
    dst_type: int | None = None,
    round_mode: str = "rint",
) -> tuple[Tensor, Tensor | None]:
    """Apply GELU and quantise rows, with given scales (`static`) or scales found after smoothing (`dynamic`)."""
    form = format_of(dst_type, "npu_gelu_quant")
    activated = F.gelu(x.float(), approximate=approximate)
    smoothed = activated if input_scale is None else activated * input_scale.float()
    if quant_mode == "static":
        return encode(smoothed if input_offset is None else smoothed + input_offset.float(), form, round_mode), None
    return quantize_rows(smoothed, form)


def swiglu(
    x: Tensor, left: bool, dim: int = -1, mode: int = 0, limit: float = 7.0, alpha: float = 1.702, bias: float = 1.0
) -> Tensor:
    """Gate one half of x with the other in float32.

    Args:
        x: to split along `dim`.
        left: whether the first half is the activated one.
        dim: see above.
        mode: 0 plain; 1 with clamps, `alpha` and `bias` on every second value; 2 the same on halves.
        limit: at which modes 1 and 2 clamp.
        alpha: factor in the sigmoid of modes 1 and 2.
        bias: added to what modes 1 and 2 multiply with.
    """
    if mode not in (0, 1, 2):
        raise RuntimeError(f"swiglu_mode must be 0, 1 or 2, got {mode}")
    if x.shape[dim] % 2:
        raise RuntimeError(f"SwiGLU needs an even size of dimension {dim}, got {x.shape[dim]}")
    values = x.float()
    if mode == 1:
        gate, other = (values.movedim(dim, -1)[..., start::2].movedim(-1, dim) for start in (0, 1))
    else:
        first, second = values.chunk(2, dim)
        gate, other = (first, second) if left else (second, first)
    if mode == 0:
        return F.silu(gate) * other
    gate, other = gate.clamp(max=limit), other.clamp(-limit, limit)
    return gate * torch.sigmoid(alpha * gate) * (other + bias)


@reference("npu_swiglu_quant", checked=True)
def swiglu_quant(
    x: Tensor,
    *,
    smooth_scales: Tensor | None = None,
    offsets: Tensor | None = None,
    group_index: Tensor | None = None,
    activate_left: bool = False,
    quant_mode: int = 0,
    group_list_type: int = 0,
    dst_type: torch.dtype | None = None,
) -> tuple[Tensor, Tensor]:
    """Apply SwiGLU and quantise rows, with scales and offsets of groups, given (`quant_mode` 0) or found (1).

    Scales that are found are those that the values were multiplied with.
    """
    name = "npu_swiglu_quant"
    if x.dim() < 2 or x.dtype not in FLOATS:
        raise RuntimeError(f"{name}: x must be float with 2 dimensions or more, got {x.dtype} of {list(x.shape)}")
    if quant_mode not in (0, 1):
        raise RuntimeError(f"{name}: quant_mode must be 0 (static) or 1 (dynamic), got {quant_mode}")
    form = format_of(dst_type, name)
    form = Format(form.name, form.largest, storage=torch.int8, smallest=form.low) if form is INT4 else form
    activated = swiglu(x, activate_left)
    rows = activated.flatten(0, -2)
    bounds = [(0, rows.shape[0])] if group_index is None else group_bounds(group_index, group_list_type, name)
    behind = torch.zeros(rows.shape[0], dtype=torch.bool)
    for group, (first, last) in enumerate(bounds):
        part = rows[first:last]
        if smooth_scales is not None:
            part = part * _of_group(smooth_scales, group)
        if offsets is not None and quant_mode == 0:
            part = part + _of_group(offsets, group)
        rows[first:last] = part
        behind[first:last] = True
    if quant_mode == 0:
        codes, scale = encode(rows, form), torch.zeros(rows.shape[0])
    else:
        codes, scale = quantize_rows(rows, form)
        scale = scale.reciprocal()
    codes = torch.where(behind.unsqueeze(1), codes, torch.zeros_like(codes))
    return codes.view(*x.shape[:-1], -1), scale.view(x.shape[:-1])


def _of_group(parameters: Tensor, group: int) -> Tensor:
    return parameters[group].float() if parameters.dim() == 2 or parameters.numel() > 1 else parameters.float()


@reference("npu_dequant_swiglu_quant", checked=True)
def dequant_swiglu_quant(
    x: Tensor,
    *,
    weight_scale: Tensor | None = None,
    activation_scale: Tensor | None = None,
    bias: Tensor | None = None,
    quant_scale: Tensor | None = None,
    quant_offset: Tensor | None = None,
    group_index: Tensor | None = None,
    activate_left: bool = False,
    quant_mode: int = 0,
    dst_type: int | None = None,
    round_mode: int | None = None,
    activate_dim: int | None = None,
    swiglu_mode: int = 0,
    clamp_limit: float = 7.0,
    glu_alpha: float = 1.702,
    glu_bias: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """Scale int32 sums back, apply SwiGLU and quantise; groups are sizes in `group_index`, with own scales.

    Given scales divide (`quant_mode` 0), smoothing ones multiply (1).
    """
    name = "npu_dequant_swiglu_quant"
    if x.dtype not in (torch.int32, torch.float16, torch.bfloat16):
        raise RuntimeError(f"{name}: x must be int32, float16 or bfloat16, got {x.dtype}")
    if x.dtype != torch.int32 and (activation_scale is not None or bias is not None):
        raise RuntimeError(f"{name}: activation_scale and bias go with int32 x, got {x.dtype}")
    if group_index is not None and bias is not None:
        raise RuntimeError(f"{name}: bias must be None with group_index")
    dim = (-1 if activate_dim is None else activate_dim) % x.dim()
    if group_index is not None and dim != x.dim() - 1:
        raise RuntimeError(f"{name}: activate_dim must be the last one with group_index")
    mode = ("rint", "round", "floor", "ceil", "trunc")[round_mode or 0]
    form = format_of(dst_type, name)
    shape = [size // 2 if i == dim else size for i, size in enumerate(x.shape)]
    rows = x.reshape(-1, x.shape[-1]) if dim == x.dim() - 1 else x
    bounds = [(0, rows.shape[0])] if group_index is None else group_bounds(group_index, 1, name)
    tokens = None if activation_scale is None else activation_scale.float().reshape(-1, 1)
    parts, scales = [], []
    for group, (first, last) in enumerate(bounds):
        part = rows[first:last]
        part = part + bias if bias is not None and bias.dtype == torch.int32 else part
        values = part.float()
        if weight_scale is not None:
            values = values * (weight_scale[group] if weight_scale.dim() == 2 else weight_scale).float()
        if tokens is not None:
            values = values * tokens[first:last].reshape(-1, *[1] * (values.dim() - 1))
        if bias is not None and bias.dtype != torch.int32:
            values = values + bias.float()
        activated = swiglu(
            values, activate_left, dim if rows is x else -1, swiglu_mode, clamp_limit, glu_alpha, glu_bias
        )
        smooth = None if quant_scale is None else _own(quant_scale, group)
        if quant_mode == 1:
            activated = activated if smooth is None else activated * smooth
            codes, scale = quantize_rows(activated, form)
        else:
            activated = activated if smooth is None else activated / smooth
            activated = activated if quant_offset is None else activated + _own(quant_offset, group)
            codes, scale = encode(activated, form, mode), torch.zeros(activated.shape[:-1])
        parts.append(codes)
        scales.append(scale)
    codes, scale = torch.cat(parts), torch.cat(scales)
    behind = rows.shape[0] - bounds[-1][1] if rows is not x or dim else 0
    if behind:
        codes = torch.cat([codes, torch.zeros(behind, *codes.shape[1:], dtype=codes.dtype)])
        scale = torch.cat([scale, torch.zeros(behind, *scale.shape[1:])])
    return codes.reshape(*shape[:-1], -1), scale.reshape(shape[:-1])


def _own(parameters: Tensor, group: int) -> Tensor:
    return (parameters[group] if parameters.dim() == 2 else parameters).float()


@reference("npu_swiglu_mx_quant", checked=True)
def swiglu_mx_quant(
    x: Tensor,
    *,
    group_index: Tensor | None = None,
    activate_dim: int = -1,
    activate_left: bool = False,
    swiglu_mode: int = 0,
    clamp_limit: float = 7.0,
    glu_alpha: float = 1.702,
    glu_bias: float = 1.0,
    group_mode: int = 0,
    axis: int = -1,
    dst_type: int = 296,
    round_mode: str = "rint",
    scale_alg: int = 0,
    max_dtype_value: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """Apply SwiGLU and quantise blocks of an axis with shared exponents; rows of groups do not share one."""
    form = format_of(dst_type, "npu_swiglu_mx_quant")
    activated = swiglu(x, activate_left, activate_dim, swiglu_mode, clamp_limit, glu_alpha, glu_bias).to(x.dtype)
    return _blocks_of_groups(
        activated, form, axis, round_mode, scale_alg, max_dtype_value, group_index, 0 if group_mode == 1 else 1
    )


@reference("npu_swiglu_mx_quant_with_dual_axis")
def swiglu_mx_quant_with_dual_axis(
    x: Tensor,
    *,
    group_index: Tensor | None = None,
    activate_left: bool = True,
    round_mode: str = "rint",
    scale_alg: int = 1,
    dst_type: int = 24,
    dst_type_max: float = 0.0,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Apply SwiGLU and quantise with shared exponents along the last axis, and along the one before."""
    form = format_of(dst_type, "npu_swiglu_mx_quant_with_dual_axis")
    activated = swiglu(x, activate_left).to(x.dtype)
    options = (round_mode, scale_alg, dst_type_max, group_index)
    return *_blocks_of_groups(activated, form, -1, *options), *_blocks_of_groups(activated, form, -2, *options)


@reference("_npu_swiglu_backward_mx_quant_with_dual_axis")
def swiglu_backward_mx_quant_with_dual_axis(
    x: Tensor,
    y_grad: Tensor,
    *,
    group_index: Tensor | None = None,
    activate_left: bool = True,
    round_mode: str = "rint",
    scale_alg: int = 1,
    dst_type: int = 24,
    dst_type_max: float = 0.0,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Quantise the gradient of SwiGLU's input along the last axis, and along the one before."""
    form = format_of(dst_type, "_npu_swiglu_backward_mx_quant_with_dual_axis")
    (gradient,) = gradients(lambda value: swiglu(value, activate_left), [x.float()], y_grad.float())
    assert gradient is not None
    options = (round_mode, scale_alg, dst_type_max, group_index)
    rounded = gradient.to(x.dtype)
    return *_blocks_of_groups(rounded, form, -1, *options), *_blocks_of_groups(rounded, form, -2, *options)


def _blocks_of_groups(
    values: Tensor,
    form: Format,
    axis: int,
    mode: str,
    algorithm: int,
    largest: float,
    group_index: Tensor | None,
    group_list_type: int = 0,
) -> tuple[Tensor, Tensor]:
    """Quantise blocks with shared exponents that do not cross the borders of groups of rows."""
    axis = axis % values.dim()
    if group_index is None or axis == values.dim() - 1:
        return encode_blocks(values, form, axis, 32, mode, algorithm, largest)
    rows = values.shape[axis]
    scales = torch.zeros(
        *values.shape[:axis], rows // 64 + group_index.shape[0], *values.shape[axis + 1 :], 2, dtype=torch.uint8
    )
    codes = torch.zeros(*values.shape[:-1], values.shape[-1] // form.packed, dtype=form.storage)
    for group, (first, last) in numbered_groups(group_index, group_list_type, "mx quantisation"):
        if last <= first:
            continue
        part, scale = encode_blocks(values.narrow(axis, first, last - first), form, axis, 32, mode, algorithm, largest)
        codes.narrow(axis, first, last - first).copy_(part)
        scales.narrow(axis, first // 64 + group, scale.shape[axis]).copy_(scale)
    return codes, scales


@reference("npu_swiglu_group_quant", checked=True)
def swiglu_group_quant(
    x: Tensor,
    *,
    weight: Tensor | None = None,
    group_index: Tensor | None = None,
    scale: Tensor | None = None,
    dst_type: int = 291,
    quant_mode: int = 0,
    block_size: int = 0,
    round_scale: bool = False,
    clamp_limit: float = -1.0,
    dst_type_max: float = 15.0,
    output_origin: bool = False,
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Apply SwiGLU, weight the rows and quantise each group to HiFloat8 with a given (2) or found (3) scale.

    Args:
        x: `[.., 2 n]`.
        weight: of each row.
        group_index: sizes of the groups of rows.
        scale: of the groups, for `quant_mode` 2.
        dst_type: not used: the result is HiFloat8.
        quant_mode: see above; others are not emulated.
        block_size: not used by these modes.
        round_scale: not used by these modes.
        clamp_limit: at which the halves are clamped first; below 0 not.
        dst_type_max: what the largest value of a group becomes.
        output_origin: whether to return the unquantised values too.
    """
    name = "npu_swiglu_group_quant"
    if quant_mode not in (2, 3):
        raise NotImplementedError(f"{name}: quant_mode {quant_mode} is not emulated, 2 and 3 are")
    values = x.float().flatten(0, -2)
    gate, other = values.chunk(2, -1)
    if clamp_limit > 0:
        gate, other = gate.clamp(max=clamp_limit), other.clamp(-clamp_limit, clamp_limit)
    activated = F.silu(gate) * other
    activated = activated if weight is None else activated * weight.float().reshape(-1, 1)
    grouped = group_index is not None and group_index.numel() > 0
    bounds = [(0, activated.shape[0])] if not grouped else group_bounds(group_index, 1, name)
    found = torch.zeros(len(bounds))
    codes = torch.zeros(activated.shape, dtype=torch.uint8)
    for group, (first, last) in enumerate(bounds):
        part = activated[first:last]
        if not part.numel():
            continue
        if quant_mode == 3:
            found[group] = part.abs().max().clamp(min=1e-8) / dst_type_max
            codes[first:last] = encode(part / found[group], HIFLOAT8)
        else:
            codes[first:last] = encode(part if scale is None else part / scale.flatten()[group].float(), HIFLOAT8)
    shape = (*x.shape[:-1], x.shape[-1] // 2)
    origin = activated.to(x.dtype).view(shape) if output_origin else None
    return codes.view(shape), found if quant_mode == 3 else torch.empty(0), origin


@reference("npu_swiglu_group_quant_backward", checked=True)
def swiglu_group_quant_backward(
    grad_y: Tensor,
    x: Tensor,
    *,
    weight: Tensor | None = None,
    y_origin: Tensor | None = None,
    group_index: Tensor | None = None,
    clamp_limit: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """Return the gradients of x and of the rows' weights, as if the values had not been quantised."""

    def activate(values: Tensor, rows: Tensor) -> Tensor:
        gate, other = values.chunk(2, -1)
        if clamp_limit > 0:
            gate, other = gate.clamp(max=clamp_limit), other.clamp(-clamp_limit, clamp_limit)
        return F.silu(gate) * other * rows

    flat = x.float().flatten(0, -2)
    given = weight is not None and weight.numel() > 0
    rows = weight.float().reshape(-1, 1) if given and weight is not None else torch.ones(flat.shape[0], 1)
    d_x, d_weight = gradients(activate, [flat, rows], grad_y.float().flatten(0, -2))
    assert d_x is not None and d_weight is not None
    if not given or weight is None:
        return d_x.view(x.shape).to(x.dtype), torch.zeros(0)
    return d_x.view(x.shape).to(x.dtype), d_weight.reshape(weight.shape).to(weight.dtype)


def _static(values: Tensor, scale: Tensor, offset: Tensor | None, divide: bool, form: Format) -> Tensor:
    factor = scale.float() if scale.numel() > 1 else scale.float().reshape(())
    scaled = values / factor if divide else values * factor
    scaled = scaled if offset is None else scaled + (offset if offset.numel() > 1 else offset.reshape(())).float()
    return encode(scaled, form)


def _same_type(name: str, **tensors: Tensor | None) -> None:
    types = {key: value.dtype for key, value in tensors.items() if value is not None}
    if len(set(types.values())) > 1:
        told = ", ".join(f"{key} {dtype}" for key, dtype in types.items())
        raise RuntimeError(f"{name}: {', '.join(types)} must have the same type, got {told}")
