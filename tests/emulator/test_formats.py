"""Internal formats of the device: they keep the data and take the room that a device gives them."""

import io

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

pytestmark = pytest.mark.emulator

ND, NC1HWC0, FRACTAL_Z, NZ, NDC1HWC0, FRACTAL_Z_3D = 2, 3, 4, 29, 32, 33
BASE = {ND, 0, 30}
"""Formats in the order of the sizes: ND, NCHW and NCDHW."""
DIMENSIONS = {NC1HWC0: (4, 4), FRACTAL_Z: (4, 4), NZ: (2, 5), NDC1HWC0: (5, 5), FRACTAL_Z_3D: (5, 5)}
"""Fewest and most dimensions of what is cast to a format."""


@pytest.fixture(autouse=True)
def internal_formats():
    torch.npu.config.allow_internal_format = True
    yield
    torch.npu.config.allow_internal_format = False


def elements(shape, format_, dtype):
    """Elements that a tensor of this shape takes in this format: blocks of 16 by 16, or 32 bytes of narrower types."""
    up = lambda size, block: -(-size // block)  # noqa: E731
    if format_ == NZ:
        rest, (rows, columns), block = shape[:-2], shape[-2:], 32 if dtype.itemsize == 1 else 16
        return torch.Size(rest).numel() * up(columns, block) * block * up(rows, 16) * 16
    n, c, *others = shape
    inner = torch.Size(others).numel()
    if format_ in (NC1HWC0, NDC1HWC0):
        return n * up(c, 16) * 16 * inner
    return up(c, 16) * inner * up(n, 16) * 256


@settings(max_examples=80, deadline=None, derandomize=True)
@given(
    st.sampled_from(sorted(DIMENSIONS)).flatmap(
        lambda format_: st.tuples(
            st.just(format_),
            st.lists(st.integers(1, 20), min_size=DIMENSIONS[format_][0], max_size=DIMENSIONS[format_][1]),
        )
    ),
    st.sampled_from([torch.float16, torch.float32, torch.bfloat16, torch.int8]),
    st.booleans(),
)
def test_a_round_trip_keeps_the_data(what, dtype, transposed):
    import torch_npu

    format_, shape = what
    x = torch.arange(torch.Size(shape).numel()).remainder(100).reshape(shape).to(dtype)
    there = torch_npu.npu_format_cast(x.npu(), format_)
    assert torch_npu.get_npu_format(there) == format_
    assert there.shape == x.shape
    assert torch_npu.get_storage_size(there) == elements(shape, format_, dtype)
    view = there.transpose(0, 1) if transposed else there
    expected = x.transpose(0, 1) if transposed else x
    assert torch.equal(view.cpu(), expected)
    assert torch.equal((view + view).cpu(), expected + expected)
    assert torch.equal(view.clone().cpu(), expected)
    back = torch_npu.npu_format_cast(there, ND)
    assert torch_npu.get_npu_format(back) in BASE
    assert torch_npu.get_storage_size(back) == x.numel()
    assert torch.equal(back.cpu(), x)


def test_in_place_copies_and_storage():
    import torch_npu

    x = torch.randn(20, 30).half()
    there = torch_npu.npu_format_cast(torch.zeros(20, 30).half().npu(), NZ)
    assert there.untyped_storage().nbytes() == 32 * 32 * 2
    there.copy_(x)
    assert torch.equal(there.cpu(), x)
    other = torch_npu.npu_format_cast(torch.zeros(20, 30).half().npu(), NZ)
    other.copy_(there)
    other += 1
    assert torch.equal(other.cpu(), x + 1)
    torch_npu.npu_format_cast_(there, ND)
    assert torch_npu.get_npu_format(there) == ND
    assert torch.equal(there.cpu(), x)


def test_saving_and_loading():
    import torch_npu

    x, file = torch.randn(5, 40).half(), io.BytesIO()
    torch.save({"x": torch_npu.npu_format_cast(x.npu(), NZ)}, file)
    file.seek(0)
    assert torch.equal(torch.load(file, weights_only=True)["x"].cpu(), x)


def test_a_layer_with_its_weight_in_blocks():
    import torch_npu

    layer = torch.nn.Linear(24, 40)
    x = torch.randn(3, 24)
    moved = torch.nn.Linear(24, 40).npu()
    moved.load_state_dict(layer.state_dict())
    moved.weight.data = torch_npu.npu_format_cast(moved.weight.data, NZ)
    y = moved(x.npu())
    y.sum().backward()
    layer(x).sum().backward()
    assert torch.equal(y.cpu(), layer(x))
    assert torch.allclose(moved.weight.grad.cpu(), layer.weight.grad)
