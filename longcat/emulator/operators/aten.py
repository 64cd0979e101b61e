"""aten operators that torch_npu implements itself, or that have no CPU kernel of that name."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from longcat.emulator.reference import gradients, operator_of, reference

_TYPE_NAMES = {torch.float16: "Half", torch.bfloat16: "BFloat16", torch.float32: "Float", torch.float64: "Double"}
"""Names of types in torch's messages."""


@reference("matmul_backward", differentiable=True)
def matmul_backward(
    gradient: Tensor | None, x: Tensor, y: Tensor, mask: list[bool]
) -> tuple[Tensor | None, Tensor | None]:
    """Return the gradients of `x @ y`, which torch_npu differentiates as one operator.

    Composed here: torch_npu's own formula for the gradients of these loses tangents without a word.
    """
    if gradient is None:
        return None, None
    if x.dim() >= 2 and y.dim() == 2:  # linear layers: one product each, without the leading dimensions
        d_x = gradient @ y.mT if mask[0] else None
        d_y = x.flatten(0, -2).mT @ gradient.flatten(0, -2) if mask[1] else None
        return d_x, d_y
    left, right = x[None] if x.dim() == 1 else x, y[:, None] if y.dim() == 1 else y
    batch = torch.broadcast_shapes(left.shape[:-2], right.shape[:-2])
    gradient = gradient.reshape(*batch, left.shape[-2], right.shape[-1])
    if not left.shape[:-2] == right.shape[:-2] == batch:  # what is summed is not rounded before
        gradient, left, right = (t.float() if t.dtype.itemsize == 2 else t for t in (gradient, left, right))
    d_x = (gradient @ right.mT).sum_to_size(left.shape).reshape(x.shape).to(x.dtype) if mask[0] else None
    d_y = (left.mT @ gradient).sum_to_size(right.shape).reshape(y.shape).to(y.dtype) if mask[1] else None
    return d_x, d_y


@reference("fft_r2c_backward", differentiable=True)
def fft_r2c_backward(
    gradient: Tensor, dim: list[int], normalization: int, onesided: bool, last_dim_size: int
) -> Tensor:
    """Return the gradient of the real input; the omitted half of the spectrum has no gradient."""
    last = dim[-1] % gradient.dim()
    if onesided:
        missing = [0, 0] * (gradient.dim() - 1 - last) + [0, last_dim_size - gradient.shape[last]]
        gradient = torch.constant_pad_nd(gradient, missing)
    return torch.real(torch._fft_c2c(gradient, dim, normalization, False))


@reference("fft_c2r_backward", differentiable=True)
def fft_c2r_backward(gradient: Tensor, dim: list[int], normalization: int) -> Tensor:
    """Return the gradient of the half spectrum, whose inner values represent two frequencies each."""
    spectrum = torch._fft_r2c(gradient, dim, normalization, True)
    last = dim[-1] % gradient.dim()
    inner = torch.arange(spectrum.shape[last], device=spectrum.device)
    twice = (inner > 0) & (inner <= gradient.shape[last] - spectrum.shape[last])
    return spectrum * (1.0 + twice).reshape(-1, *[1] * (gradient.dim() - 1 - last)).to(gradient.dtype)


@reference("_thnn_fused_lstm_cell")
def lstm_cell(
    x: Tensor, hidden: Tensor, cell: Tensor, x_bias: Tensor | None = None, hidden_bias: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute an LSTM cell from the products of input and hidden state with their weights, `[batch, 4 * size]`.

    Returns:
        Hidden state, cell, and the gates after their activations.
    """
    gates = x + hidden if x_bias is None or hidden_bias is None else x + hidden + x_bias + hidden_bias
    enter, forget, candidate, leave = gates.chunk(4, 1)
    enter, forget, leave = enter.sigmoid(), forget.sigmoid(), leave.sigmoid()
    candidate = candidate.tanh()
    new = forget * cell + enter * candidate
    return leave * new.tanh(), new, torch.cat([enter, forget, candidate, leave], 1)


@reference("_thnn_fused_lstm_cell_backward_impl")
def lstm_cell_backward(
    d_hidden: Tensor | None, d_new: Tensor | None, cell: Tensor, new: Tensor, gates: Tensor, has_bias: bool
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return the gradients of the gates before their activations, of the old cell and of a bias."""
    enter, forget, candidate, leave = gates.chunk(4, 1)
    d_hidden = torch.zeros_like(new) if d_hidden is None else d_hidden
    d_cell = d_hidden * leave * (1 - new.tanh() ** 2) + (0 if d_new is None else d_new)
    d_gates = torch.cat(
        [
            d_cell * candidate * enter * (1 - enter),
            d_cell * cell * forget * (1 - forget),
            d_cell * enter * (1 - candidate**2),
            d_hidden * new.tanh() * leave * (1 - leave),
        ],
        1,
    )
    return d_gates, d_cell * forget, d_gates.sum(0) if has_bias else None


@reference("npu_dtype_cast", "_npu_dtype_cast")
def dtype_cast(x: Tensor, dtype: torch.dtype | int, input_dtype: int | None = None) -> Tensor:
    """Convert to a type as torch_npu's autocast and collectives do; `dtype` may be the type's number."""
    if input_dtype is not None or (isinstance(dtype, int) and dtype > 40):
        raise NotImplementedError("npu_dtype_cast: types that torch has not are not emulated")
    return x.to(torch.ops.aten.zeros([0], dtype=dtype).dtype)


@reference("npu_dtype_cast_backward", "_npu_dtype_cast_backward", differentiable=True)
def dtype_cast_backward(gradient: Tensor, dtype: torch.dtype, *kinds: int | None) -> Tensor:
    """Return the gradient in the type before the cast. Composed: with `create_graph` it always has a graph."""
    if torch.is_grad_enabled() and gradient.is_floating_point():
        gradient.requires_grad_()
    return operator_of("_npu_dtype_cast")(gradient, dtype)


@reference("stft_backward")
def stft_backward(
    gradient: Tensor,
    x: Tensor,
    n_fft: int,
    hop_length: int | None = None,
    win_length: int | None = None,
    window: Tensor | None = None,
    normalized: bool = False,
    onesided: bool | None = None,
    return_complex: bool | None = None,
) -> Tensor | None:
    """Return the gradient of x, of which short-time Fourier transforms were made without padding."""

    def forward(t: Tensor) -> Tensor:
        return torch.ops.aten.stft.default(
            t, n_fft, hop_length, win_length, window, normalized, onesided, return_complex
        )

    return gradients(forward, [x], gradient)[0]


@reference("npu_gather_backward", differentiable=True)
def gather_backward(gradient: Tensor, sizes: list[int], dim: int, index: Tensor, sparse_grad: bool) -> Tensor:
    """Scatter the gradient to the gathered places, or keep it sparse. Composed, as torch_npu has no derivative of it."""
    if sparse_grad:
        return torch.ops.aten._gather_sparse_backward(gradient.new_empty(()).expand(sizes), dim, index, gradient)
    return gradient.new_zeros(sizes).scatter_add(dim, index, gradient)


@reference("npu_binary_cross_entropy_with_logits_backward", differentiable=True)
def binary_cross_entropy_with_logits_backward(
    gradient: Tensor, x: Tensor, target: Tensor, weight: Tensor | None, pos_weight: Tensor | None, reduction: int
) -> Tensor:
    """Return the gradient of the logits; `reduction` is 0 (none), 1 (mean) or 2 (sum). Composed: differentiable.

    In 16 bits it is rounded once.
    """
    kind, wide = x.dtype, x.dtype if x.dtype.itemsize > 2 else torch.float32
    gradient, x, target = (t.to(wide) for t in (gradient, x, target))
    yes = target if pos_weight is None else pos_weight.to(wide) * target
    d_x = ((yes + 1 - target) * x.sigmoid() - yes) * gradient
    d_x = d_x if weight is None else d_x * weight.to(wide)
    return (d_x / x.numel() if reduction == 1 else d_x).to(kind)


@reference("mm.dtype", "bmm.dtype")
def mm_dtype(x: Tensor, y: Tensor, out_dtype: torch.dtype) -> Tensor:
    """Multiply matrices with a wider result type; on a CPU the factors are converted first."""
    return x.to(out_dtype) @ y.to(out_dtype)


@reference("addmm.dtype", "baddbmm.dtype")
def addmm_dtype(
    added: Tensor, x: Tensor, y: Tensor, out_dtype: torch.dtype, *, beta: float = 1, alpha: float = 1
) -> Tensor:
    """Add a tensor to a matrix product with a wider result type."""
    return beta * added.to(out_dtype) + alpha * (x.to(out_dtype) @ y.to(out_dtype))


@reference("histc")
def histc(x: Tensor, bins: int = 100, min: float = 0, max: float = 0) -> Tensor:
    """Compute a histogram, also of integers, for which the CPU has no kernel."""
    return torch.histc(x if x.is_floating_point() else x.double(), bins, min, max).to(x.dtype)


@reference("prod", "prod.dim_int")
def product(x: Tensor, *dimension: Any, dtype: torch.dtype | None = None) -> Tensor:
    """Multiply all elements, or those along a dimension; in 16 bits the product is rounded once."""
    kind = dtype or (x.dtype if x.is_floating_point() or x.is_complex() else torch.int64)
    wide = torch.float32 if kind in (torch.float16, torch.bfloat16) else kind
    result: Tensor = torch.prod(x, *dimension, dtype=wide)
    return result.to(kind)


@reference("prod.out", "prod.int_out")
def product_out(x: Tensor, *dimension: Any, dtype: torch.dtype | None = None, out: Tensor) -> Tensor:
    """Write the product into `out`, of whose type it is if no other one is named."""
    result = product(x, *dimension, dtype=dtype or out.dtype)
    return out.resize_(result.shape).copy_(result)


@reference("hardsigmoid")
def hardsigmoid(x: Tensor) -> Tensor:
    """Compute `min(max(x / 6 + 1 / 2, 0), 1)`, also of whole numbers, for which the result is cut."""
    return torch.nn.functional.hardsigmoid(x if x.is_floating_point() else x.float()).to(x.dtype)


@reference("hardsigmoid_")
def hardsigmoid_in_place(x: Tensor) -> Tensor:
    """Replace x by its hard sigmoid."""
    return x.copy_(hardsigmoid(x))


@reference("hardsigmoid.out")
def hardsigmoid_out(x: Tensor, *, out: Tensor) -> Tensor:
    """Write the hard sigmoid of x into `out`."""
    return out.resize_(x.shape).copy_(hardsigmoid(x))


@reference("inverse", differentiable=True)
def inverse(x: Tensor) -> Tensor:
    """Invert matrices; those of half floats in 32 bits, rounded once. Composed: differentiable."""
    return torch.linalg.inv(x.float()).half() if x.dtype == torch.float16 else torch.linalg.inv(x)


@reference("inverse.out", differentiable=True)
def inverse_out(x: Tensor, *, out: Tensor) -> Tensor:
    """Write inverted matrices into `out`."""
    return out.resize_(x.shape).copy_(inverse(x))


@reference("_cdist_backward")
def distances_backward(gradient: Tensor, x: Tensor, y: Tensor, p: float, distances: Tensor) -> Tensor:
    """Return the gradient of x `[..., n, size]`, of whose p-norm distances to y `[..., k, size]` a gradient is given.

    In 16 bits it is rounded once. With p = inf all coordinates count that differ by no less than the distance, which
    may have been rounded.
    """
    gradient, wide, y, distances = (t.float() if t.dtype.itemsize == 2 else t for t in (gradient, x, y, distances))
    if p != float("inf"):
        result: Tensor = torch.ops.aten._cdist_backward(gradient, wide, y, p, distances)
        return result.to(x.dtype)
    difference = wide[..., :, None, :] - y[..., None, :, :]
    decisive = difference.abs() >= distances[..., None]
    return (gradient[..., None] * difference.sign() * decisive).sum(-2).to(x.dtype)


@reference("renorm")
def renorm(x: Tensor, p: float, dim: int, maxnorm: float) -> Tensor:
    """Scale slices along a dimension down to a p-norm of `maxnorm`; with p = 0 to so many elements that are not 0."""
    if p != 0:
        result: Tensor = torch.ops.aten.renorm(x, p, dim, maxnorm)
        return result
    others = [i for i in range(x.dim()) if i != dim % x.dim()]
    counts = (x != 0).sum(others, keepdim=True).float()
    return (x.float() * torch.where(counts > maxnorm, maxnorm / (counts + 1e-7), 1.0)).to(x.dtype)


@reference("renorm_")
def renorm_in_place(x: Tensor, p: float, dim: int, maxnorm: float) -> Tensor:
    """Replace x by its slices that are scaled down."""
    return x.copy_(renorm(x, p, dim, maxnorm))


@reference("renorm.out")
def renorm_out(x: Tensor, p: float, dim: int, maxnorm: float, *, out: Tensor) -> Tensor:
    """Write the slices that are scaled down into `out`."""
    return out.resize_(x.shape).copy_(renorm(x, p, dim, maxnorm))


@reference("div_.Scalar")
def divide_in_place(x: Tensor, divisor: float) -> Tensor:
    """Divide in place by a number; whole numbers too, which are cut, as HCCL's averages of them need it."""
    if x.is_floating_point() or x.is_complex() or x.dtype == torch.bool:
        return x.div_(divisor)
    return x.copy_(x / divisor)


@reference("one_hot", differentiable=True)
def one_hot(indices: Tensor, num_classes: int = -1) -> Tensor:
    """Write indices as rows of zeros and a one, of the indices' type, which may be of 32 bits on a device."""
    wide = indices.long() if indices.dtype == torch.int32 else indices
    return torch.nn.functional.one_hot(wide.cpu(), num_classes).to(indices)


@reference("_embedding_bag", "_embedding_bag_forward_only")
def embedding_bag(
    weight: Tensor,
    indices: Tensor,
    offsets: Tensor,
    scale_grad_by_freq: bool = False,
    mode: int = 0,
    sparse: bool = False,
    per_sample_weights: Tensor | None = None,
    include_last_offset: bool = False,
    padding_idx: int = -1,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Reduce embeddings by bags on the CPU; weights of another type than the embeddings are refused in a device's words."""
    if per_sample_weights is not None and per_sample_weights.dtype != weight.dtype:
        expected, found = (_TYPE_NAMES.get(t.dtype, str(t.dtype)) for t in (weight, per_sample_weights))
        raise RuntimeError(f"expected scalar type {expected} but found {found}")
    options = (scale_grad_by_freq, mode, sparse, per_sample_weights, include_last_offset, padding_idx)
    results: tuple[Tensor, Tensor, Tensor, Tensor] = torch.ops.aten._embedding_bag(weight, indices, offsets, *options)
    return results


@reference("scaled_dot_product_attention", differentiable=True)
def scaled_dot_product_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """Attend by the CPU's flash attention if it applies, else torch's composition; `[batch, heads, tokens, size]`.

    Of distributed tensors each device attends from its own rows and heads. A graph that is traced has the composition:
    no operator of the CPU is in a device's graph.
    """
    if type(query) is not Tensor and hasattr(query, "device_mesh"):
        return _distributed_attention(query, key, value, attn_mask, dropout_p, is_causal, scale, enable_gqa)
    flash = (
        type(query) in (Tensor, torch.nn.Parameter)  # none that traces
        and query.dim() == 4
        and dropout_p == 0.0
        and attn_mask is None
        and query.shape[1] == key.shape[1] == value.shape[1]
        and query.shape[-1] == value.shape[-1]
        and query.numel() > 0
        and key.numel() > 0
    )
    if flash:
        operator = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
        return operator(query, key, value, 0.0, is_causal, scale=scale)[0]
    if attn_mask is not None and attn_mask.dtype == torch.bool:  # True: attended to
        attn_mask = torch.zeros_like(attn_mask, dtype=query.dtype).masked_fill_(~attn_mask, -torch.inf)
    operator = torch.ops.aten._scaled_dot_product_attention_math
    return operator(query, key, value, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa)[0]


def _distributed_attention(
    query: Any, key: Any, value: Any, attn_mask: Any, dropout_p: float, is_causal: bool, scale: float | None, gqa: bool
) -> Tensor:
    """Attend from what each device has of distributed tensors: rows and heads stay apart, all else is gathered."""
    from torch.distributed.tensor import DTensor, Replicate, Shard

    mesh = query.device_mesh
    apart: list[Any] = []
    for axis, placement in enumerate(query.placements):
        heads = key.shape[1] if isinstance(key, Tensor) else 0
        even = placement in (Shard(0), Shard(-query.dim())) or heads % mesh.size(axis) == 0
        dimension = placement.dim % query.dim() if isinstance(placement, Shard) else None
        apart.append(Shard(dimension) if query.dim() == 4 and dimension in (0, 1) and even else Replicate())

    def local(tensor: Any, placements: list[Any]) -> Tensor:
        if not isinstance(tensor, DTensor):
            tensor = DTensor.from_local(tensor, mesh, [Replicate()] * mesh.ndim, run_check=False)
        part: Tensor = tensor.redistribute(mesh, placements).to_local()
        return part

    if attn_mask is not None:  # as far as it has the dimensions that are apart
        missing = query.dim() - attn_mask.dim()
        of_mask = [
            Shard(p.dim - missing)
            if isinstance(p, Shard) and p.dim >= missing and attn_mask.shape[p.dim - missing] > 1
            else Replicate()
            for p in apart
        ]
        attn_mask = local(attn_mask, of_mask)
    result = scaled_dot_product_attention(
        *(local(tensor, apart) for tensor in (query, key, value)),
        attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=gqa,
    )  # fmt: skip
    whole: Tensor = DTensor.from_local(result, mesh, apart, run_check=False)
    return whole
