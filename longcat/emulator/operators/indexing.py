"""torch_npu's own operators that slice, pad, gather, scatter, sort and reshape."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from longcat.accelerator import npu_operator
from longcat.emulator.reference import check, draw, host_generator, reference

_INDEX = (torch.int32, torch.int64)
_UPDATED = (torch.int8, torch.float16, torch.float32, torch.bfloat16, torch.int32)
_SCATTERED = (torch.float32, torch.float16, torch.bool, torch.bfloat16, torch.int64, torch.int8)
_RANK = 8
"""Most dimensions that a tensor of the device has."""


@reference("npu_slice")
def slice_(x: Tensor, offsets: list[int], size: list[int]) -> Tensor:
    """Cut a block of `size` elements out of x, from `offsets` on; a size of -1 takes what is left."""
    check(len(offsets) == len(size) == x.dim(), "npu_slice", f"offsets and size need {x.dim()} numbers each")
    for dim, (first, length) in enumerate(zip(offsets, size, strict=True)):
        length = x.shape[dim] - first if length == -1 else length
        check(
            first >= 0 and length >= 0 and first + length <= x.shape[dim],
            "npu_slice",
            f"{length} elements from {first} on are not within dimension {dim} of {x.shape[dim]}",
        )
        x = x.narrow(dim, first, length)
    return x


@reference("npu_pad")
def pad(x: Tensor, paddings: list[int]) -> Tensor:
    """Pad with zeros; `paddings` holds how many before and after, from the first dimension on."""
    check(len(paddings) == 2 * x.dim(), "npu_pad", f"paddings need {2 * x.dim()} numbers, found {len(paddings)}")
    check(min(paddings, default=0) >= 0, "npu_pad", "paddings are not negative")
    pairs = [paddings[2 * dim : 2 * dim + 2] for dim in reversed(range(x.dim()))]
    return torch.constant_pad_nd(x, [number for pair in pairs for number in pair])


@reference("npu_reshape")
def reshape(x: Tensor, shape: list[int], can_refresh: bool = False) -> Tensor:
    """Return the elements in another shape, as a copy."""
    return x.reshape(shape).clone()


@reference("npu_broadcast")
def broadcast(x: Tensor, size: list[int]) -> Tensor:
    """Expand x to `size`, contiguous."""
    return x.expand(size)


@reference("npu_stride_copy")
def stride_copy(x: Tensor, shape: list[int], stride: list[int], storage_offset: float) -> Tensor:
    """Copy the elements that a view with this shape, stride and offset has of contiguous x."""
    return x.contiguous().flatten().as_strided(shape, stride, int(storage_offset)).clone()


@reference("npu_stride_add")
def stride_add(x: Tensor, y: Tensor, offset1: float, offset2: float, c1_len: float) -> Tensor:
    """Add the blocks of channels of two 5-dimensional tensors from an offset on; `16 * c1_len` channels result."""
    check(x.dim() == y.dim() == 5, "npu_stride_add", "both tensors have 5 dimensions")
    channels = 16 * int(c1_len)

    def block(t: Tensor, first: int) -> Tensor:
        taken = t[:, first : first + channels]
        return torch.cat([taken, taken.new_zeros(t.shape[0], channels - taken.shape[1], *t.shape[2:])], 1)

    return block(x, int(offset1)) + block(y, int(offset2))


@reference("npu_one_hot")
def one_hot(x: Tensor, axis: int = -1, depth: int = 1, on_value: float = 1, off_value: float = 0) -> Tensor:
    """Return float32 with a new dimension of `depth` at `axis`: on_value where its index is x's value.

    The schema names `axis` `num_classes`. Values outside of the depth have on_value nowhere.
    """
    check(not x.is_floating_point(), "npu_one_hot", f"classes are integers, found {x.dtype}")
    check(depth >= 0, "npu_one_hot", f"depth is not negative, found {depth}")
    hot = x[..., None] == torch.arange(depth)
    result = torch.where(hot, float(on_value), float(off_value))
    return result if axis == -1 else result.movedim(-1, axis)


@reference("npu_max.dim")
def max_dim(x: Tensor, dim: int, keepdim: bool = False) -> tuple[Tensor, Tensor]:
    """Return the maxima along a dimension and their int32 indices."""
    values, indices = x.max(dim, keepdim)
    return values, indices.to(torch.int32)


@reference("npu_min.dim")
def min_dim(x: Tensor, dim: int, keepdim: bool = False) -> tuple[Tensor, Tensor]:
    """Return the minima along a dimension and their int32 indices."""
    values, indices = x.min(dim, keepdim)
    return values, indices.to(torch.int32)


@reference("npu_max_backward", "npu_min_backward")
def extremum_backward(gradient: Tensor, dim: int, indices: Tensor, sizes: list[int], keepdim: bool) -> Tensor:
    """Put the gradient where the extremum was taken from."""
    if not keepdim and len(sizes) > 0:
        gradient, indices = gradient.unsqueeze(dim), indices.unsqueeze(dim)
    return gradient.new_zeros(sizes).scatter(dim, indices.long(), gradient)


@reference("npu_scatter")
def scatter(x: Tensor, indices: Tensor, updates: Tensor, dim: int) -> Tensor:
    """Replace one element along `dim` for each place of the other dimensions, which is indices' and updates' shape."""
    return x.scatter(dim, indices.long().unsqueeze(dim), updates.unsqueeze(dim))


@reference("npu_sort_v2")
def sort(x: Tensor, dim: int = -1, descending: bool = False) -> Tensor:
    """Sort along a dimension; no indices are returned."""
    check(x.is_floating_point(), "npu_sort_v2", f"a floating point type is sorted, found {x.dtype}")
    return x.sort(dim, descending).values


@reference("npu_indexing")
def indexing(
    x: Tensor,
    begin: list[int],
    end: list[int],
    strides: list[int],
    begin_mask: int = 0,
    end_mask: int = 0,
    ellipsis_mask: int = 0,
    new_axis_mask: int = 0,
    shrink_axis_mask: int = 0,
) -> Tensor:
    """Slice x by begin, end and stride of each position, as StridedSlice does.

    Args:
        x: what is sliced.
        begin: first index of each position; negative ones count from the end.
        end: index behind the last one.
        strides: step of each position, not zero.
        begin_mask: bit i: the widest begin is taken for position i.
        end_mask: likewise of the end.
        ellipsis_mask: bit i: position i stands for as many whole dimensions as are not named; at most one bit.
        new_axis_mask: bit i: position i is a new dimension of 1.
        shrink_axis_mask: bit i: position i takes one index, its begin, and its dimension vanishes.
    """
    check(
        len(begin) == len(end) == len(strides), "npu_indexing", "begin, end and strides have one number each a position"
    )
    check(0 not in strides, "npu_indexing", "a stride is not zero")
    check(ellipsis_mask & (ellipsis_mask - 1) == 0, "npu_indexing", "there is at most one ellipsis")
    named = sum(1 for i in range(len(begin)) if not (new_axis_mask | ellipsis_mask) >> i & 1)
    check(named <= x.dim(), "npu_indexing", f"{named} positions for a tensor of {x.dim()} dimensions")
    dim = 0
    for i, (first, last, step) in enumerate(zip(begin, end, strides, strict=True)):
        if ellipsis_mask >> i & 1:
            after = sum(1 for j in range(i + 1, len(begin)) if not new_axis_mask >> j & 1)
            dim = x.dim() - after
        elif new_axis_mask >> i & 1:
            x = x.unsqueeze(dim)
            dim += 1
        elif shrink_axis_mask >> i & 1:
            x = x.select(dim, first)
        else:
            bounds = slice(None if begin_mask >> i & 1 else first, None if end_mask >> i & 1 else last, step)
            x = x.index_select(dim, torch.tensor(range(*bounds.indices(x.shape[dim])), dtype=torch.int64))
            dim += 1
    return x


@reference("npu_gather_sparse_index")
def gather_sparse_index(x: Tensor, index: Tensor) -> Tensor:
    """Take x's rows: the result has index's dimensions, then x's but for the first."""
    check(index.dtype in _INDEX, "npu_gather_sparse_index", f"index is int32 or int64, found {index.dtype}")
    found = x.dim() + index.dim() - 1
    check(found <= _RANK, "npu_gather_sparse_index", f"input.dim() + index.dim() - 1 is at most {_RANK}, found {found}")
    if x.dim() == 0:
        return x.clone()
    places = index.flatten().long()
    inside = bool(((places >= 0) & (places < x.shape[0])).all())
    check(inside, "npu_gather_sparse_index", f"indices are within 0 and {x.shape[0] - 1}")
    return x.index_select(0, places).reshape(*index.shape, *x.shape[1:])


@reference("npu_gather_sparse_index_backward")
def gather_sparse_index_backward(gradient: Tensor, self_sizes: list[int], index: Tensor) -> Tensor:
    """Add the gradient's rows up at the rows that were taken."""
    if len(self_sizes) == 0:
        return gradient.clone()
    rows = gradient.reshape(index.numel(), *self_sizes[1:])
    return gradient.new_zeros(self_sizes).index_add(0, index.flatten().long(), rows)


@reference("scatter_update_")
def scatter_update_(x: Tensor, indices: Tensor, updates: Tensor, axis: int) -> Tensor:
    """Write updates into x along `axis`, from an index on that each row of the first dimension has.

    Args:
        x: 2 to 8 dimensions, changed in place.
        indices: `[rows]`, where the updates of a row begin; `[rows, 2]` pairs of row and begin.
        updates: as many dimensions as x.
        axis: dimension, not the first, along which the updates are shorter than x.
    """
    operator = "scatter_update"
    check(2 <= x.dim() <= _RANK, operator, f"data has 2 to {_RANK} dimensions, found {x.dim()}")
    check(x.dim() == updates.dim(), operator, f"updates have {x.dim()} dimensions, as data, found {updates.dim()}")
    check(x.dtype in _UPDATED, operator, f"{x.dtype} is not supported")
    check(x.dtype == updates.dtype, operator, f"updates are {x.dtype}, as data, found {updates.dtype}")
    check(indices.dtype in _INDEX, operator, f"indices are int32 or int64, found {indices.dtype}")
    check(indices.dim() in (1, 2), operator, f"indices have 1 or 2 dimensions, found {indices.dim()}")
    check(min(x.numel(), indices.numel(), updates.numel()) > 0, operator, "tensors are not empty")
    axis = axis % x.dim()
    check(axis > 0, operator, "axis is not the first dimension")
    pairs = indices.tolist() if indices.dim() == 2 else list(enumerate(indices.tolist()))
    for update, (row, first) in zip(updates, pairs, strict=True):
        target = x[row].narrow(axis - 1, first, update.shape[axis - 1])
        target[tuple(slice(0, size) for size in update.shape)] = update
    return x


@reference("scatter_update")
def scatter_update(x: Tensor, indices: Tensor, updates: Tensor, axis: int) -> Tensor:
    """Return what `scatter_update_` makes of a copy."""
    return scatter_update_(x.clone(), indices, updates, axis)


@reference("npu_scatter_list_")
def scatter_list_(
    tensors: list[Tensor],
    indices: Tensor,
    updates: Tensor,
    mask: Tensor | None = None,
    reduce: str = "update",
    axis: int = -2,
) -> None:
    """Write `updates[i]` into tensor i along `axis`, from index i on; a mask leaves out tensors where it is 0."""
    operator = "npu_scatter_list"
    check(reduce == "update", operator, f"reduce is 'update', found {reduce!r}")
    check(updates.shape[0] == len(tensors), operator, f"updates need {len(tensors)} rows, found {updates.shape[0]}")
    check(indices.dtype in _INDEX, operator, f"indices are int32 or int64, found {indices.dtype}")
    check(all(t.dtype == updates.dtype for t in tensors), operator, "updates have the tensors' type")
    kept = [True] * len(tensors) if mask is None else mask.bool().tolist()
    for tensor, index, update, keep in zip(tensors, indices.tolist(), updates, kept, strict=True):
        if not keep:
            continue
        first, length = index if isinstance(index, list) else (index, update.shape[axis])
        tensor.narrow(axis, first, length).copy_(update.narrow(axis, 0, length))


@reference("npu_scatter_list")
def scatter_list(tensors: list[Tensor], *arguments: Any, **options: Any) -> list[Tensor]:
    """Return what `scatter_list_` makes of copies."""
    copies = [tensor.clone() for tensor in tensors]
    scatter_list_(copies, *arguments, **options)
    return copies


@reference("npu_scatter_nd_update_")
def scatter_nd_update_(x: Tensor, indices: Tensor, updates: Tensor) -> Tensor:
    """Replace the parts of x that the last dimension of `indices` points to; the last of several to one place counts.

    Args:
        x: changed in place.
        indices: `[..., depth]`: each points to `x[i0, ..., i(depth - 1)]`.
        updates: `[..., *x.shape[depth:]]`.
    """
    operator = "npu_scatter_nd_update"
    check(1 <= x.dim() <= _RANK, operator, f"input has 1 to {_RANK} dimensions, found {x.dim()}")
    check(x.dtype in _SCATTERED, operator, f"{x.dtype} is not supported")
    check(x.dtype == updates.dtype, operator, f"updates are {x.dtype}, as input, found {updates.dtype}")
    check(indices.dtype in _INDEX, operator, f"indices are int32 or int64, found {indices.dtype}")
    check(indices.dim() >= 2, operator, f"indices have at least 2 dimensions, found {indices.dim()}")
    depth = indices.shape[-1]
    check(depth <= x.dim(), operator, f"the last dimension of indices is at most {x.dim()}, found {depth}")
    expected = (*indices.shape[:-1], *x.shape[depth:])
    check(tuple(updates.shape) == expected, operator, f"updates have shape {expected}, found {tuple(updates.shape)}")
    x[tuple(indices.long().unbind(-1))] = updates
    return x


@reference("npu_scatter_nd_update")
def scatter_nd_update(x: Tensor, indices: Tensor, updates: Tensor) -> Tensor:
    """Return what `scatter_nd_update_` makes of a copy."""
    return scatter_nd_update_(x.clone(), indices, updates)


@reference("npu_masked_fill_range")
def masked_fill_range(x: Tensor, start: Tensor, end: Tensor, value: Tensor, axis: int = -1) -> Tensor:
    """Fill ranges along `axis`: range i, from `start[i, n]` to before `end[i, n]`, with `value[i]`.

    Args:
        x: 1 to 3 dimensions in float32, float16, int32 or int8.
        start: int32 `[ranges, rows]`; along the last dimension row n is x's nth of the first dimension, along others
            all rows hold for all of x.
        end: likewise.
        value: `[ranges]` in x's type.
        axis: dimension along which ranges are filled.
    """
    operator = "npu_masked_fill_range"
    check(1 <= x.dim() <= 3, operator, f"input has 1 to 3 dimensions, found {x.dim()}")
    check(x.dtype in (torch.float32, torch.float16, torch.int32, torch.int8), operator, f"{x.dtype} is not supported")
    check(x.dtype == value.dtype, operator, f"value is {x.dtype}, as input, found {value.dtype}")
    check(start.dtype == end.dtype == torch.int32, operator, "start and end are int32")
    axis = axis % x.dim()
    places = torch.arange(x.shape[axis])
    for first, last, filling in zip(start, end, value, strict=True):
        inside = (places >= first[:, None]) & (places < last[:, None])
        shape = [1] * x.dim()
        shape[axis] = x.shape[axis]
        if x.dim() > 1 and axis == x.dim() - 1:
            shape[0] = x.shape[0]
        else:
            inside = inside.any(0)
        x = torch.where(inside.reshape(shape), filling, x)
    return x


@reference("one_")
def one_(x: Tensor) -> Tensor:
    """Fill x with ones."""
    return x.fill_(1)


@reference("npu_view_copy")
def view_copy(x: Tensor, other: Tensor, non_blocking: bool) -> Tensor:
    """Copy another tensor's elements into x, which may be a view."""
    return x.copy_(other)


@reference("npu_dtype_cast_")
def dtype_cast_(x: Tensor, source: Tensor) -> Tensor:
    """Copy a tensor of another type into x."""
    return x.copy_(source)


@reference("_npu_index_add_")
def index_add_(x: Tensor, index: Tensor, source: Tensor, *, alpha: float = 1) -> Tensor:
    """Add `alpha * source` at the places that a tensor of indices selects of x's leading dimensions."""
    return x.index_put_((index.long(),), source * alpha, accumulate=True)


@reference("_npu_index_add")
def index_add(x: Tensor, index: Tensor, source: Tensor, *, alpha: float = 1) -> Tensor:
    """Return what `index_add_` makes of a copy."""
    return index_add_(x.clone(), index, source, alpha=alpha)


@reference("npu_sign_bits_pack")
def sign_bits_pack(x: Tensor, size: int) -> Tensor:
    """Pack signs, 8 in a byte, the first in the lowest bit: 1 for at least 0; -1 fills the last byte up.

    Args:
        x: `[elements]` float32 or float16.
        size: first dimension of the result `[size, bytes / size]`.
    """
    operator = "npu_sign_bits_pack"
    check(x.dim() == 1, operator, f"input has 1 dimension, found {x.dim()}")
    check(x.dtype in (torch.float32, torch.float16), operator, f"input is float32 or float16, found {x.dtype}")
    length = math.ceil(x.numel() / 8)
    check(size > 0 and length % size == 0, operator, f"{length} bytes are not a multiple of size {size}")
    bits = torch.constant_pad_nd(x, [0, 8 * length - x.numel()], -1) >= 0
    return (bits.reshape(-1, 8) * 2 ** torch.arange(8)).sum(1).to(torch.uint8).reshape(size, -1)


@reference("npu_sign_bits_unpack")
def sign_bits_unpack(x: Tensor, size: int, dtype: torch.dtype) -> Tensor:
    """Unpack bytes to 1 for each bit that is set and -1 for others, from the lowest bit on; `[size, 8 * bytes / size]`."""
    operator = "npu_sign_bits_unpack"
    check(x.dim() == 1 and x.dtype == torch.uint8, operator, "input has 1 dimension and is uint8")
    check(dtype in (torch.float32, torch.float16), operator, f"dtype is float32 or float16, found {dtype}")
    check(size > 0 and 8 * x.numel() % size == 0, operator, f"{8 * x.numel()} bits are not a multiple of size {size}")
    bits = x[:, None].to(torch.int32) >> torch.arange(8, dtype=torch.int32) & 1
    return (bits * 2 - 1).to(dtype).reshape(size, -1)


@reference("npu_random_choice_with_mask")
def random_choice_with_mask(x: Tensor, count: int = 256, seed: int = 0, seed2: int = 0) -> tuple[Tensor, Tensor]:
    """Return the indices of True elements, `[count, dimensions]` int32, shuffled, and which of the rows count.

    Args:
        x: bool, 1 to 5 dimensions.
        count: rows of the result, filled up with zeros; 0 for as many as there are.
        seed: of the shuffle; with both 0 it is drawn from the device's generator.
        seed2: likewise.
    """
    check(x.dtype == torch.bool, "npu_random_choice_with_mask", f"x is bool, found {x.dtype}")
    places = x.nonzero().to(torch.int32)
    generator = host_generator(seed, seed2) if seed or seed2 else host_generator(*draw())
    places = places[torch.randperm(len(places), generator=generator)]
    kept = places[:count] if count else places
    rows = count or len(kept)
    mask = torch.arange(rows) < len(kept)
    return torch.cat([kept, kept.new_zeros(rows - len(kept), x.dim())]), mask


@reference("repeat_interleave_backward_int", "repeat_interleave_backward_tensor")
def repeat_interleave_backward(gradient: Tensor, x: Tensor, repeats: int | Tensor, dim: int | None = None) -> Tensor:
    """Add the gradient of repeated elements up, in float32; without `dim` x was flattened."""
    size = x.numel() if dim is None else x.shape[dim]
    counts = torch.as_tensor(repeats).long().expand(size)
    source = torch.arange(size).repeat_interleave(counts)
    if dim is None:
        return torch.zeros(size).index_add_(0, source, gradient.float().flatten()).reshape(x.shape).to(x.dtype)
    return torch.zeros(x.shape).index_add_(dim, source, gradient.float()).to(x.dtype)


def _into(name: str) -> None:
    """Register the form of an operator that writes into `out`, which takes the result's shape."""

    def write(*arguments: Any, out: Tensor, **options: Any) -> Tensor:
        result = npu_operator(name)(*arguments, **options)
        check(result.dtype == out.dtype, f"{name}.out", f"out is {result.dtype}, found {out.dtype}")
        return out.resize_(result.shape).copy_(result)

    reference(f"{name}.out", differentiable=True)(write)


_WITH_OUT: Sequence[str] = (
    "npu_slice", "npu_reshape", "npu_broadcast", "npu_stride_copy", "npu_sort_v2", "npu_indexing", "npu_transpose",
    "npu_conv2d", "npu_conv3d",
)  # fmt: skip

for _name in _WITH_OUT:
    _into(_name)
