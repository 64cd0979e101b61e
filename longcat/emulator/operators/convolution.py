"""torch_npu's own convolutions, transposed and deformable ones too, and their gradients."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from longcat.emulator.reference import check, gradients, reference

Three = tuple[Tensor | None, Tensor | None, Tensor | None]


@reference("npu_conv2d", "npu_conv3d", "npu_convolution")
def convolution(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
) -> Tensor:
    """Convolve `[batch, channels, *sizes]` with 1 to 3 sizes, as torch does; a bias may have a wider type."""
    _check("npu_convolution", x, weight, weight.shape[1] * groups)
    return _convolve(x, weight, bias, (stride, padding, dilation), groups)


@reference("npu_conv_transpose2d", "npu_convolution_transpose")
def convolution_transpose(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    padding: list[int],
    output_padding: list[int],
    stride: list[int],
    dilation: list[int],
    groups: int,
) -> Tensor:
    """Compute a transposed convolution of `[batch, channels, *sizes]`, as torch does."""
    _check("npu_convolution_transpose", x, weight, weight.shape[0])
    return _convolve(x, weight, bias, (stride, padding, dilation), groups, output_padding)


@reference("npu_conv2d_backward", "npu_conv3d_backward", "npu_convolution_backward")
def convolution_backward(
    x: Tensor,
    gradient: Tensor,
    weight: Tensor,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
    output_mask: list[bool],
) -> Three:
    """Return the gradients of x, weight and bias that are wanted."""
    none = [0] * (x.dim() - 2)
    return _gradients(x, gradient, weight, stride, padding, dilation, False, none, groups, output_mask)


@reference("npu_conv_transpose2d_backward", "npu_conv_transpose3d_backward", "npu_convolution_transpose_backward")
def convolution_transpose_backward(
    x: Tensor,
    gradient: Tensor,
    weight: Tensor,
    padding: list[int],
    output_padding: list[int],
    stride: list[int],
    dilation: list[int],
    groups: int,
    output_mask: list[bool],
) -> Three:
    """Return the gradients of x, weight and bias that are wanted."""
    return _gradients(x, gradient, weight, stride, padding, dilation, True, output_padding, groups, output_mask)


@reference("_conv_depthwise2d_backward")
def depthwise_backward(
    gradient: Tensor,
    x: Tensor,
    weight: Tensor,
    kernel_size: list[int],
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    output_mask: list[bool],
) -> tuple[Tensor | None, Tensor | None]:
    """Return the gradients of x and weight of a convolution whose channels are apart."""
    mask = [*output_mask, False]
    found = _gradients(x, gradient, weight, stride, padding, dilation, False, [0, 0], x.shape[1], mask)
    return found[0], found[1]


@reference("slow_conv_dilated2d_backward")
def dilated_backward(
    gradient: Tensor,
    x: Tensor,
    weight: Tensor,
    kernel_size: list[int],
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    output_mask: list[bool],
) -> Three:
    """Return the gradients of x, weight and bias of a convolution with dilation."""
    return _gradients(x, gradient, weight, stride, padding, dilation, False, [0, 0], 1, output_mask)


@reference("slow_conv_transpose2d_backward")
def transpose_backward(
    gradient: Tensor,
    x: Tensor,
    weight: Tensor,
    kernel_size: list[int],
    stride: list[int],
    padding: list[int],
    output_padding: list[int],
    dilation: list[int],
    output_mask: list[bool],
) -> Three:
    """Return the gradients of x, weight and bias of a transposed convolution."""
    return _gradients(x, gradient, weight, stride, padding, dilation, True, output_padding, 1, output_mask)


def _gradients(
    x: Tensor,
    gradient: Tensor,
    weight: Tensor,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    transposed: bool,
    output_padding: list[int],
    groups: int,
    mask: list[bool],
) -> Three:
    channels = weight.shape[1] * groups if transposed else weight.shape[0]
    wide = (t.float() if t.dtype.itemsize == 2 else t for t in (gradient, x, weight))
    geometry = (list(value)[2 - x.dim() :] for value in (stride, padding, dilation))
    found = torch.ops.aten.convolution_backward(*wide, [channels], *geometry, transposed, output_padding, groups, mask)
    d_x, d_weight, d_bias = (None if d is None else d.to(x.dtype) for d in found)
    return d_x, d_weight, d_bias


def _convolve(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    geometry: tuple[list[int], list[int], list[int]],
    groups: int,
    output_padding: list[int] | None = None,
) -> Tensor:
    """Convolve, transposed if there is an output padding; half precision is summed in float32.

    Stride, padding and dilation may name batch and channels as well.
    """
    kind = x.dtype
    if kind.itemsize == 2:
        x, weight, bias = x.float(), weight.float(), None if bias is None else bias.float()
    stride, padding, dilation = (list(value)[2 - x.dim() :] for value in geometry)
    more, transposed = output_padding or [0] * (x.dim() - 2), output_padding is not None
    return torch.convolution(x, weight, bias, stride, padding, dilation, transposed, more, groups).to(kind)


def _check(operator: str, x: Tensor, weight: Tensor, channels: int) -> None:
    check(x.dim() in (4, 5), operator, f"input has 4 or 5 dimensions, found {x.dim()}")
    check(weight.dim() == x.dim(), operator, f"weight has {x.dim()} dimensions, as input, found {weight.dim()}")
    check(x.shape[1] == channels, operator, f"the weight is for {channels} channels, found {x.shape[1]}")


@reference("npu_deformable_conv2d")
def deformable_conv2d(
    x: Tensor,
    weight: Tensor,
    offset: Tensor,
    bias: Tensor | None,
    kernel_size: list[int],
    stride: list[int],
    padding: list[int],
    dilation: tuple[int, ...] = (1, 1, 1, 1),
    groups: int = 1,
    deformable_groups: int = 1,
    modulated: bool = True,
) -> tuple[Tensor, Tensor]:
    """Convolve samples at places that are moved by offsets and weighted by masks (DCNv2, arXiv:1811.11168).

    Args:
        x: `[batch, channels, height, width]`.
        weight: `[channels out, channels / groups, kernel height, kernel width]`.
        offset: `[batch, 3 * deformable_groups * kernel height * kernel width, height out, width out]`: to the right,
            downwards, and the mask.
        bias: `[channels out]`.
        kernel_size: as the weight says.
        stride: of batch, channels, height, width.
        padding: above, below, left, right.
        dilation: of batch, channels, height, width.
        groups: of channels of the convolution.
        deformable_groups: of channels with offsets of their own.
        modulated: True; without masks a device has no kernel.

    Returns:
        The result, and the samples `[batch, channels, height out * kernel height, width out * kernel width]`.
    """
    check(x.dim() == offset.dim() == 4, "npu_deformable_conv2d", "input and offset have 4 dimensions")
    check(
        len(stride) == len(padding) == len(dilation) == 4,
        "npu_deformable_conv2d",
        "stride, padding and dilation have 4 numbers",
    )
    check(modulated, "npu_deformable_conv2d", "modulated is True")
    height, width = weight.shape[2:]
    samples = _samples(x, offset, (height, width), stride, padding, dilation, deformable_groups)
    result = F.conv2d(samples, weight, bias, (height, width), groups=groups)
    return result, samples


def _samples(
    x: Tensor,
    offset: Tensor,
    kernel: tuple[int, int],
    stride: list[int],
    padding: list[int],
    dilation: tuple[int, ...],
    groups: int,
) -> Tensor:
    """Return the samples that the kernel's places have for each result, side by side."""
    batch, channels, height, width = x.shape
    kernel_height, kernel_width = kernel
    rows, columns = offset.shape[2:]
    moved = offset.float().reshape(batch, 3, groups, kernel_height, kernel_width, rows, columns)
    column = torch.arange(columns) * stride[3] - padding[2] + (torch.arange(kernel_width) * dilation[3])[:, None, None]
    row = (torch.arange(rows) * stride[2] - padding[0])[:, None] + (torch.arange(kernel_height) * dilation[2])[
        :, None, None, None
    ]
    across, down, mask = moved[:, 0] + column, moved[:, 1] + row, moved[:, 2]
    left, top = across.detach().floor(), down.detach().floor()
    pixels = x.float().reshape(batch, groups, channels // groups, height * width)
    total = torch.zeros(())
    for dx, dy in ((0, 0), (1, 0), (0, 1), (1, 1)):
        at_x, at_y = left + dx, top + dy
        share = (1 - (across - at_x).abs()) * (1 - (down - at_y).abs())
        inside = (at_x >= 0) & (at_x < width) & (at_y >= 0) & (at_y < height)
        place = at_y.clamp(0, height - 1) * width + at_x.clamp(0, width - 1)
        index = place.long().reshape(batch, groups, 1, -1).expand(-1, -1, channels // groups, -1)
        value = pixels.gather(3, index).reshape(batch, groups, channels // groups, *place.shape[2:])
        total = total + value * torch.where(inside, share * mask, 0.0)[:, :, None]
    side = total.permute(0, 1, 2, 5, 3, 6, 4)
    return side.reshape(batch, channels, rows * kernel_height, columns * kernel_width).to(x.dtype)


@reference("npu_deformable_conv2dbk")
def deformable_conv2d_backward(
    x: Tensor,
    gradient: Tensor,
    samples: Tensor,
    weight: Tensor,
    offset: Tensor,
    kernel_size: list[int],
    stride: list[int],
    padding: list[int],
    dilation: tuple[int, ...] = (1, 1, 1, 1),
    groups: int = 1,
    deformable_groups: int = 1,
    modulated: bool = True,
) -> tuple[Tensor | None, Tensor | None, Tensor | None, Tensor]:
    """Return the gradients of x, weight, offset and bias."""

    def forward(x: Tensor, weight: Tensor, offset: Tensor) -> Tensor:
        options = stride, padding, dilation, groups, deformable_groups, modulated
        return deformable_conv2d(x, weight, offset, None, kernel_size, *options)[0]

    d_x, d_weight, d_offset = gradients(forward, [x, weight, offset], gradient)
    return d_x, d_weight, d_offset, gradient.sum((0, 2, 3))
