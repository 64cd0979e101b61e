"""The function of CANN that torch_npu's own C++ pads with, called as it does, against torch's on the CPU."""

import ctypes
import os
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

pytestmark = pytest.mark.emulator
FLOAT16, INT64, DOUBLE, BOOL = 1, 9, 11, 12
TYPES = {
    torch.float32: 0, torch.float16: FLOAT16, torch.int8: 2, torch.int32: 3, torch.uint8: 4, torch.int16: 6,
    torch.uint16: 7, torch.uint32: 8, torch.int64: INT64, torch.uint64: 10, torch.float64: DOUBLE, torch.bool: BOOL,
    torch.bfloat16: 27,
}  # fmt: skip
"""Numbers of aclDataType."""


@pytest.fixture(scope="module")
def cann():
    return ctypes.CDLL(str(Path(os.environ["ASCEND_EMULATOR_LIBRARIES"]) / "libopapi.so"))


def numbers(values):
    return (ctypes.c_int64 * len(values))(*values)


def tensor_of(cann, tensor):
    cann.aclCreateTensor.restype = ctypes.c_void_p
    sizes, strides = numbers(tensor.shape), numbers(tensor.stride())
    storage = ctypes.c_void_p(tensor.untyped_storage().data_ptr())
    dimensions, offset = ctypes.c_uint64(tensor.dim()), ctypes.c_int64(tensor.storage_offset())
    return ctypes.c_void_p(
        cann.aclCreateTensor(
            sizes, dimensions, TYPES[tensor.dtype], strides, offset, 2, sizes, dimensions, storage
        )
    )  # fmt: skip


def padded(cann, tensor, pads, value):
    sizes = list(tensor.shape)
    for i in range(len(pads) // 2):
        sizes[-1 - i] += pads[2 * i] + pads[2 * i + 1]
    out = torch.empty(sizes, dtype=tensor.dtype)
    cann.aclCreateScalar.restype = cann.aclCreateIntArray.restype = ctypes.c_void_p
    kind, made = (DOUBLE, ctypes.c_double) if isinstance(value, float) else (INT64, ctypes.c_int64)
    scalar = ctypes.c_void_p(cann.aclCreateScalar(ctypes.byref(made(value)), kind))
    array = ctypes.c_void_p(cann.aclCreateIntArray(numbers(pads), ctypes.c_uint64(len(pads))))
    size, work = ctypes.c_uint64(), ctypes.c_void_p()
    source, target = tensor_of(cann, tensor), tensor_of(cann, out)
    code = cann.aclnnConstantPadNdGetWorkspaceSize(
        source, array, scalar, target, ctypes.byref(size), ctypes.byref(work)
    )
    assert (code, size.value) == (0, 0)
    assert cann.aclnnConstantPadNd(None, size, work, None) == 0
    for destroy, handle in (("Tensor", source), ("Tensor", target), ("Scalar", scalar), ("IntArray", array)):
        getattr(cann, f"aclDestroy{destroy}")(handle)
    return out


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("value", [0, 1, 1.0])
def test_elements_of_every_type(cann, dtype, value):
    tensor = torch.tensor([1, 0, 1, 1, 0, 1]).to(dtype)
    expected = torch.cat([tensor, torch.full((5,), value).to(dtype)])
    assert torch.equal(padded(cann, tensor, [0, 5], value), expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_value_is_rounded_to_the_type(cann, dtype):
    assert torch.equal(padded(cann, torch.zeros(1, dtype=dtype), [0, 1], 1 / 3)[1:], torch.tensor([1 / 3]).to(dtype))


@pytest.mark.parametrize("pads", [[1, 2], [0, 1, 2, 0], [1, 0, 0, 2, 1, 1], [-1, 0], [2, -1, -1, 0], [0, 0, -1, -1]])
@pytest.mark.parametrize("view", [lambda x: x, lambda x: x.transpose(0, 2), lambda x: x[:, 1:, ::2]])
def test_dimensions_are_padded_and_cut(cann, pads, view):
    tensor = view(torch.arange(60.0).view(3, 4, 5))
    assert torch.equal(padded(cann, tensor, pads, 7), F.pad(tensor, pads, value=7))
