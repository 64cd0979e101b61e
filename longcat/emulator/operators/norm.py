"""Fused normalisation."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from longcat.emulator.reference import check, check_types, gradients, reference


@reference("npu_rms_norm")
def fused_rms_norm(x: Tensor, gamma: Tensor, epsilon: float = 1e-6) -> tuple[Tensor, Tensor]:
    """Compute `rms_norm` of the types that a device takes."""
    check_types("npu_rms_norm", (x.dtype, torch.float32), gamma=gamma)
    return rms_norm(x, gamma, epsilon)


def rms_norm(x: Tensor, gamma: Tensor, epsilon: float = 1e-6) -> tuple[Tensor, Tensor]:
    """Compute `x / rms(x) * gamma` over gamma's dimensions, and `1 / rms(x)` in float32 with those of size 1."""
    _check_last_dimensions("npu_rms_norm", x, gamma)
    dimensions = tuple(range(-gamma.dim(), 0))
    whole = x.float()
    reciprocal = torch.rsqrt(whole.square().mean(dimensions, keepdim=True) + epsilon)
    return (whole * reciprocal).mul_(gamma.float()).to(x.dtype), reciprocal


@reference("npu_rms_norm_backward")
def rms_norm_backward(d_y: Tensor, x: Tensor, gamma: Tensor, reciprocal: Tensor) -> tuple[Tensor, Tensor]:
    """Return the gradients of x, in its type, and of gamma, in float32."""
    dimensions = tuple(range(-gamma.dim(), 0))
    normal, scaled = x.float() * reciprocal, d_y.float() * gamma.float()
    product = d_y.float() * normal
    shared = (product * gamma.float()).mean(dimensions, keepdim=True)
    d_x = scaled.addcmul_(normal, shared, value=-1).mul_(reciprocal)
    return d_x.to(x.dtype), product.reshape(-1, *gamma.shape).sum(0)


def _check_last_dimensions(operator: str, x: Tensor, gamma: Tensor) -> None:
    check(
        0 < gamma.dim() <= x.dim() and x.shape[-gamma.dim() :] == gamma.shape,
        operator,
        f"gamma {list(gamma.shape)} must have the last dimensions of the input {list(x.shape)}",
    )


def _check_same(operator: str, x: Tensor, y: Tensor) -> None:
    check(
        x.shape == y.shape and x.dtype == y.dtype,
        operator,
        f"both inputs must be alike, got {x.dtype} {list(x.shape)} and {y.dtype} {list(y.shape)}",
    )


@reference("npu_add_rms_norm")
def add_rms_norm(x: Tensor, residual: Tensor, gamma: Tensor, epsilon: float = 1e-6) -> tuple[Tensor, Tensor, Tensor]:
    """Return the norm of a sum, `1 / rms`, and the sum."""
    _check_same("npu_add_rms_norm", x, residual)
    check_types("npu_add_rms_norm", (x.dtype,), gamma=gamma)
    total = x + residual
    return *rms_norm(total, gamma, epsilon), total


@reference("npu_add_rms_norm_cast")
def add_rms_norm_cast(
    x: Tensor, residual: Tensor, gamma: Tensor, epsilon: float = 1e-6
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the norm of a sum in float32 and in the input's type, `1 / rms`, and the sum."""
    normal, reciprocal, total = add_rms_norm(x, residual, gamma, epsilon)
    return normal.float(), normal, reciprocal, total


@reference("npu_add_rms_norm_v2")
def add_rms_norm_in_place(x: Tensor, residual: Tensor, gamma: Tensor, epsilon: float = 1e-6) -> Tensor:
    """Replace x by the norm of the sum and the residual by the sum; return `1 / rms`."""
    normal, reciprocal, total = add_rms_norm(x, residual, gamma, epsilon)
    x.copy_(normal)
    residual.copy_(total)
    return reciprocal


@reference("npu_add_rms_norm_v2_functional")
def add_rms_norm_functional(
    x: Tensor, residual: Tensor, gamma: Tensor, epsilon: float = 1e-6
) -> tuple[Tensor, Tensor, Tensor]:
    """Return `1 / rms`, the norm of the sum, and the sum."""
    normal, reciprocal, total = add_rms_norm(x, residual, gamma, epsilon)
    return reciprocal, normal, total


@reference("npu_gemma_rms_norm")
def gemma_rms_norm(x: Tensor, gamma: Tensor, epsilon: float = 1e-6) -> tuple[Tensor, Tensor]:
    """Compute `rms_norm` with a weight of `1 + gamma`."""
    return rms_norm(x, 1 + gamma.float(), epsilon)


def _layer_norm(x: Tensor, gamma: Tensor, beta: Tensor, epsilon: float) -> tuple[Tensor, Tensor, Tensor]:
    """Return the norm over gamma's dimensions, mean and inverse standard deviation, all in float32."""
    dimensions = tuple(range(-gamma.dim(), 0))
    variance, mean = torch.var_mean(x, dimensions, correction=0, keepdim=True)
    reciprocal = torch.rsqrt(variance + epsilon)
    return (x - mean) * reciprocal * gamma.float() + beta.float(), mean, reciprocal


def _layer_norm_backward(
    d_y: Tensor, x: Tensor, mean: Tensor, reciprocal: Tensor, gamma: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of x, gamma and beta in float32."""
    dimensions = tuple(range(-gamma.dim(), 0))
    normal, scaled = (x - mean) * reciprocal, d_y * gamma.float()
    through = scaled.mean(dimensions, keepdim=True) + normal * (scaled * normal).mean(dimensions, keepdim=True)
    sums = ((d_y * normal).reshape(-1, *gamma.shape).sum(0), d_y.reshape(-1, *gamma.shape).sum(0))
    return reciprocal * (scaled - through), *sums


@reference("npu_add_layer_norm")
def add_layer_norm(
    x: Tensor, residual: Tensor, gamma: Tensor, beta: Tensor, epsilon: float = 1e-5, additional_output: bool = False
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the layer norm of a sum, mean and inverse standard deviation (float32), and the sum."""
    check(x.shape == residual.shape, "npu_add_layer_norm", "both inputs must have one shape")
    _check_last_dimensions("npu_add_layer_norm", x, gamma)
    total = x.float() + residual.float()
    normal, mean, reciprocal = _layer_norm(total, gamma, beta, epsilon)
    dtype = torch.promote_types(x.dtype, residual.dtype)
    return normal.to(dtype), mean, reciprocal, total.to(dtype)


@reference("npu_add_layer_norm_backward")
def add_layer_norm_backward(
    d_y: Tensor | None,
    x: Tensor,
    residual: Tensor,
    reciprocal: Tensor,
    mean: Tensor,
    gamma: Tensor,
    d_sum: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the gradients of both inputs, gamma and beta (float32); those of results that were not used are None."""
    total = x.float() + residual.float()
    d_y = torch.zeros_like(total) if d_y is None else d_y.float()
    d_total, d_gamma, d_beta = _layer_norm_backward(d_y, total, mean, reciprocal, gamma)
    d_total = d_total if d_sum is None or not d_sum.numel() else d_total + d_sum.float()
    return d_total.to(x.dtype), d_total.to(residual.dtype), d_gamma, d_beta


@reference("npu_deep_norm")
def deep_norm(
    x: Tensor, gx: Tensor, beta: Tensor, gamma: Tensor, alpha: float = 0.3, epsilon: float = 1e-6
) -> tuple[Tensor, Tensor, Tensor]:
    """Return mean, inverse standard deviation (float32) and the layer norm of `alpha * x + gx`."""
    _check_same("npu_deep_norm", x, gx)
    _check_last_dimensions("npu_deep_norm", x, gamma)
    normal, mean, reciprocal = _layer_norm(alpha * x.float() + gx.float(), gamma, beta, epsilon)
    return mean, reciprocal, normal.to(x.dtype)


@reference("npu_deep_norm_backward")
def deep_norm_backward(
    d_y: Tensor, x: Tensor, gx: Tensor, gamma: Tensor, mean: Tensor, reciprocal: Tensor, alpha: float = 0.3
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the gradients of x, gx, beta and gamma."""
    total = alpha * x.float() + gx.float()
    d_total, d_gamma, d_beta = _layer_norm_backward(d_y.float(), total, mean, reciprocal, gamma)
    return (alpha * d_total).to(x.dtype), d_total.to(gx.dtype), d_beta.to(gamma.dtype), d_gamma.to(gamma.dtype)


@reference("npu_layer_norm_eval")
def layer_norm_eval(
    x: Tensor, normalized_shape: list[int], weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5
) -> Tensor:
    """Compute layer norm as torch does."""
    return F.layer_norm(x, normalized_shape, weight, bias, eps)


@reference("npu_layernorm_grad")
def layer_norm_grad(
    d_y: Tensor,
    x: Tensor,
    normalized_shape: list[int],
    mean: Tensor,
    reciprocal: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of x, weight and bias."""
    gamma = torch.ones(normalized_shape) if weight is None else weight
    shape = (*x.shape[: x.dim() - len(normalized_shape)], *[1] * gamma.dim())
    statistics = mean.float().view(shape), reciprocal.float().view(shape)
    d_x, d_gamma, d_beta = _layer_norm_backward(d_y.float(), x.float(), statistics[0], statistics[1], gamma)
    return d_x.to(x.dtype), d_gamma.to(gamma.dtype), d_beta.to(gamma.dtype)


@reference("npu_normalize_batch")
def normalize_batch(x: Tensor, seq_len: Tensor, normalize_type: int = 0) -> Tensor:
    """Normalise `[batch, features, tokens]` by the first tokens of each row, per feature (0) or over all of them (1)."""
    check(
        x.dim() == 3 and x.dtype == torch.float32 and seq_len.shape == x.shape[:1] and normalize_type in (0, 1),
        "npu_normalize_batch",
        "takes float32 [batch, features, tokens], lengths [batch], and normalize_type 0 or 1",
    )
    over = (-1,) if normalize_type == 0 else (-2, -1)
    rows = []
    for row, length in zip(x, seq_len.tolist(), strict=True):
        deviation, mean = torch.std_mean(row[:, :length], over, keepdim=True)
        rows.append((row - mean) / (deviation + 1e-5))
    return torch.stack(rows)


def _group_norm(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, groups: int, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the norm in float32, and mean and inverse standard deviation, `[batch, groups]`."""
    gamma, beta = (None if t is None else t.float() for t in (weight, bias))
    rest = x[0, 0].numel() if x.numel() else 0
    return torch.native_group_norm(x.float().contiguous(), gamma, beta, x.shape[0], x.shape[1], rest, groups, eps)


def _check_groups(operator: str, x: Tensor, groups: int) -> None:
    check(
        2 <= x.dim() <= 8 and groups > 0 and x.shape[1] % groups == 0,
        operator,
        f"takes 2 to 8 dimensions, the second a multiple of the groups ({groups}), got {list(x.shape)}",
    )


@reference("npu_group_norm_silu")
def group_norm_silu(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, group: int, eps: float = 1e-5
) -> tuple[Tensor, Tensor, Tensor]:
    """Return SiLU of the group norm, mean and inverse standard deviation."""
    _check_groups("npu_group_norm_silu", x, group)
    check_types("npu_group_norm_silu", (x.dtype, torch.float32), weight=weight, bias=bias)
    check(eps > 0, "npu_group_norm_silu", f"eps must be positive, got {eps}")
    normal, mean, reciprocal = _group_norm(x, weight, bias, group, eps)
    dtype = x.dtype if weight is None or bias is None else weight.dtype
    return F.silu(normal).to(x.dtype), mean.to(dtype), reciprocal.to(dtype)


@reference("npu_group_norm_swish")
def group_norm_swish(
    x: Tensor, num_groups: int, weight: Tensor, bias: Tensor, eps: float = 1e-5, swish_scale: float = 1.0
) -> tuple[Tensor, Tensor, Tensor]:
    """Return `n * sigmoid(swish_scale * n)` of the group norm n, mean and inverse standard deviation."""
    _check_groups("npu_group_norm_swish", x, num_groups)
    check(weight.dtype == bias.dtype == x.dtype, "npu_group_norm_swish", "weight and bias must have the input's dtype")
    normal, mean, reciprocal = _group_norm(x, weight, bias, num_groups, eps)
    return (normal * torch.sigmoid(swish_scale * normal)).to(x.dtype), mean.to(x.dtype), reciprocal.to(x.dtype)


@reference("npu_group_norm_swish_grad")
def group_norm_swish_grad(
    d_y: Tensor,
    x: Tensor,
    num_groups: int,
    weight: Tensor,
    bias: Tensor,
    mean: Tensor,
    reciprocal: Tensor,
    grad_input_mask: list[bool],
    swish_scale: float = 1.0,
) -> tuple[Tensor | None, ...]:
    """Return the gradients of x, weight and bias, as far as they are wanted."""

    def function(values: Tensor, gamma: Tensor, beta: Tensor) -> Tensor:
        apart = values.reshape(*mean.shape, -1)
        normal = ((apart - apart.mean(-1, keepdim=True)) / _deviation(apart, reciprocal)).view(values.shape)
        normal = normal * _per_channel(gamma, x) + _per_channel(beta, x)
        return normal * torch.sigmoid(swish_scale * normal)

    found = gradients(function, [x.float(), weight.float(), bias.float()], d_y.float())
    return tuple(
        t.to(x.dtype) if wanted and t is not None else None for t, wanted in zip(found, grad_input_mask, strict=True)
    )


def _deviation(apart: Tensor, reciprocal: Tensor) -> Tensor:
    """Return the standard deviation with the epsilon that is in the given reciprocal, as a function of the values."""
    variance = apart.var(-1, correction=0, keepdim=True)
    epsilon = (reciprocal.float().unsqueeze(-1) ** -2 - variance).detach()
    return (variance + epsilon).sqrt()


@reference("npu_renorm_backward")
def renorm_backward(d_y: Tensor, x: Tensor, p: float, dim: int, maxnorm: float) -> Tensor | None:
    """Return the gradient of `torch.renorm`."""
    return gradients(lambda t: torch.renorm(t, p, dim, maxnorm), [x], d_y)[0]


@reference("batch_norm_reduce")
def batch_norm_reduce(x: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Return sum and sum of squares of each channel in float32."""
    check(x.dim() > 1, "batch_norm_reduce", f"the dim input tensor must more than 1, got {x.dim()}")
    return _sums(x), _sums(x.float().square())


@reference("batch_norm_gather_stats_update")
def batch_norm_gather_stats_update(
    x: Tensor,
    sums: Tensor,
    squares: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    momentum: float,
    eps: float,
    counts: Tensor,
) -> tuple[Tensor, Tensor]:
    """Return mean and inverse standard deviation from all ranks' sums `[ranks, channels]`; update running ones."""
    total = counts.sum()
    mean = sums.sum(0) / total
    variance = squares.sum(0) / total - mean**2
    _update_running(running_mean, running_var, mean, variance, total, momentum)
    return mean, (variance + eps).rsqrt()


def _update_running(
    running_mean: Tensor | None,
    running_var: Tensor | None,
    mean: Tensor,
    variance: Tensor,
    total: Tensor,
    momentum: float,
) -> None:
    if running_mean is not None:
        running_mean.lerp_(mean.to(running_mean.dtype), momentum)
    if running_var is not None:
        running_var.lerp_((variance * total / (total - 1)).to(running_var.dtype), momentum)


def _per_channel(statistic: Tensor, x: Tensor) -> Tensor:
    """Reshape `[channels]` to broadcast over `[batch, channels, ...]`."""
    return statistic.reshape(1, -1, *[1] * (x.dim() - 2))


def _sums(x: Tensor) -> Tensor:
    return x.float().transpose(0, 1).flatten(1).sum(1)


@reference("batch_norm_stats")
def batch_norm_stats(x: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Return mean and inverse standard deviation per channel, which synchronized batch norm gathers from all ranks."""
    variance, mean = torch.var_mean(x.float().transpose(0, 1).flatten(1), 1, correction=0)
    return mean, (variance + eps).rsqrt()


@reference("batch_norm_gather_stats_with_counts")
def batch_norm_gather_stats_with_counts(
    x: Tensor,
    mean: Tensor,
    invstd: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    momentum: float,
    eps: float,
    counts: Tensor,
) -> tuple[Tensor, Tensor]:
    """Combine the statistics `[ranks, channels]` of all ranks, and update the running statistics."""
    total, weights = counts.sum(), counts.reshape(-1, 1)
    whole = (mean * weights).sum(0) / total
    variance = ((invstd**-2 - eps + (mean - whole) ** 2) * weights).sum(0) / total
    _update_running(running_mean, running_var, whole, variance, total, momentum)
    return whole, (variance + eps).rsqrt()


@reference("batch_norm_elemt")
def batch_norm_elemt(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, mean: Tensor, invstd: Tensor, eps: float
) -> Tensor:
    """Normalise with the given statistics."""
    y = (x.float() - _per_channel(mean, x)) * _per_channel(invstd, x)
    y = y if weight is None else y * _per_channel(weight, x)
    return (y if bias is None else y + _per_channel(bias, x)).to(x.dtype)


@reference("batch_norm_backward_reduce")
def batch_norm_backward_reduce(
    d_y: Tensor, x: Tensor, mean: Tensor, invstd: Tensor, weight: Tensor | None, *wanted: bool
) -> tuple[Tensor, ...]:
    """Return this rank's sums of the gradient and of its product with `x - mean`, and gradients of weight and bias."""
    sums, products = _sums(d_y), _sums(d_y.float() * (x - _per_channel(mean, x)))
    dtype = x.dtype if weight is None else weight.dtype
    return sums, products, (products * invstd).to(dtype), sums.to(dtype)


@reference("batch_norm_backward_elemt")
def batch_norm_backward_elemt(
    d_y: Tensor,
    x: Tensor,
    mean: Tensor,
    invstd: Tensor,
    weight: Tensor | None,
    sums: Tensor,
    products: Tensor,
    count: Tensor,
) -> Tensor:
    """Return the gradient of x, from the sums of all ranks."""
    total = count.sum()
    through_mean = _per_channel(sums / total, x)
    through_deviation = (x.float() - _per_channel(mean, x)) * _per_channel(products / total * invstd**2, x)
    scale = invstd if weight is None else invstd * weight
    return ((d_y.float() - through_mean - through_deviation) * _per_channel(scale, x)).to(x.dtype)
