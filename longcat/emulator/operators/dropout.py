"""Dropout with masks that are kept, softmax fused with it, and random fills."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from longcat.emulator.reference import check, draw, kept, operator_of, reference

BITS_ALIGNED = 128
"""A packed mask is a multiple of so many bits long."""


def packed(keep: Tensor) -> Tensor:
    """Pack booleans into bytes, lowest bit first, padded with 0 to a multiple of 128 bits."""
    bits = keep.flatten().to(torch.uint8)
    bits = torch.cat((bits, bits.new_zeros(-bits.numel() % BITS_ALIGNED))).view(-1, 8)
    return (bits << torch.arange(8, dtype=torch.uint8)).sum(1, dtype=torch.uint8)


def unpacked(mask: Tensor, count: int) -> Tensor:
    """Return the first `count` booleans of a packed mask."""
    check(
        mask.dtype == torch.uint8 and mask.numel() * 8 >= count,
        "dropout",
        f"the mask must hold {count} bits in uint8, got {mask.numel()} of {mask.dtype}",
    )
    return ((mask.flatten()[:, None] >> torch.arange(8, dtype=torch.uint8)) & 1).flatten()[:count].bool()


def scaled(x: Tensor, keep: Tensor, p: float) -> Tensor:
    """Return x where it is kept, divided by the share that is."""
    if p == 0:
        return x.clone()
    return torch.zeros_like(x) if p >= 1 else x * keep.view(x.shape) / (1 - p)


def _check_probability(operator: str, p: float) -> None:
    check(0 <= p <= 1, operator, f"dropout probability has to be between 0 and 1, but got {p}")


@reference("_npu_dropout")
def dropout(x: Tensor, p: float) -> tuple[Tensor, Tensor]:
    """Drop elements with probability p and scale the others by `1 / (1 - p)`; also return the packed mask."""
    _check_probability("_npu_dropout", p)
    keep = kept(*draw(), x.numel(), 1 - p)
    return scaled(x, keep, p), packed(keep)


@reference("npu_dropout_do_mask")
def dropout_do_mask(x: Tensor, mask: Tensor, p: float) -> tuple[Tensor, Tensor]:
    """Drop by a packed mask, which is returned too."""
    return scaled(x, unpacked(mask, x.numel()), p), mask


@reference("npu_dropout_backward")
def dropout_backward(d_y: Tensor, mask: Tensor, p: float) -> Tensor:
    """Return the gradient of x, which passes through kept elements only."""
    return scaled(d_y, unpacked(mask, d_y.numel()), p)


@reference("_dropout_with_byte_mask")
def dropout_with_byte_mask(x: Tensor, p: float) -> tuple[Tensor, Tensor]:
    """Drop elements; the mask has a byte for each, 1 where it is kept."""
    _check_probability("_dropout_with_byte_mask", p)
    keep = kept(*draw(), x.numel(), 1 - p)
    return scaled(x, keep, p), keep.view(x.shape).to(torch.uint8)


@reference("_dropout_with_byte_mask_backward")
def dropout_with_byte_mask_backward(d_y: Tensor, mask: Tensor, p: float) -> Tensor:
    """Return the gradient of x."""
    return scaled(d_y, mask.bool(), p)


@reference("dropout_with_byte_mask", differentiable=True)
def dropout_with_byte_mask_in_training(x: Tensor, p: float, train: bool) -> Tensor:
    """Drop elements in training."""
    if not train or p == 0:
        return x
    result: Tensor = operator_of("_dropout_with_byte_mask")(x, p)[0]
    return result


@reference("_npu_dropout_gen_mask.Tensor")
def gen_mask(
    x: Tensor,
    size: list[int],
    p: float,
    seed: int,
    offset: int,
    *,
    parallel: bool | None = True,
    sync: bool | None = None,
) -> Tensor:
    """Return the packed mask that fused attention uses for this seed and offset."""
    _check_probability("_npu_dropout_gen_mask", p)
    return packed(kept(seed, offset, torch.Size(size).numel(), 1 - p))


@reference("npu_dropout_gen_mask", factory=True)
def gen_mask_without_input(size: list[int], p: float, *, device: Any = None, **others: Any) -> Tensor:
    """Return a packed mask of the generator's own seed on the device."""
    _check_probability("npu_dropout_gen_mask", p)
    mask = packed(kept(*draw(), torch.Size(size).numel(), 1 - p))
    return mask.to(device or torch._C._get_privateuse1_backend_name())


@reference("npu_dropout_with_add_softmax")
def dropout_with_add_softmax(
    x: Tensor, added: Tensor, alpha: float, prob: float, dim: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Return a byte for each element that is kept, the softmax of `added + alpha * x`, and that after dropout."""
    check(
        x.shape == added.shape,
        "npu_dropout_with_add_softmax",
        f"both inputs must have one shape, got {list(x.shape)} and {list(added.shape)}",
    )
    _check_probability("npu_dropout_with_add_softmax", prob)
    probabilities = torch.add(added.float(), x.float(), alpha=alpha).softmax(dim).to(x.dtype)
    keep = kept(*draw(), x.numel(), 1 - prob)
    return keep.to(torch.uint8), probabilities, scaled(probabilities, keep, prob)


@reference("npu_dropout_with_add_softmax_backward")
def dropout_with_add_softmax_backward(
    d_y: Tensor, mask: Tensor, probabilities: Tensor, alpha: float, prob: float, dim: int
) -> tuple[Tensor, Tensor]:
    """Return the gradients of both inputs."""
    d_added = softmax_backward(scaled(d_y.float(), mask.bool(), prob), probabilities.float(), dim)
    return (alpha * d_added).to(d_y.dtype), d_added.to(d_y.dtype)


def softmax_backward(d_y: Tensor, probabilities: Tensor, dim: int = -1) -> Tensor:
    """Return the gradient of a softmax's input."""
    return probabilities * (d_y - (d_y * probabilities).sum(dim, keepdim=True))


@reference("npu_scaled_masked_softmax")
def scaled_masked_softmax(x: Tensor, mask: Tensor, scale: float = 1.0, fixed_triu_mask: bool = False) -> Tensor:
    """Compute the softmax of `scale * x` where the mask is 0; with `fixed_triu_mask` the mask is causal instead."""

    def need(condition: bool, reason: str) -> None:
        check(condition, "npu_scaled_masked_softmax", reason)

    need(mask.dtype == torch.bool, f"mask must be bool, got {mask.dtype}")
    need(
        x.dim() == 4 and all(32 <= size <= 4096 and size % 32 == 0 for size in x.shape[-2:]),
        f"the last two of four dimensions must be multiples of 32 up to 4096, got {list(x.shape)}",
    )
    if fixed_triu_mask:
        mask = torch.ones(x.shape[-2:], dtype=torch.bool).triu(1)
    return (x.float() * scale).masked_fill(mask, -10000.0).softmax(-1).to(x.dtype)


@reference("npu_scaled_masked_softmax_backward")
def scaled_masked_softmax_backward(d_y: Tensor, y: Tensor, mask: Tensor, scale: float, fixed_triu_mask: bool) -> Tensor:
    """Return the gradient of x, from the result of the softmax."""
    return (softmax_backward(d_y.float(), y.float()) * scale).to(y.dtype)


@reference("npu_masked_softmax_with_rel_pos_bias")
def masked_softmax_with_rel_pos_bias(
    x: Tensor,
    atten_mask: Tensor | None,
    relative_pos_bias: Tensor,
    scale_value: float = 1.0,
    inner_precision_mode: int = 0,
) -> Tensor:
    """Compute the softmax of `scale_value * x + atten_mask + relative_pos_bias`, as Swin's windows use it."""
    scores = x.float() * scale_value + relative_pos_bias.float()
    return (scores if atten_mask is None else scores + atten_mask.float()).softmax(-1).to(x.dtype)


@reference("npu_attn_softmax_")
def attn_softmax(x: Tensor) -> Tensor:
    """Replace scores by their softmax over the last dimension."""
    return x.copy_(x.softmax(-1))


@reference("npu_attn_softmax_backward_")
def attn_softmax_backward(probabilities: Tensor, d_result: Tensor, values: Tensor) -> Tensor:
    """Replace probabilities by the gradient of the scores, from that of `probabilities values`."""
    return probabilities.copy_(softmax_backward(d_result @ values.mT, probabilities))


@reference("npu_sim_exponential_")
def sim_exponential(x: Tensor, lambd: float = 1.0, *, generator: Any = None) -> Tensor:
    """Fill with numbers of an exponential distribution, all above 0.

    The generator is one of the host, which kernels.cpp has drawn from the device's.
    """
    check(lambd > 0, "npu_sim_exponential_", f"expects lambd > 0.0, but found lambd={lambd}")
    if lambd == torch.inf:
        return x.zero_()
    return x.exponential_(lambd, generator=generator)
