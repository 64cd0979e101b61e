"""The device itself: memory, streams, random numbers, what it refuses; and aten computed as on the CPU."""

import copy
import ctypes
import io
import os
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

pytestmark = pytest.mark.emulator
DEVICE = "npu:0"


def test_it_is_found_without_an_import_of_torch_npu():
    assert torch.npu.is_available()
    assert torch.npu.device_count() == 8
    assert torch.npu.get_device_name(0) == "Ascend910B2"
    found = torch.npu.get_device_properties(0)
    assert (found.total_memory, found.L2_cache_size) == (64 << 30, 192 << 20)
    assert (found.cube_core_num, found.vector_core_num) == (24, 48)


def test_training_is_the_cpus_to_the_bit():
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(64, 4, 128, batch_first=True, dropout=0.0)
    model = nn.Sequential(nn.Embedding(100, 64), layer, nn.Linear(64, 100))
    tokens = torch.randint(0, 100, (4, 16))
    losses = {}
    for device in ("cpu", DEVICE):
        copied = copy.deepcopy(model).to(device)
        optimizer = torch.optim.AdamW(copied.parameters(), 1e-2)
        x = tokens.to(device)
        losses[device] = []
        for _ in range(5):
            loss = F.cross_entropy(copied(x).flatten(0, 1), x.flatten())
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(copied.parameters(), 1.0)
            optimizer.step()
            losses[device].append(loss.item())
    assert losses[DEVICE] == losses["cpu"]
    assert losses["cpu"][-1] < losses["cpu"][0] / 2


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ((4,), (4,)), ((3, 4), (4,)), ((4,), (4, 5)), ((2, 3, 4), (4, 5)), ((2, 3, 4), (2, 4, 5)),
        ((2, 1, 3, 4), (5, 4, 2)), ((3, 4), (2, 4, 5)), ((2, 3, 4), (4,)),
    ],
)  # fmt: skip
def test_products_and_their_gradients(left, right):
    inputs = [torch.randn(left), torch.randn(right)]
    assert_same(torch.matmul, inputs)


@pytest.mark.parametrize(
    "options",
    [
        {"is_causal": True}, {"attn_mask": torch.randn(16, 16)}, {"enable_gqa": True},
        {"attn_mask": torch.ones(16, 16, dtype=torch.bool).tril()},
    ],
)  # fmt: skip
def test_attention(options):
    key_heads = 2 if options.get("enable_gqa") else 4
    inputs = [torch.randn(2, heads, 16, 8) for heads in (4, key_heads, key_heads)]

    def attention(query, key, value):
        mask = options.get("attn_mask")
        moved = {} if mask is None else {"attn_mask": mask.to(query.device)}
        return F.scaled_dot_product_attention(query, key, value, **{**options, **moved})

    assert_same(attention, inputs)
    with torch.inference_mode():
        found = attention(*(t.to(DEVICE) for t in inputs))
    assert torch.allclose(found.cpu(), attention(*inputs), atol=1e-5)


@pytest.mark.parametrize(
    ("module", "shape"),
    [
        (nn.Conv2d(3, 4, 3), (2, 3, 8, 8)), (nn.BatchNorm1d(8), (4, 8)), (nn.LayerNorm(8), (4, 8)),
        (nn.GroupNorm(2, 8), (4, 8)), (nn.RMSNorm(8), (4, 8)), (nn.GELU("tanh"), (4, 8)), (nn.SiLU(), (4, 8)),
        (nn.Softmax(-1), (4, 8)), (nn.Embedding(9, 4), None),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)  # fmt: skip
def test_modules(module, shape):
    x = torch.arange(8) if shape is None else torch.randn(shape)
    there = copy.deepcopy(module).to(DEVICE)
    expected, found = module(x), there(x.to(DEVICE))
    assert torch.allclose(found.cpu(), expected, atol=1e-6)
    if expected.requires_grad:
        expected.sin().sum().backward()
        found.sin().sum().backward()
        for ours, theirs in zip(there.parameters(), module.parameters(), strict=True):
            assert torch.allclose(ours.grad.cpu(), theirs.grad, atol=1e-5)


def test_gradients_that_torch_npu_has_its_own_operators_for():
    index, target = torch.tensor([[0, 2, 2], [1, 1, 0]]), torch.rand(2, 4)
    assert_same(lambda x: x.gather(1, index.to(x.device)), [torch.randn(2, 4)])
    assert_same(lambda x: F.binary_cross_entropy_with_logits(x, target.to(x.device)), [torch.randn(2, 4)])
    assert_same(lambda x: x.max(-1).values, [torch.randn(2, 4)])
    assert_same(lambda x: F.l1_loss(x, target.to(x.device)), [torch.randn(2, 4)])
    assert_same(lambda x: x.repeat_interleave(2, 0), [torch.randn(2, 4)])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_binary_cross_entropy_of_halves_is_rounded_once(dtype, reduction):
    logits, target, weight, more = ((torch.rand(10, 64) * 9).to(dtype) for _ in range(4))
    given = {"weight": weight, "pos_weight": more}
    found = F.binary_cross_entropy_with_logits(
        logits.to(DEVICE), target.to(DEVICE), **{n: t.to(DEVICE) for n, t in given.items()}, reduction=reduction
    )
    plain = {name: tensor.float() for name, tensor in given.items()}
    expected = F.binary_cross_entropy_with_logits(logits.float(), target.float(), **plain, reduction=reduction)
    assert torch.equal(found.cpu(), expected.to(dtype))


def test_second_derivatives():
    left, right = torch.randn(3, 4), torch.randn(4, 5)
    for shapes in (lambda a, b: a @ b, lambda a, b: a[None] @ b, lambda a, b: a[0] @ b):

        def slope(a, b, product=shapes):
            return torch.autograd.grad(product(a, b).sin().sum(), a, create_graph=True)[0]

        assert_same(slope, [left, right])
    for loss in (
        lambda x: x.gather(1, torch.zeros(3, 2, dtype=torch.long, device=x.device)).sin(),
        lambda x: F.binary_cross_entropy_with_logits(x, torch.full_like(x, 0.3), pos_weight=torch.full_like(x[0], 2.0)),
    ):  # fmt: skip
        assert_same(lambda x, f=loss: x * torch.autograd.grad(f(x).sum(), x, create_graph=True)[0], [left])
    results = []
    for device in ("cpu", DEVICE):
        weight = left.to(device)
        results.append(torch.func.hessian(lambda x, w=weight: (w @ x).sin().sum())(right[:, 0].to(device)).cpu())
    assert torch.allclose(*results, atol=1e-5)
    assert results[0].abs().min() > 0


def test_a_tangent_is_not_lost_without_a_word():
    import torch_npu

    x = torch.ones(4, device=DEVICE)
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(x, x)
        with pytest.raises(NotImplementedError, match="npu_silu: forward-mode differentiation"):
            torch_npu.npu_silu(dual)


def test_complex_numbers():
    """Conjugates and negatives are views; and what torch composes of them, gradients among it."""
    x, y = torch.randn(3, 4, dtype=torch.complex64), torch.randn(4, 5, dtype=torch.complex64)
    for function in (
        lambda a, b: a.conj() @ b, lambda a, b: a.conj().clone(), lambda a, b: a.conj().imag + 1,
        lambda a, b: torch.empty_like(a).copy_(a.conj()), lambda a, b: torch.stack([a.conj(), a]),
        lambda a, b: a.clone().conj().mul_(2), lambda a, b: torch.linalg.qr(b.mH)[0].abs(),
        lambda a, b: torch.zeros_like(a).conj().copy_(a), lambda a, b: torch.fft.ihfft(a.real),
    ):  # fmt: skip
        torch.testing.assert_close(function(x.to(DEVICE), y.to(DEVICE)).cpu(), function(x, y))
        torch.testing.assert_close(function(x.conj().to(DEVICE), y.to(DEVICE)).cpu(), function(x.conj(), y))
    assert x.to(DEVICE).conj().tolist() == x.conj().tolist()
    assert torch.equal(x.to(DEVICE).conj().cpu(), x.conj())
    turns = torch.polar(torch.ones(3, 4), torch.arange(12.0).reshape(3, 4))

    def rotary(t):
        return torch.view_as_real(torch.view_as_complex(t.unflatten(-1, (4, 2))) * turns.to(t.device)).flatten(1)

    assert_same(rotary, [torch.randn(3, 8)])
    assert_same(lambda t: torch.fft.irfft(torch.fft.rfft(t) ** 2), [torch.randn(3, 8)])
    assert_same(lambda t: torch.fft.irfft2(torch.fft.rfft2(t) ** 2, s=(3, 9)), [torch.randn(3, 9)])
    assert_same(lambda t: torch.fft.fft(t).abs(), [torch.randn(3, 8)])

    def slope(t):
        return torch.autograd.grad(torch.fft.rfft(t).abs().sin().sum(), t, create_graph=True)[0]

    assert_same(slope, [torch.randn(3, 8)], tolerance=1e-4)


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_recurrent_networks(kind):
    model, x = kind(4, 5, 2, bidirectional=True), torch.randn(6, 3, 4)
    results = []
    for device in ("cpu", DEVICE):
        there = copy.deepcopy(model).to(device)
        packed = nn.utils.rnn.pack_padded_sequence(x.to(device), torch.tensor([6, 4, 2]))
        short, _ = nn.utils.rnn.pad_packed_sequence(there(packed)[0])
        whole = there(x.to(device))[0]
        (short.sin() + whole.sin()).sum().backward()
        results.append([short, whole, *(parameter.grad for parameter in there.parameters())])
    for expected, found in zip(*results, strict=True):
        assert found.device.type == "npu"
        assert torch.allclose(found.cpu(), expected, atol=1e-5)


def test_grouped_products():
    offsets = torch.tensor([8, 16], dtype=torch.int32)
    inputs = [torch.randn(16, 8).bfloat16(), torch.randn(2, 8, 16).bfloat16()]
    assert_same(lambda x, weight: F.grouped_mm(x, weight, offs=offsets.to(x.device)), inputs)


def test_indices_sorting_and_counting():
    x = torch.tensor([3.0, 1.0, 2.0, 5.0, 4.0, 0.0])
    for function in (
        lambda t: t[t > 2], torch.nonzero, torch.sort, lambda t: t.topk(2), lambda t: t.cumsum(0), torch.isfinite,
        lambda t: torch.bincount(t.long()), lambda t: F.one_hot(t.long()), torch.unique,
        lambda t: torch.repeat_interleave(t, t.long()), lambda t: torch.where(t > 2, t, 0.0),
        lambda t: torch.zeros_like(t).scatter_(0, torch.tensor([1], device=t.device), 1.0),
        lambda t: torch.einsum("i,j->ij", t, t), lambda t: t.clone().index_add_(0, t.long(), t),
    ):  # fmt: skip
        found, expected = function(x.to(DEVICE)), function(x)
        if isinstance(expected, torch.Tensor):
            found, expected = [found], [expected]
        for ours, theirs in zip(found, expected, strict=True):
            assert ours.device.type == "npu"
            assert torch.equal(ours.cpu(), theirs)


def test_long_products_of_half_floats_are_summed_in_32_bits():
    """One of many terms that a sum in 16 bits would lose: 4096 + 1 is 4096 there."""
    x, y = (
        torch.ones(2, 20000, dtype=torch.float16, device=DEVICE),
        torch.full((20000, 2), 0.5, dtype=torch.float16, device=DEVICE),
    )
    assert (x @ y).tolist() == (x @ y.t().contiguous().t()).tolist() == [[10000.0] * 2] * 2
    assert torch.mv(x, y[:, 0]).tolist() == [10000.0] * 2
    result = torch.zeros(2, 2, dtype=torch.float16, device=DEVICE)
    assert torch.mm(x, y, out=result) is result
    assert result.tolist() == [[10000.0] * 2] * 2
    assert result.addmm_(x, y, beta=2.0, alpha=-1.0).tolist() == [[10000.0] * 2] * 2


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("function, shapes", [
    (lambda x, grid: F.grid_sample(x, grid, align_corners=False), [(2, 3, 9, 7), (2, 5, 6, 2)]),
    (lambda x, grid: F.grid_sample(x, grid, align_corners=True), [(1, 2, 5, 4, 6), (1, 3, 4, 5, 3)]),
    (lambda x: F.interpolate(x, scale_factor=1.7, mode="linear"), [(2, 3, 19)]),
    (lambda x: F.interpolate(x, scale_factor=1.7, mode="bilinear"), [(2, 3, 9, 7)]),
    (lambda x: F.interpolate(x, scale_factor=1.7, mode="bicubic"), [(2, 3, 9, 7)]),
    (lambda x: F.interpolate(x, scale_factor=1.7, mode="trilinear"), [(1, 2, 5, 4, 6)]),
    (lambda x: F.adaptive_avg_pool3d(x, (2, 3, 2)), [(2, 3, 9, 7, 8)]),
    (lambda x, y, z: torch.addr(x, y, z, beta=0.3, alpha=1.7), [(5, 7), (5,), (7,)]),
    (lambda x, weight: F.conv_transpose3d(x, weight, stride=2), [(1, 3, 4, 5, 3), (3, 2, 3, 3, 3)]),
])  # fmt: skip
def test_what_the_cpu_rounds_often_in_16_bits_is_rounded_once(function, shapes, dtype):
    inputs, results = [torch.randn(shape).to(dtype) for shape in shapes], []
    for place in (lambda t: t.float(), lambda t: t.to(DEVICE)):
        leaf = place(inputs[0]).requires_grad_()
        others = [place(t) for t in inputs[1:]]
        found = function(leaf, *others)
        found.backward(place(torch.sin(torch.arange(found.numel()).view(found.shape)).to(dtype)))
        results.append([found, leaf.grad])
    for wide, found in zip(*results, strict=True):
        assert torch.equal(found.cpu(), wide.to(dtype))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("of_weights", ["same", "float32"])
@pytest.mark.parametrize("name", ["layer", "group", "batch"])
def test_norms_of_16_bits_sum_gradients_of_weights_in_32(name, of_weights, dtype):
    weights = dtype if of_weights == "same" else torch.float32
    functions = {
        "layer": lambda x, w, b: F.layer_norm(x, (8,), w, b),
        "group": lambda x, w, b: F.group_norm(x.view(-1, 8, 16), 2, w, b),
        "batch": lambda x, w, b: F.batch_norm(x, None, None, w, b, True),
    }
    inputs, results = (3 * torch.randn(1024, 8) + 5, torch.rand(8) + 1, torch.rand(8)), []
    types = (dtype, weights, weights)
    for place in (lambda t: t.float(), lambda t: t.to(DEVICE)):
        leaves = [place(t.to(kind)).detach().clone().requires_grad_() for t, kind in zip(inputs, types, strict=True)]
        found = functions[name](*leaves)
        found.backward(torch.ones_like(found))
        results.append([found, *(leaf.grad for leaf in leaves[1:])])
    for wide, found in zip(*results, strict=True):
        tolerance = 5e-2 if name == "group" else 1e-4 if found.dtype == torch.float32 else 8e-3  # 16-bit statistics
        torch.testing.assert_close(found.cpu().float(), wide, rtol=tolerance, atol=tolerance * 1024**0.5)
    assert results[1][2].tolist() == [1024.0] * 8


@pytest.mark.parametrize("weights", [torch.float16, torch.float32])
def test_statistics_of_norms_have_the_types_of_the_meta_kernels(weights):
    x, weight = torch.randn(4, 6, 5).half(), torch.ones(6, dtype=weights)
    running = [torch.zeros(6, dtype=weights), torch.ones(6, dtype=weights)]
    for operator, arguments in (
        (torch.ops.aten.native_layer_norm, (x.mT.contiguous(), [6], weight, weight, 1e-5)),
        (torch.ops.aten.native_group_norm, (x, weight, weight, 4, 6, 5, 2, 1e-5)),
        (torch.ops.aten.native_batch_norm, (x, weight, weight, *running, True, 0.1, 1e-5)),
    ):

        def moved(device, values=arguments):
            return [value.to(device) if isinstance(value, torch.Tensor) else value for value in values]

        found = operator(*(there := moved(DEVICE)))
        assert [part.dtype for part in found] == [part.dtype for part in operator(*moved("meta"))]
    assert torch.allclose(there[3].cpu().float(), 0.1 * x.float().mean((0, 2)), atol=1e-3)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_gradients_of_a_token_that_occurs_often_are_summed_in_32_bits(dtype):
    table = torch.rand(3, 2, dtype=dtype, device=DEVICE, requires_grad=True)
    F.embedding(torch.tensor([1] * 3000 + [2], device=DEVICE), table).sum().backward()
    assert table.grad.tolist() == [[0, 0], [float(torch.tensor(3000.0).to(dtype))] * 2, [1, 1]]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_the_gradient_of_sure_logits_is_not_lost_in_16_bits(dtype):
    x, target, weight = (5 * torch.randn(40, 3)).to(dtype), torch.randint(2, (40, 3)).to(dtype), torch.rand(3).to(dtype)
    results = []
    for place in (lambda t: t.float(), lambda t: t.to(DEVICE)):
        logits, labels, factor = (place(t).detach().clone() for t in (x, target, weight))
        loss = F.binary_cross_entropy_with_logits(logits.requires_grad_(), labels, factor, pos_weight=factor)
        results.append(torch.autograd.grad(64 * loss, logits)[0])
    assert torch.equal(results[1].cpu(), results[0].to(dtype))


@pytest.mark.parametrize("function", [F.softmax, F.log_softmax])
def test_softmax_of_half_floats_may_have_32_bits(function):
    x, results = torch.randn(3, 5).half(), []
    for place in (lambda t: t.float(), lambda t: t.to(DEVICE)):
        leaf = place(x).detach().clone().requires_grad_()
        found = function(leaf, -1, dtype=torch.float32)
        found.sin().sum().backward()
        results.append((found, leaf.grad))
    (wide, gradient), (found, d_x) = results
    assert found.dtype == torch.float32 and torch.allclose(found.cpu(), wide, atol=1e-6)
    assert d_x.dtype == torch.float16 and torch.allclose(d_x.cpu(), gradient.half(), atol=1e-3)


def test_synchronised_norms_write_where_they_are_told():
    x, statistics = torch.tensor([[1.0], [3.0]], device=DEVICE), [torch.tensor([2.0], device=DEVICE) for _ in range(4)]
    out = torch.zeros(2, 1, device=DEVICE)
    assert torch.batch_norm_elemt(x, *statistics, 1e-5, out=out) is out and out.tolist() == [[-2.0], [6.0]]


def test_results_of_16_bits_have_the_type_that_is_asked_for():
    x = torch.rand(3, 4, device=DEVICE).half()
    for function in (torch.prod, torch.sum, torch.mean, torch.cumsum):
        assert function(x, 0, dtype=torch.float32).dtype == torch.float32 and function(x, 0).dtype == torch.float16


def test_a_multiple_of_bfloat16_that_is_added_is_rounded_with_the_sum_only():
    x, y = torch.randn(2, 37, 7).bfloat16()
    there, other, wide = x.to(DEVICE), y.to(DEVICE), x.float() + 5 * y.float()
    found = [torch.add(there, other, alpha=5), torch.sub(there, other, alpha=-5), torch.rsub(other, there, alpha=-5)]
    found += [*torch._foreach_add([there], [other], alpha=5), *torch._foreach_sub([there], [other], alpha=-5.0)]
    assert all(torch.equal(result.cpu(), wide.bfloat16()) for result in found)
    assert torch.add(there, other.float(), alpha=5).dtype == torch.float32
    there.add_(other, alpha=5)
    assert torch.equal(there.cpu(), wide.bfloat16())


def test_lists_of_the_device_and_of_the_host_are_copied():
    there, here = torch.zeros(2, device=DEVICE), torch.zeros(3)
    torch._foreach_copy_([there, here, there[:1]], [torch.ones(2), torch.ones(3, device=DEVICE), torch.zeros(1)])
    assert there.tolist() == [0, 1] and here.tolist() == [1, 1, 1]


def test_a_gradient_of_gathered_places_may_be_sparse():
    x, index = torch.randn(4, 3), torch.tensor([[0, 2, 1], [3, 2, 1]])
    ours, plain = x.to(DEVICE).requires_grad_(), x.clone().requires_grad_()
    for leaf in (ours, plain):
        torch.gather(leaf, 0, index.to(leaf.device), sparse_grad=True).sum().backward()
    assert ours.grad.is_sparse and torch.equal(ours.grad.to_dense().cpu(), plain.grad.to_dense())


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("groups", [1, 4])
def test_convolutions_of_half_floats_are_summed_in_32_bits(groups, transposed):
    function = F.conv_transpose2d if transposed else F.conv2d
    inputs = [torch.randn(8, 4, 16, 16).half(), torch.randn(4, 4 // groups, 3, 3).half()]
    results = []
    for place in (lambda t: t.float(), lambda t: t.to(DEVICE)):
        leaves = [place(t).requires_grad_() for t in inputs]
        found = function(*leaves, padding=1, groups=groups)
        found.backward(place(torch.sin(torch.arange(8 * 4 * 256).view(8, 4, 16, 16)).half()))
        results.append([found, *(leaf.grad for leaf in leaves)])
    for wide, found in zip(*results, strict=True):
        assert torch.equal(found.cpu(), wide.half())


@pytest.mark.parametrize("reduction", ["sum", "mean"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_likelihoods_of_16_bits_are_summed_in_32(dtype, reduction):
    for shape in ((4096, 8), (2, 8, 64, 64)):
        x = torch.randn(shape).log_softmax(1).to(dtype)
        target = torch.randint(0, 8, (shape[0], *shape[2:]))
        found = F.nll_loss(x.to(DEVICE), target.to(DEVICE), reduction=reduction)
        assert torch.equal(found.cpu(), F.nll_loss(x.float(), target, reduction=reduction).to(dtype))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_what_the_cpu_has_no_kernel_of_16_bits_for(dtype):
    """Results, new or in place, are rounded once and of the type that was given."""
    x = torch.randn(4, 4, generator=torch.Generator().manual_seed(0)).to(dtype)
    for function in (lambda t: torch._add_relu(t, t), lambda t: torch._add_relu_(t.clone(), t)):
        found = function(x.to(DEVICE))
        assert found.dtype == dtype
        assert torch.equal(found.cpu(), function(x.float()).to(dtype))
    changed = x.to(DEVICE)
    torch._add_relu_(changed, changed)
    assert torch.equal(changed.cpu(), torch.relu(x + x))


@pytest.mark.parametrize(
    "function",
    [
        lambda x, i: F.nll_loss(x, i), lambda x, i: F.nll_loss(x[:, :, None, None], i[:, None, None]),
        lambda x, i: F.cross_entropy(x, i), lambda x, i: F.multilabel_margin_loss(x, i[:, None].expand_as(x).contiguous()),
        lambda x, i: x.index_fill(1, i, 7.0), lambda x, i: x.take(i), lambda x, i: F.embedding_bag(i[None], x),
        lambda x, i: x.clone().put_(i, torch.ones_like(i, dtype=x.dtype)), lambda x, i: F.one_hot(i).to(x.dtype),
        lambda x, i: x.gather(1, i[:, None]), lambda x, i: torch.zeros_like(x).scatter_add(1, i[:, None], x),
    ],
)  # fmt: skip
def test_indices_of_32_bits_are_those_of_64(function):
    """A device takes both, torch's CPU kernels want 64 for most."""
    x, indices = torch.randn(3, 5, generator=torch.Generator().manual_seed(0)), torch.tensor([2, 0, 1])
    expected = function(x, indices)
    for dtype in (torch.int32, torch.int64):
        assert torch.equal(function(x.to(DEVICE), indices.to(DEVICE, dtype)).cpu(), expected)


def test_gradients_of_a_loss_by_indices_of_32_bits():
    x, indices = torch.randn(3, 5, generator=torch.Generator().manual_seed(0)), torch.tensor([2, 0, 1])
    ours, theirs = x.to(DEVICE).requires_grad_(), x.clone().requires_grad_()
    F.cross_entropy(ours, indices.int().to(DEVICE)).backward()
    F.cross_entropy(theirs, indices).backward()
    assert torch.equal(ours.grad.cpu(), theirs.grad)


def test_one_hot_is_of_the_indices_type_and_refuses_what_is_no_index():
    assert F.one_hot(torch.tensor([2, 0], dtype=torch.int32, device=DEVICE), 4).dtype == torch.int32
    assert F.one_hot(torch.tensor([2, 0], device=DEVICE), 4).tolist() == [[0, 0, 1, 0], [1, 0, 0, 0]]
    for wrong, classes in ((torch.ones(2), -1), (torch.tensor([4]), 3), (torch.tensor([-1]), 3)):
        with pytest.raises(RuntimeError):
            F.one_hot(wrong.to(DEVICE), classes)


def test_bags_refuse_weights_of_another_type():
    indices, table = torch.tensor([[2, 0, 1]], device=DEVICE), torch.ones(3, 2, device=DEVICE)
    with pytest.raises(RuntimeError, match="expected scalar type Float but found Double"):
        F.embedding_bag(
            indices, table, per_sample_weights=torch.ones(1, 3, dtype=torch.float64, device=DEVICE), mode="sum"
        )


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.int32, torch.int64])
def test_whole_numbers_are_divided_in_place(dtype):
    """A device does not refuse it, and torch_npu averages gradients of whole numbers so."""
    x = torch.tensor([8, 9, 0, 100], dtype=dtype, device=DEVICE)
    assert torch.ops.aten.div_.Scalar(x, 2) is x
    assert (x.tolist(), x.dtype) == ([4, 4, 0, 50], dtype)
    assert torch.ops.aten.div_.Scalar(torch.tensor([-7], device=DEVICE), 2).tolist() == [-3]
    with pytest.raises(RuntimeError, match="can't be cast"):
        torch.ops.aten.div_.Scalar(torch.tensor([True], device=DEVICE), 2)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_products_of_many_numbers_are_rounded_once(dtype):
    x = (1 + torch.rand(15, 7)).to(dtype)
    wide, there = x.float(), x.to(DEVICE)
    assert torch.equal(there.prod(0, dtype=dtype).cpu(), wide.prod(0).to(dtype))
    assert torch.equal(there[:, 0].prod().cpu(), wide[:, 0].prod().to(dtype))
    assert torch.equal(there.prod(0, dtype=torch.float32).cpu(), wide.prod(0))
    out = torch.empty(0, dtype=dtype, device=DEVICE)
    assert torch.prod(there, 1, keepdim=True, out=out) is out
    assert torch.equal(out.cpu(), wide.prod(1, keepdim=True).to(dtype))
    counts = torch.tensor([[3, 4], [5, 6]], dtype=torch.int32, device=DEVICE)
    assert (counts.prod().item(), counts.prod(1).dtype) == (360, torch.int64)


def test_hard_sigmoids_of_whole_numbers_are_cut():
    x = torch.tensor([-4, 0, 2, 3, 9], dtype=torch.int32, device=DEVICE)
    found = F.hardsigmoid(x)
    assert (found.tolist(), found.dtype) == ([0, 0, 0, 1, 1], torch.int32)
    assert torch.ops.aten.hardsigmoid.out(x, out=torch.empty_like(x)).tolist() == [0, 0, 0, 1, 1]
    assert F.hardsigmoid(x, inplace=True) is x and x.tolist() == [0, 0, 0, 1, 1]


def test_matrices_of_half_floats_are_inverted():
    x = torch.randn(3, 4, 4).half() + 4 * torch.eye(4).half()
    leaves = [x.float().requires_grad_(), x.to(DEVICE).requires_grad_()]
    results = [torch.inverse(leaf) for leaf in leaves]
    for result in results:
        result.sum().backward()
    assert torch.equal(results[1].cpu(), results[0].half())
    torch.testing.assert_close(leaves[1].grad.cpu().float(), leaves[0].grad, rtol=1e-2, atol=1e-3)
    out = torch.empty(0, dtype=torch.float16, device=DEVICE)
    torch.inverse(leaves[1].detach(), out=out)
    assert torch.equal(out.cpu(), results[0].half())


def test_the_largest_difference_has_the_gradient_of_a_distance_that_was_rounded():
    x, y = torch.tensor([[1.0, 5.001]]).half(), torch.tensor([[0.0, 0.0003], [4.0, 4.0]]).half()
    there = x.to(DEVICE).requires_grad_()
    torch.cdist(there, y.to(DEVICE), torch.inf).sum().backward()
    rounded = (x.float()[:, None] - y.float()).abs().max(-1).values.half().float()  # 5.0 of 4.9997; 3
    decisive = (x.float()[:, None] - y.float()).abs() >= rounded[..., None]
    expected = ((x.float()[:, None] - y.float()).sign() * decisive).sum(1)
    assert torch.equal(there.grad.cpu().float(), expected)
    wide = [x.float().requires_grad_(), x.float().to(DEVICE).requires_grad_()]
    for leaf in wide:
        torch.cdist(leaf, y.float().to(leaf.device), torch.inf).sum().backward()
    assert torch.equal(wide[1].grad.cpu(), wide[0].grad)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_slices_are_scaled_down_by_their_number_of_elements(dtype):
    x = torch.tensor([[2.0, 4, 0], [0, 3, 0]], dtype=dtype, device=DEVICE)
    expected = [[1, 2, 0], [0, 3, 0]]
    assert torch.renorm(x, 0, 0, 1).tolist() == expected
    assert torch.renorm(x, 0, 0, 1, out=torch.empty(0, dtype=dtype, device=DEVICE)).tolist() == expected
    torch.testing.assert_close(torch.renorm(x, 2, 1, 3).cpu(), torch.renorm(x.cpu().float(), 2, 1, 3).to(dtype))
    assert x.renorm_(0, -2, 1).tolist() == expected


def test_whole_numbers_are_counted_in_bins():
    """transformers counts the tokens of experts so, on every device but the CPU."""
    experts = torch.tensor([0, 1, 1, 3], dtype=torch.int32, device=DEVICE)
    counts = torch.histc(experts, bins=4, min=0, max=3)
    assert (counts.tolist(), counts.dtype) == ([1, 2, 0, 1], torch.int32)


@pytest.mark.parametrize(
    "make",
    [
        lambda p: torch.optim.AdamW(p, foreach=True), lambda p: torch.optim.AdamW(p, fused=True),
        torch.optim.Muon, lambda p: torch.optim.SGD(p, 0.1, momentum=0.9),
    ],
    ids=["foreach", "fused", "muon", "sgd"],
)  # fmt: skip
def test_optimizers(make):
    values = []
    for device in ("cpu", DEVICE):
        parameter = nn.Parameter(torch.linspace(-1, 1, 64).reshape(8, 8).to(device))
        optimizer = make([parameter])
        for step in range(3):
            parameter.grad = parameter.detach() * (0.1 + step)
            optimizer.step()
        values.append(parameter.detach().cpu())
    assert torch.allclose(values[0], values[1], atol=1e-6)


def test_the_fused_optimizer_of_torch_npu():
    import torch_npu

    parameter = nn.Parameter(torch.linspace(-1, 1, 64, device=DEVICE))
    expected = nn.Parameter(parameter.detach().cpu())
    ours, theirs = torch_npu.optim.NpuFusedAdamW([parameter], lr=1e-2), torch.optim.AdamW([expected], lr=1e-2)
    for _ in range(3):
        for optimizer, values in ((ours, parameter), (theirs, expected)):
            optimizer.zero_grad()
            (values**2).sum().backward()
            optimizer.step()
    assert torch.allclose(parameter.detach().cpu(), expected.detach(), atol=1e-6)


def test_autocast():
    with torch.autocast("npu", dtype=torch.bfloat16):
        product = F.linear(torch.randn(2, 4, device=DEVICE), torch.randn(3, 4, device=DEVICE))
        shares = torch.softmax(product, -1)
    assert (product.dtype, shares.dtype) == (torch.bfloat16, torch.float32)


def test_a_cast_of_torch_npu():
    import torch_npu

    x = torch.ones(3, device=DEVICE)
    for cast in (torch_npu.npu_dtype_cast(x, torch.half), torch_npu._npu_dtype_cast(x, torch.half)):
        assert (cast.dtype, cast.device) == (torch.float16, x.device)
    x.requires_grad_()
    (2 * torch_npu.npu_dtype_cast(x, torch.half)).sum().backward()
    assert (x.grad.tolist(), x.grad.dtype) == ([2, 2, 2], torch.float32)


def test_the_profiler_of_torch():
    with torch.profiler.profile() as profile:
        torch.ones(3, device=DEVICE) + 1
    assert any(event.key == "aten::add" for event in profile.key_averages())


def test_a_generator_is_of_the_device():
    generators = {device: torch.Generator(device) for device in ("cpu", DEVICE)}
    for device, other in (("cpu", DEVICE), (DEVICE, "cpu")):
        torch.rand(3, device=device, generator=generators[device])
        with pytest.raises(RuntimeError, match="device type for generator but found"):
            torch.rand(3, device=device, generator=generators[other])


def test_random_numbers_follow_the_seed_and_the_state():
    torch.npu.manual_seed(5)
    first = torch.randn(4, device=DEVICE)
    state = torch.npu.get_rng_state()
    second = torch.randn(4, device=DEVICE)
    torch.npu.set_rng_state(state)
    assert torch.equal(torch.randn(4, device=DEVICE), second)
    torch.npu.manual_seed(5)
    assert torch.equal(torch.randn(4, device=DEVICE), first)
    assert not torch.equal(first, second)


def test_dropout_is_the_same_when_activations_are_recomputed():
    torch.manual_seed(3)
    model = nn.Sequential(nn.Linear(64, 64), nn.Dropout(0.5), nn.Linear(64, 1)).to(DEVICE)
    x = torch.randn(8, 64, device=DEVICE)
    gradients = []
    for wrap in (lambda t: model(t), lambda t: checkpoint(model, t, use_reentrant=False)):
        torch.npu.manual_seed(7)
        model.zero_grad()
        wrap(x).sum().backward()
        gradients.append(model[0].weight.grad.cpu())
    assert torch.equal(*gradients)
    state = torch.get_rng_state()
    model(x)
    assert torch.equal(torch.get_rng_state(), state)  # the CPU's own numbers are another sequence


def test_streams_and_events():
    stream, before, after = torch.npu.Stream(), *(torch.npu.Event(enable_timing=True) for _ in range(2))
    with torch.npu.stream(stream):
        before.record()
        x = torch.ones(4, device=DEVICE) + 1
        after.record()
    torch.npu.current_stream().wait_stream(stream)
    torch.npu.synchronize()
    assert before.elapsed_time(after) >= 0
    assert x.sum().item() == 8


def test_memory_is_counted_and_runs_out():
    torch.npu.reset_peak_memory_stats()
    before = torch.npu.memory_allocated()
    x = torch.empty(1 << 20, device=DEVICE)
    assert 4 << 20 <= torch.npu.memory_allocated() - before < (4 << 20) + 4096
    del x
    assert torch.npu.memory_allocated() == before
    assert torch.npu.max_memory_allocated() >= before + (4 << 20)
    with pytest.raises(torch.OutOfMemoryError, match="64.00 GiB total capacity"):
        torch.empty(65 << 30, dtype=torch.uint8, device=DEVICE)
    torch.ones(3, device=DEVICE)  # what fits still can be had
    with pytest.raises(torch.OutOfMemoryError):  # made on the host first
        torch.ones(1 << 45, dtype=torch.uint8, device=DEVICE)
    halves = [torch.empty(31 << 30, dtype=torch.uint8, device=DEVICE) for _ in range(2)]  # the host has not as much
    del halves[0]
    torch.empty(31 << 30, dtype=torch.uint8, device=DEVICE)
    with pytest.raises(torch.OutOfMemoryError):
        torch.empty(33 << 30, dtype=torch.uint8, device=DEVICE)  # beside the other half
    del halves
    torch.empty(60 << 30, dtype=torch.uint8, device=DEVICE)  # cached memory is given back for it
    torch.npu.empty_cache()
    assert torch.npu.memory_reserved() < 1 << 30


def test_pinned_memory_and_copies():
    pinned = torch.randn(4).pin_memory()
    assert pinned.is_pinned()
    assert not torch.randn(4).is_pinned()
    moved = pinned.to(DEVICE, non_blocking=True)
    assert torch.equal(moved.to("npu:1").cpu(), pinned)
    assert moved.to("npu:1").device.index == 1


def test_devices_do_not_mix():
    here, there, host = torch.ones(2, 2, device=DEVICE), torch.ones(2, 2, device="npu:1"), torch.ones(2, 2)
    for function in (lambda: here @ host, lambda: here + host, lambda: host + here):
        with pytest.raises(RuntimeError, match=r"found at least two devices, .*npu:0.*cpu|cpu.*npu:0"):
            function()
    with pytest.raises(RuntimeError, match="found at least two devices, npu:0 and npu:1"):
        here + there
    assert torch.equal(here[torch.tensor([0])].cpu(), host[:1])  # indices may be on the host, nothing else
    for function in (
        lambda: host[torch.tensor([0], device=DEVICE)], lambda: host[here > 0],
        lambda: here.index_put((torch.tensor([0]),), host[:1]),
    ):  # fmt: skip
        with pytest.raises(RuntimeError, match="found at least two devices"):
            function()
    assert (here * torch.tensor(2.0)).sum().item() == 8  # a number is no tensor of another device
    with pytest.raises(Exception, match="CUDA"):
        host.cuda()


def test_there_are_so_many_devices_and_no_more():
    with pytest.raises(RuntimeError, match=r"(?s)107001.*device 8 was asked for, 8 are emulated"):
        torch.npu.set_device(8)


VISIBLE = """
import os, sys, torch
for text in sys.argv[1:]:
    os.environ["ASCEND_RT_VISIBLE_DEVICES"] = text
    print(torch.npu.device_count())
os.environ["ASCEND_RT_VISIBLE_DEVICES"] = "2,3,5,32,1"
print(torch.npu.device_count(), torch.npu.get_device_properties(2).uuid)
try:
    torch.npu.set_device(3)
except RuntimeError as error:
    print(error)
"""


def test_a_process_sees_the_devices_that_a_variable_names():
    lists = {"": 0, ",": 0, "0,": 1, "0, 1": 1, "0,1": 2, "0,0": 0, "1,0": 0, "npu0": 0, "0,32,0": 1, "7": 1}
    program = [sys.executable, "-c", VISIBLE, *lists]
    *counts, last, refusal = subprocess.run(program, capture_output=True, text=True, timeout=120).stdout.split("\n", 11)
    assert counts == [str(count) for count in lists.values()]
    assert last.replace("-", "") == "3 " + b"emulated-npu-05\0".hex()
    assert "device 3 was asked for, 3 are visible: see ASCEND_RT_VISIBLE_DEVICES" in refusal


def test_extensions_in_cpp_find_what_they_link(tmp_path):
    source = 'extern "C" const char* aclrtGetSocName(); extern "C" const char* soc() { return aclrtGetSocName(); }'
    libraries = ["-L" + os.environ["ASCEND_HOME_PATH"] + "/lib64", "-lascendcl"]
    command = ["g++", "-x", "c++", "-shared", "-fPIC", "-", *libraries, "-o", str(tmp_path / "soc.so")]
    subprocess.run(command, input=source, text=True, check=True, timeout=60)
    extension = ctypes.CDLL(str(tmp_path / "soc.so"))
    extension.soc.restype = ctypes.c_char_p
    assert extension.soc().decode() == torch.npu.get_device_name()


def test_pyacl_tells_facts_and_refuses_all_else_by_name():
    import acl

    assert acl.get_soc_name() == torch.npu.get_device_name()
    assert acl.rt.get_device_count() == (torch.npu.device_count(), 0)
    assert acl.rt.get_mem_info(1) == (*torch.npu.mem_get_info(), 0)
    with pytest.raises(
        AttributeError, match="acl.rt.malloc: .*get_soc_name, rt.get_device_count and rt.get_mem_info only"
    ):
        acl.rt.malloc(1)
    assert not hasattr(acl, "init")


def test_an_operator_without_a_kernel_is_named():
    import torch_npu

    with pytest.raises(NotImplementedError, match="no kernel for aten::_masked_scale"):
        torch._masked_scale(torch.ones(3, device=DEVICE), torch.ones(3, device=DEVICE), 2.0)  # the CPU has none either
    with pytest.raises(NotImplementedError, match="no kernel for npu::npu_sub_sample"):
        torch_npu.npu_sub_sample(torch.ones(3, dtype=torch.int32, device=DEVICE), 2, 0.5)


def test_what_a_fault_of_memory_has_spoilt_is_not_read():
    from torch_npu.npu import _recovery

    x, y = (torch.ones(1 << 20, device=DEVICE) for _ in range(2))
    _recovery.set_npu_tensor_unsafe_check_flag(True)
    try:
        _recovery.mark_all_npu_tensor_unsafe(0)
        with pytest.raises(RuntimeError, match="unsafe data in the input tensor"):
            x + y
        x.copy_(torch.zeros(1 << 20))
        assert (x + 1).sum().item() == 1 << 20
        with pytest.raises(RuntimeError, match="unsafe data in the input tensor"):
            y.sum()
    finally:
        _recovery.set_npu_tensor_unsafe_check_flag(False)


def test_references_may_take_lengths_from_the_host_and_return_tensors_of_it():
    from longcat.emulator.reference import OnHost, kernel

    library = torch.library.Library("npu", "FRAGMENT")
    for argument in ("actual_seq_lengths", "mask"):
        name = f"emulator_with_{argument}"
        library.define(f"{name}(Tensor x, Tensor {argument}) -> (Tensor, Tensor, Tensor?)")
        torch.ops.longcat_emulator.install_references([f"npu::{name}"])
        library.impl(name, kernel(name, lambda x, of_host: (x.t(), OnHost(of_host + 1), None)), "PrivateUse2")
    x, counts = torch.ones(2, 3, device=DEVICE), torch.tensor([4])
    moved, kept, absent = torch.ops.npu.emulator_with_actual_seq_lengths(x, counts)
    assert (moved.device, moved.shape, moved.is_contiguous()) == (x.device, (3, 2), True)
    assert (kept.device.type, kept.tolist(), absent) == ("cpu", [5], None)
    with pytest.raises(RuntimeError, match="found at least two devices"):
        torch.ops.npu.emulator_with_mask(x, counts)
    with torch.npu.graph(graph := torch.npu.NPUGraph()):
        moved, _, _ = torch.ops.npu.emulator_with_actual_seq_lengths(x, counts)
    x.fill_(3)
    graph.replay()
    assert moved.tolist() == [[3.0, 3.0]] * 3


def test_what_one_operator_takes_from_the_host_another_does_not():
    x, number, lengths = torch.ones(2, 4, device=DEVICE), torch.ones(4), torch.tensor([1, 2], dtype=torch.int32)
    whole = torch.ones(1, dtype=torch.int8)
    calls = (
        lambda: torch.ops.npu.npu_anti_quant(
            x.to(torch.int8), number.to(DEVICE), offset=number, dst_dtype=torch.float16
        ),
        lambda: torch.ops.npu.npu_normalize_batch(x, lengths),
        lambda: torch.ops.npu.npu_rms_norm_quant(x.half(), *[number.half().to(DEVICE)] * 2, x[0, :1].half(), whole),
    )
    for call in calls:
        with pytest.raises(RuntimeError, match="found at least two devices"):
            call()


def test_save_and_load():
    file, x = io.BytesIO(), torch.randn(3, device=DEVICE)
    torch.save({"x": x}, file)
    for where, expected in (("cpu", "cpu"), (None, "npu")):
        file.seek(0)
        loaded = torch.load(file, weights_only=True, map_location=where)["x"]
        assert loaded.device.type == expected
        assert torch.equal(loaded.cpu(), x.cpu())


def test_compiled_graphs_without_a_code_generator():
    compiled = torch.compile(lambda x: (x * 2).sin(), backend="aot_eager")
    assert torch.equal(compiled(torch.ones(3, device=DEVICE)).cpu(), (torch.ones(3) * 2).sin())


def assert_same(function, inputs, tolerance=1e-5):
    """The value and all gradients, on the device and on the CPU."""
    results = []
    for device in ("cpu", DEVICE):
        leaves = [x.to(device).requires_grad_() for x in (t.detach().clone() for t in inputs)]
        value = function(*leaves)
        value.float().sin().sum().backward()
        results.append([value, *(leaf.grad for leaf in leaves)])
    for expected, found in zip(*results, strict=True):
        assert found.device.type == "npu"
        assert torch.allclose(found.cpu(), expected, atol=tolerance, rtol=tolerance)


def test_devices_have_a_context_when_they_are_used():
    program = """
import torch, torch_npu
torch_npu.npu.use_compatible_impl(True)  # asks CANN, not torch_npu's own list
context = torch_npu._C._npu_hasPrimaryContext
assert not context(5)
x = torch.ones(3, device="npu:2", requires_grad=True)
(x * 2).sum().backward()
assert x.grad.tolist() == [2.0] * 3
assert context(2) and not context(3)
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=300)
