"""Lossless compression of floats, and the search of a quantisation's scale."""

import pytest
import torch

from tests.emulator.same import run

pytestmark = [pytest.mark.emulator, pytest.mark.usefixtures("npu", "seed")]
COUNT = 32768


def encoded(x, statistic=True, reshuff=False, fixed=COUNT, pdf=None):
    width = x.dtype.itemsize
    sizes = [COUNT * (width - 1) // width, fixed // width, 2 * COUNT // width]
    out = [torch.zeros(256, dtype=torch.int32) if pdf is None else pdf, *(torch.zeros(n, dtype=x.dtype) for n in sizes)]
    return torch.ops.npu.npu_hans_encode(x.npu(), statistic, reshuff, out=[part.npu() for part in out])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("reshuff, fixed", [(False, 512), (False, 2 * COUNT), (True, 2 * COUNT)])
def test_compressed_floats_come_back_bit_by_bit(dtype, reshuff, fixed):
    x = torch.randn(COUNT // 64, 64).to(dtype)
    x[0, :3] = torch.tensor([torch.nan, -torch.inf, -0.0])
    pdf, mantissa, kept, var = encoded(x, reshuff=reshuff, fixed=fixed)
    exponents = x.view(torch.uint8).view(COUNT, -1)[:, -1]
    assert torch.equal(pdf.cpu(), torch.bincount(exponents.int(), minlength=256).int())
    back = torch.ops.npu.npu_hans_decode(mantissa, kept, var, pdf, reshuff, out=torch.zeros_like(x).npu())
    assert torch.equal(back.cpu().view(torch.uint8), x.view(torch.uint8))


def test_compression_keeps_a_given_distribution_and_refuses_small_tensors():
    given = torch.arange(256, dtype=torch.int32)
    assert torch.equal(encoded(torch.ones(COUNT), statistic=False, pdf=given)[0].cpu(), given)
    with pytest.raises(RuntimeError, match="64 elements: a multiple of 64 from 32768 is required"):
        encoded(torch.ones(64))
    with pytest.raises(RuntimeError, match="fixed must have at least a byte an element with reshuff"):
        encoded(torch.ones(COUNT), reshuff=True, fixed=512)


@pytest.mark.parametrize("with_offset", [False, True])
def test_the_scale_that_is_found_has_the_least_error(with_offset):
    data = torch.rand(4, 9, 5) * 3 - 1
    low, high, bins = data.min().view(1), data.max().view(1), 64
    counts = torch.histc(data, bins, low.item(), high.item()).cumsum(0).int()
    scale, offset = run("npu_ifmr", data, low, high, counts, 0.99, 0.99, 0.5, 1.5, 0.1, with_offset)
    assert scale.shape == offset.shape == (1,)

    def error(scale, offset):
        stored = (torch.round(data / scale) + offset).clamp(-128, 127)
        return ((stored - offset) * scale - data).square().sum().item()

    # the percentiles of the values, up to the width of a bin
    ends, width = data.flatten().quantile(torch.tensor([0.01, 0.99])), (high - low).item() / bins
    tried = []
    for factor in torch.arange(0.5, 1.45, 0.1):
        if with_offset:
            span = (ends[1] * factor - ends[0]) / 255
            tried.append((span, -(torch.round(ends[0] / span) + 128)))
        else:
            tried.append((ends.abs().max() * factor / 127, torch.tensor(0.0)))
    best = min(error(*one) for one in tried)
    assert error(scale, offset) <= best * (1 + 2 * width) + 1e-3
    if not with_offset:
        assert offset.item() == 0
