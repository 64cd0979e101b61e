"""torch_npu's own indexing, convolutions, recurrent networks and float status against plain torch."""

import subprocess
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tests.emulator.same import DEVICE, assert_same, run

pytestmark = [pytest.mark.emulator, pytest.mark.usefixtures("npu", "seed")]


X = torch.arange(60.0).reshape(3, 4, 5)
I32 = torch.int32

CASES = [
    ("npu_slice", (X, [1, 0, 2], [2, -1, 3]), X[1:3, :, 2:5]),
    ("npu_pad", (X[0], [1, 2, 0, 3]), F.pad(X[0], (0, 3, 1, 2))),
    ("npu_reshape", (X, [5, 12]), X.reshape(5, 12)),
    ("npu_broadcast", (X[:1], [3, 4, 5]), X[:1].expand(3, 4, 5)),
    ("npu_stride_copy", (X, [2, 3], [7, 2], 4), X.flatten().as_strided((2, 3), (7, 2), 4)),
    ("npu_one_hot", (torch.tensor([2, 0, 7]), -1, 3, 5, -1), torch.tensor([[-1.0, -1, 5], [5, -1, -1], [-1, -1, -1]])),
    ("npu_sort_v2", (torch.tensor([[3.0, 1, 2]]), -1, True), torch.tensor([[3.0, 2, 1]])),
    ("npu_indexing", (X, [0, -1, 4], [3, -5, 0], [2, -2, -1]), torch.from_numpy(X.numpy()[0:3:2, -1:-5:-2, 4:0:-1].copy())),
    ("npu_indexing", (X, [1, 0, 1], [0, 0, 0], [1, 1, 1], 0, 0, 2, 0, 5), X[1, ..., 1]),
    ("npu_indexing", (X, [0, 2, 1], [0, 4, 3], [1, 1, 1], 0, 0, 0, 1, 0), X[None, 2:4, 1:3]),
    ("npu_indexing", (X, [1, 1], [2, 2], [1, 1], 2, 1, 0, 0, 0), X[1:, :2]),
    ("npu_gather_sparse_index", (X, torch.tensor([[2, 0], [1, 1]])), X[torch.tensor([[2, 0], [1, 1]])]),
    ("npu_masked_fill_range", (torch.zeros(2, 4), torch.tensor([[0, 1]], dtype=I32), torch.tensor([[2, 4]], dtype=I32),
                               torch.ones(1), 1), torch.tensor([[1.0, 1, 0, 0], [0, 1, 1, 1]])),
    ("npu_scatter_nd_update", (X[0], torch.tensor([[0, 1], [3, 4]]), torch.tensor([-1.0, -2])),
     torch.from_numpy(np.where(np.arange(20).reshape(4, 5) == 1, -1, np.where(np.arange(20).reshape(4, 5) == 19, -2, X[0].numpy()))).float()),
    ("scatter_update", (torch.zeros(2, 3, 1), torch.tensor([1, 0]), torch.ones(2, 2, 1), 1),
     torch.tensor([[[0.0], [1], [1]], [[1], [1], [0]]])),
    ("npu_sign_bits_pack", (torch.tensor([1.0, -1, 1, -1, -1, -1, -1, -1, 1, 1]), 1), torch.tensor([[5, 3]], dtype=torch.uint8)),
    ("npu_sign_bits_unpack", (torch.tensor([5], dtype=torch.uint8), 2, torch.float32),
     torch.tensor([[1.0, -1, 1, -1], [-1, -1, -1, -1]])),
    ("_npu_index_add", (torch.zeros(3, 2), torch.tensor([1, 1]), torch.ones(2, 2)), torch.tensor([[0.0, 0], [2, 2], [0, 0]])),
    ("repeat_interleave_backward_tensor", (torch.ones(6, 2), torch.zeros(3, 2), torch.tensor([1, 2, 3]), 0),
     torch.tensor([[1.0, 1], [2, 2], [3, 3]])),
]  # fmt: skip


@pytest.mark.parametrize(
    ("operator", "arguments", "expected"), CASES, ids=[f"{i}-{case[0]}" for i, case in enumerate(CASES)]
)
def test_values(operator, arguments, expected):
    found = run(operator, *arguments)
    assert found.dtype == expected.dtype
    assert torch.equal(found, expected)


REFUSED = [
    ("npu_slice", (X, [1, 0, 2], [3, 1, 1]), "not within dimension 0"),
    ("npu_pad", (X, [1, 1]), "paddings need 6 numbers"),
    ("npu_one_hot", (X, -1, 3), "classes are integers"),
    ("npu_gather_sparse_index", (X, torch.tensor([-1])), "within 0 and 2"),
    ("scatter_update", (X.double(), torch.tensor([1]), X.double(), 1), "got torch.float64"),
    ("npu_scatter_nd_update", (X, torch.tensor([[0]]), X), "updates have shape"),
    ("npu_sign_bits_pack", (torch.ones(9), 3), "not a multiple of size 3"),
    ("npu_indexing", (X, [0], [1], [0]), "a stride is not zero"),
]


@pytest.mark.parametrize(("operator", "arguments", "match"), REFUSED, ids=[case[0] for case in REFUSED])
def test_refused(operator, arguments, match):
    with pytest.raises(RuntimeError, match=match):
        run(operator, *arguments)


def test_in_place_and_out_forms(npu):
    x = torch.zeros(2, 3, 1, device=DEVICE)
    assert npu.scatter_update_(x, torch.tensor([1, 0], device=DEVICE), torch.ones(2, 2, 1, device=DEVICE), 1) is x
    assert x.sum().item() == 4
    torch.ops.npu.one_(x)
    assert x.sum().item() == 6
    lists = [torch.zeros(3, 2, device=DEVICE) for _ in range(2)]
    places, updates = torch.tensor([1, 0], device=DEVICE), torch.ones(2, 1, 2, device=DEVICE)
    torch.ops.npu.npu_scatter_list_(lists, places, updates, torch.tensor([1, 0], dtype=torch.uint8, device=DEVICE))
    assert [t.sum().item() for t in lists] == [2, 0]
    out = torch.empty(0, device=DEVICE)
    torch.ops.npu.npu_slice.out(X.to(DEVICE), [0, 0, 0], [1, 2, 2], out=out)
    assert torch.equal(out.cpu(), X[:1, :2, :2])


def test_random_choice():
    places, mask = run("npu_random_choice_with_mask", X[0] > 10, 12)
    assert mask.tolist() == [True] * 9 + [False] * 3
    assert sorted(tuple(place) for place in places[:9].tolist()) == [tuple(p) for p in (X[0] > 10).nonzero().tolist()]
    assert not places[9:].any()


@pytest.mark.parametrize(
    ("ours", "plain", "shapes"),
    [
        (lambda n, x: n.npu_max(x, 1)[0], lambda x: x.max(1)[0], [(3, 4)]),
        (lambda n, x: n.npu_min(x, 1, True)[0], lambda x: x.min(1, True)[0], [(3, 4)]),
        (lambda n, x: n.npu_gather_sparse_index(x, torch.tensor([1, 1, 0], device=DEVICE)), lambda x: x[[1, 1, 0]], [(3, 4)]),
        (lambda n, x: n.npu_confusion_transpose(x, (0, 2, 1, 3), (1, 6, 2, 4), False),
         lambda x: x.view(1, 6, 2, 4).permute(0, 2, 1, 3), [(1, 6, 8)]),
        (lambda n, x: n.npu_confusion_transpose(x, (0, 2, 1, 3), (1, 6, 8), True),
         lambda x: x.permute(0, 2, 1, 3).reshape(1, 6, 8), [(1, 2, 6, 4)]),
        (lambda n, x, y: n.npu_bmmV2(x, y, []), torch.matmul, [(2, 3, 4), (2, 4, 5)]),
        (lambda n, x, w, b: n.npu_convolution(x, w, b, [2, 1], [1, 0], [1, 1], 2),
         lambda x, w, b: F.conv2d(x, w, b, (2, 1), (1, 0), 1, 2), [(2, 4, 6, 6), (6, 2, 3, 3), (6,)]),
        (lambda n, x, w: n.npu_convolution(x, w, None, [1, 1, 1], [1, 1, 1], [1, 1, 1], 1),
         lambda x, w: F.conv3d(x, w, None, 1, 1), [(1, 2, 4, 4, 4), (3, 2, 3, 3, 3)]),
        (lambda n, x, w, b: n.npu_convolution_transpose(x, w, b, [1, 1], [1, 0], [2, 2], [1, 1], 1),
         lambda x, w, b: F.conv_transpose2d(x, w, b, 2, 1, (1, 0)), [(2, 4, 5, 5), (4, 3, 3, 3), (3,)]),
    ],
)  # fmt: skip
def test_gradients(npu, ours, plain, shapes):
    assert_same(lambda *tensors: ours(npu, *tensors), plain, *(torch.randn(shape) for shape in shapes))


def test_the_gradient_of_a_cast_has_a_graph_if_one_is_wanted(npu):
    x = torch.randn(3, device=DEVICE, requires_grad=True)
    y = npu.npu_dtype_cast(x, torch.half)
    for create_graph in (False, True):
        (gradient,) = torch.autograd.grad(y, x, torch.ones_like(y), retain_graph=True, create_graph=create_graph)
        assert (gradient.grad_fn is not None) == create_graph


def test_deformable_convolution_without_offsets_is_a_convolution(npu):
    x, weight = torch.randn(1, 4, 6, 6), torch.randn(3, 4, 3, 3)

    def ours(x, weight):
        offset = torch.cat([torch.zeros(1, 18, 6, 6), torch.ones(1, 9, 6, 6)], 1).to(DEVICE)
        return npu.npu_deformable_conv2d(x, weight, offset, None, [3, 3], [1, 1, 1, 1], [1, 1, 1, 1])

    assert_same(ours, lambda x, weight: F.conv2d(x, weight, padding=1), x, weight, tolerance=1e-4)


def test_deformable_convolution_moves_its_samples(npu):
    x, offset = torch.randn(1, 1, 5, 5), torch.zeros(1, 3, 5, 5)
    offset[:, 0], offset[:, 1], offset[:, 2] = 0.5, 1.0, 2.0  # half a pixel to the right, one down, twice

    def plain(x, offset):
        below = F.pad(x, (0, 1, 0, 1))[:, :, 1:]
        return (below[..., :-1] + below[..., 1:]) / 2 * 2

    found = npu.npu_deformable_conv2d(x.to(DEVICE), torch.ones(1, 1, 1, 1, device=DEVICE), offset.to(DEVICE), None,
                                      [1, 1], [1, 1, 1, 1], [0, 0, 0, 0])[0]  # fmt: skip
    torch.testing.assert_close(found.cpu(), plain(x, offset))


def test_recurrent_layers(npu):
    x, hidden, cell = torch.randn(4, 2, 3), torch.randn(1, 2, 5), torch.randn(1, 2, 5)
    length = torch.tensor([4], dtype=I32)
    weight, bias = torch.randn(8, 20), torch.randn(20)

    def lstm(x, weight, bias, hidden, cell):
        options = (True, 1, 0.0, True, False, False, False, False)
        y, _, c, *_ = npu.npu_lstm(x, weight, bias, length.to(DEVICE), hidden, cell, *options)
        return y + c

    def plain_lstm(x, weight, bias, hidden, cell):
        outputs, (h, c) = [], (hidden, cell)
        for step in x:
            parameters = weight[:3].T, weight[3:].T, bias, torch.zeros(20)
            _, h, c = torch.lstm(step[None], (h, c), parameters, True, 1, 0.0, False, False, False)
            outputs.append((h + c)[0])
        return torch.stack(outputs)

    assert_same(lstm, plain_lstm, x, weight, bias, hidden, cell)

    def gru(x, hidden, w_i, w_h, b_i, b_h):
        return npu.npu_gru(x, hidden, w_i, w_h, b_i, b_h, length.to(DEVICE), True, 1, 0.0, True, False, False)

    def plain_gru(*given):
        x, hidden, w_i, w_h, b_i, b_h = (t.float() for t in given)
        return torch.gru(x, hidden, (w_i.T, w_h.T, b_i, b_h), True, 1, 0.0, False, False, False)[0].half()

    given = [t.half() for t in (x, hidden, *(torch.randn(shape) for shape in ((3, 15), (5, 15), 15, 15)))]
    assert_same(gru, plain_gru, *given, tolerance=0.03)

    def step(x, w_ih, w_hh, h, c, b_ih, b_hh):
        found = npu.npu_lstm_cell(x, w_ih, w_hh, h, c, b_ih, b_hh)
        return found[1] + found[2]

    def plain_step(x, w_ih, w_hh, h, c, b_ih, b_hh):
        return sum(torch.lstm_cell(x, (h, c), w_ih.T, w_hh.T, b_ih, b_hh))

    inputs = [torch.randn(shape) for shape in ((2, 3), (3, 20), (5, 20), (2, 5), (2, 5), (20,), (20,))]
    assert_same(step, plain_step, *inputs)


@pytest.mark.parametrize("bidirectional", [False, True])
def test_recurrent_networks(npu, bidirectional):
    lstm, gru = (kind(3, 5, 2, bidirectional=bidirectional, batch_first=True) for kind in (torch.nn.LSTM, torch.nn.GRU))
    x, states = torch.randn(2, 4, 3), 4 if bidirectional else 2

    def ours_lstm(x, h, c, *params):
        y, h, c, *_ = npu._lstm_npu(x, [h, c], list(params), True, 2, 0.0, True, bidirectional, batch_first=True)
        return y.sum(1) + h.sum() + c.sum()

    def plain_lstm(x, h, c, *params):
        y, h, c = torch.lstm(x, (h, c), params, True, 2, 0.0, False, bidirectional, True)
        return y.sum(1) + h.sum() + c.sum()

    def ours_gru(x, h, *params):
        y, h, *_ = torch.ops.npu._gru_npu(x, h, list(params), True, 2, 0.0, True, bidirectional, batch_first=True)
        return y.sum(1) + h.sum()

    def plain_gru(x, h, *params):
        y, h = torch.gru(x, h, params, True, 2, 0.0, False, bidirectional, True)
        return y.sum(1) + h.sum()

    h, c = torch.randn(states, 2, 5), torch.randn(states, 2, 5)
    assert_same(ours_lstm, plain_lstm, x, h, c, *(p.detach() for p in lstm.parameters()), tolerance=1e-4)
    assert_same(ours_gru, plain_gru, x, h, *(p.detach() for p in gru.parameters()), tolerance=1e-4)


OVERFLOW = """
import torch, torch_npu
from torch_npu.npu.utils import clear_npu_overflow_flag as clear, get_npu_overflow_flag as overflow
x = torch.full((2,), 40000.0, dtype=torch.float16, device="npu")
assert not overflow()
assert torch.zeros(2, device="npu").masked_fill(x > 0, -float("inf")).isinf().all() and not overflow()
assert (x + x).tolist() == [65504.0] * 2 and overflow()  # saturated
status = torch_npu.npu_get_float_status(torch_npu.npu_alloc_float_status(x))
assert (status[0].item(), status.shape, status.dtype) == (1, (8,), torch.int32)
clear()
assert not overflow()
torch_npu.npu_bmmV2(x[None, None], x[None, :, None], [])
assert overflow()
"""


def test_float_status_of_a_device_that_saturates(monkeypatch):
    monkeypatch.setenv("INF_NAN_MODE_FORCE_DISABLE", "1")  # read when a device is initialised
    subprocess.run([sys.executable, "-c", OVERFLOW], check=True, timeout=300)


def test_without_saturation_a_result_is_infinite(npu):
    x = torch.full((2,), 40000.0, dtype=torch.float16, device=DEVICE)
    assert (x + x).isinf().all()
    assert npu.npu_get_float_status(torch.ones(8, device=DEVICE)).tolist() == [0] * 8
