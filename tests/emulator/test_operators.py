"""torch_npu's fused operators against plain torch on the CPU, values and gradients, through torch_npu's autograd."""

import math

import pytest
import torch
import torch.nn.functional as F

from tests.emulator.same import DEVICE, assert_near, assert_same, halves, move

pytestmark = [pytest.mark.emulator, pytest.mark.usefixtures("seed")]


def attention(query, key, value, mask=None, scale=1.0):
    """`[batch, heads, tokens, size]`; keys may have fewer heads; True hides."""
    key, value = (t.repeat_interleave(query.shape[1] // t.shape[1], 1) for t in (key, value))
    scores = query @ key.mT * scale
    return (scores if mask is None else scores.masked_fill(mask, -torch.inf)).softmax(-1) @ value


CAUSAL = torch.ones(16, 16, dtype=torch.bool).triu(1)
COMPRESSED = torch.ones(2048, 2048, dtype=torch.bool).triu(1)


@pytest.mark.parametrize("layout", ["BNSD", "BSND", "BSH", "SBH"])
@pytest.mark.parametrize("key_heads", [4, 2])
def test_fusion_attention(npu, layout, key_heads):
    inputs = [torch.randn(2, heads, 16, 8) for heads in (4, key_heads, key_heads)]
    to = {
        "BNSD": lambda t: t, "BSND": lambda t: t.transpose(1, 2), "BSH": lambda t: t.transpose(1, 2).flatten(2),
        "SBH": lambda t: t.permute(2, 0, 1, 3).flatten(2),
    }[layout]  # fmt: skip

    def ours(*tensors):
        options = {"atten_mask": COMPRESSED.to(DEVICE), "sparse_mode": 2, "scale": 0.3}
        return npu.npu_fusion_attention(*map(to, tensors), 4, layout, **options)

    assert_same(ours, lambda *tensors: to(attention(*tensors, CAUSAL, 0.3)), *inputs)


@pytest.mark.parametrize(
    ("options", "mask"),
    [
        ({}, None),
        ({"atten_mask": CAUSAL}, CAUSAL),
        ({"atten_mask": COMPRESSED, "sparse_mode": 3}, torch.ones(16, 24, dtype=torch.bool).triu(9)),
        (
            {"atten_mask": COMPRESSED, "sparse_mode": 4, "pre_tockens": 3, "next_tockens": 0},
            torch.ones(16, 16, dtype=torch.bool).triu(1) | torch.ones(16, 16, dtype=torch.bool).tril(-4),
        ),
    ],
    ids=["all", "mask", "right-down", "band"],
)
def test_what_attention_may_see(npu, options, mask):
    keys = 16 if mask is None else mask.shape[1]
    inputs = [torch.randn(2, 4, tokens, 8) for tokens in (16, keys, keys)]
    options = {name: move(value) for name, value in options.items()}
    assert_same(lambda *t: npu.npu_fusion_attention(*t, 4, "BNSD", **options), lambda *t: attention(*t, mask), *inputs)


def test_packed_attention_keeps_sequences_apart(npu):
    inputs = [torch.randn(16, 4, size) for size in (12, 12, 8)]  # values are smaller, as in latent attention
    ends = [5, 16]

    def ours(*tensors):
        options = {"actual_seq_qlen": ends, "actual_seq_kvlen": ends, "sparse_mode": 3, "scale": 0.3}
        return npu.npu_fusion_attention(*tensors, 4, "TND", atten_mask=COMPRESSED.to(DEVICE), **options)

    def plain(*tensors):
        parts = []
        for first, last in ((0, 5), (5, 16)):
            part = [t[first:last].transpose(0, 1)[None] for t in tensors]
            mask = torch.ones(last - first, last - first, dtype=torch.bool).triu(1)
            parts.append(attention(*part, mask, 0.3)[0].transpose(0, 1))
        return torch.cat(parts)

    assert_same(ours, plain, *inputs)
    statistics = ours(*map(move, inputs))[1]
    assert (statistics.shape, statistics.dtype) == ((16, 4, 8), torch.float32)


def test_attention_in_bf16(npu):
    inputs = [torch.randn(2, 4, 16, 8).bfloat16() for _ in range(3)]

    def plain(*tensors):
        return attention(*(t.float() for t in tensors), CAUSAL).bfloat16()

    mask = CAUSAL.to(DEVICE)
    ours = lambda *t: npu.npu_fusion_attention(*t, 4, "BNSD", atten_mask=mask)  # noqa: E731
    assert_same(ours, plain, *inputs, tolerance=0.04)  # the gradient is made from the rounded result


def test_dropout_in_attention_is_the_same_in_its_gradient(npu):
    query, key = (torch.zeros(1, 1, 64, 64, device=DEVICE) for _ in range(2))
    value = torch.eye(64, device=DEVICE)[None, None].requires_grad_()
    found = npu.npu_fusion_attention(query, key, value, 1, "BNSD", keep_prob=0.5)[0]
    assert 0.3 < (found == 0).float().mean().item() < 0.7
    assert found.max().item() == pytest.approx(2 / 64)
    found.backward(torch.eye(64, device=DEVICE)[None, None])
    assert torch.equal(value.grad, found.detach().mT)


def test_rms_norm(npu):
    inputs = torch.randn(3, 5, 64), torch.rand(64)
    assert_same(npu.npu_rms_norm, lambda x, gamma: F.rms_norm(x, (64,), gamma, 1e-6), *inputs)
    assert npu.npu_rms_norm(*map(move, inputs))[1].shape == (3, 5, 1)


def test_add_rms_norm_has_no_gradient_in_torch_npu(npu):
    inputs = torch.randn(3, 64), torch.randn(3, 64), torch.rand(64)
    normal, _, total = npu.npu_add_rms_norm(*map(move, inputs))
    assert torch.equal(total.cpu(), inputs[0] + inputs[1])
    assert torch.allclose(normal.cpu(), F.rms_norm(inputs[0] + inputs[1], (64,), inputs[2], 1e-6), atol=1e-5)
    with pytest.raises(RuntimeError, match="derivative for npu::npu_add_rms_norm is not implemented"):
        npu.npu_add_rms_norm(*(t.to(DEVICE).requires_grad_() for t in inputs))[0].sum().backward()


def test_swiglu(npu):
    assert_same(npu.npu_swiglu, lambda x: F.silu(x.chunk(2, -1)[0]) * x.chunk(2, -1)[1], torch.randn(3, 8))


@pytest.mark.parametrize(
    ("name", "plain"),
    [("npu_gelu", F.gelu), ("npu_silu", F.silu), ("npu_fast_gelu", lambda x: x * torch.sigmoid(1.702 * x))],
)
def test_activations(npu, name, plain):
    assert_same(getattr(npu, name), plain, torch.randn(3, 8))


def test_scaled_masked_softmax(npu):
    mask = torch.ones(32, 32, dtype=torch.bool).triu(1)[None, None]
    ours = lambda x: npu.npu_scaled_masked_softmax(x, mask.to(DEVICE), 0.3, False)  # noqa: E731
    assert_same(ours, lambda x: (x * 0.3).masked_fill(mask, -1e4).softmax(-1), torch.randn(2, 4, 32, 32))


@pytest.mark.parametrize("mode", ["half", "interleave"])
def test_rotary(npu, mode):
    x, cosine, sine = torch.randn(2, 8, 4, 32), torch.randn(1, 8, 1, 32), torch.randn(1, 8, 1, 32)

    def plain(x, cosine, sine):
        if mode == "half":
            turned = torch.cat((-x[..., 16:], x[..., :16]), -1)
        else:
            turned = torch.stack((-x[..., 1::2], x[..., ::2]), -1).flatten(-2)
        return x * cosine + turned * sine

    assert_same(lambda *t: npu.npu_rotary_mul(*t, mode), plain, x, cosine, sine)


class GroupedMatmul(torch.autograd.Function):
    """What a program has to write: npu_grouped_matmul has no gradient in torch_npu."""

    @staticmethod
    def forward(ctx, x, weight, ends):
        ctx.save_for_backward(x, weight, ends)
        return grouped(x, weight, ends, 0)

    @staticmethod
    def backward(ctx, gradient):
        x, weight, ends = ctx.saved_tensors
        return grouped(gradient, weight.mT, ends, 0), grouped(x.T, gradient, ends, 2), None


def grouped(x, weight, ends, group_type):
    import torch_npu

    options = {"split_item": 3, "group_type": group_type, "group_list_type": 0}
    return torch_npu.npu_grouped_matmul([x.contiguous()], [weight.contiguous()], group_list=ends, **options)[0]


def test_grouped_matmul(npu):
    ends = torch.tensor([5, 5, 20])  # a group has no rows

    def plain(x, weight):
        return torch.cat([x[:5] @ weight[0], x[5:] @ weight[2]])

    inputs = torch.randn(20, 8), torch.randn(3, 8, 6)
    assert_same(lambda x, weight: GroupedMatmul.apply(x, weight, ends.to(DEVICE)), plain, *inputs)
    counts = torch.tensor([5, 0, 15], device=DEVICE)
    x, weight = map(move, inputs)
    found = npu.npu_grouped_matmul([x], [weight], group_list=counts, split_item=2, group_type=0, group_list_type=1)
    assert torch.allclose(found[0].cpu(), plain(*inputs), atol=1e-6)
    with pytest.raises(RuntimeError, match="scale is for x of 8 or 4 bits"):
        npu.npu_grouped_matmul([x], [weight], scale=[x], group_list=counts, split_item=2, group_type=0)


def test_grouped_matmul_has_no_gradient_of_its_own(npu, capfd):
    x, weight = torch.randn(4, 8, device=DEVICE, requires_grad=True), torch.randn(1, 8, 6, device=DEVICE)
    ends = torch.tensor([4], device=DEVICE)
    found = npu.npu_grouped_matmul([x], [weight], group_list=ends, split_item=3, group_type=0)[0]
    assert found.grad_fn.name().endswith("WarnNotImplemented")
    found.sum().backward()  # in the device's thread, which is why the warning is torch's own line and not Python's
    assert "autograd kernel was not registered" in capfd.readouterr().err
    assert x.grad is None


def test_weight_gradients_are_added_up(npu):
    total, x, d_y = torch.ones(2, 3, 5), torch.randn(8, 3).bfloat16(), torch.randn(8, 5).bfloat16()
    there = total.to(DEVICE)
    npu.npu_grouped_matmul_add_(there, x.to(DEVICE), d_y.to(DEVICE), torch.tensor([2, 8], device=DEVICE))
    expected = torch.stack([x[:2].float().T @ d_y[:2].float(), x[2:].float().T @ d_y[2:].float()]) + 1
    assert torch.allclose(there.cpu(), expected, atol=1e-5)


def test_permute_as_documented(npu):
    """The examples in torch_npu's documentation."""
    tokens = torch.tensor([[1, 1, 1], [2, 2, 2], [3, 3, 3], [0, 0, 0]], dtype=torch.bfloat16, device=DEVICE)
    indices = torch.tensor([[0, 4], [4, 3], [4, 2], [1, 1]], device=DEVICE)
    permuted, rows = npu.npu_moe_token_permute(tokens, indices, indices.numel())
    assert permuted[:, 0].tolist() == [1, 0, 0, 3, 2, 1, 2, 3]
    assert rows.tolist() == [0, 5, 6, 4, 7, 3, 1, 2]
    assert rows.dtype == torch.int32
    example = torch.tensor([0, 6, 7, 5, 3, 1, 2, 4], dtype=torch.int32, device=DEVICE)
    probs = torch.ones(4, 2, dtype=torch.bfloat16, device=DEVICE) / 2
    values = torch.tensor([1.0, 0, 0, 3, 2, 1, 2, 3])[:, None].expand(8, 3).to(DEVICE, torch.bfloat16)
    assert npu.npu_moe_token_unpermute(values, example, probs)[:, 0].tolist() == [1.5, 2.0, 1.5, 1.0]


@pytest.mark.parametrize("kept", [None, 14])
def test_permute_and_unpermute(npu, kept):
    tokens, probs = torch.randn(10, 8), torch.rand(10, 2)
    indices = torch.randint(0, 4, (10, 2))

    def ours(x, p):
        permuted, rows = npu.npu_moe_token_permute(x, indices.to(DEVICE), kept)
        return npu.npu_moe_token_unpermute(permuted * 2, rows, p)

    def plain(x, p):
        place = indices.flatten().argsort(stable=True).argsort().reshape(10, 2)
        there = place < (kept or 20)
        return 2 * x * (p * there).sum(1, keepdim=True)

    assert_same(ours, plain, tokens, probs)


def test_unpermute_without_weights(npu):
    rows = torch.randperm(6).to(torch.int32)
    ours = lambda x: npu.npu_moe_token_unpermute(x, rows.to(DEVICE))  # noqa: E731
    assert_same(ours, lambda x: x[rows.long()], torch.randn(6, 4))


@pytest.mark.parametrize("norm_type", [0, 1])
def test_gating(npu, norm_type):
    x, bias = torch.randn(6, 8), torch.randn(8)

    def plain(x):
        scores = x.sigmoid() if norm_type else x.softmax(-1)
        chosen = scores.gather(-1, (scores + bias).topk(3).indices)
        return 2.5 * (chosen / chosen.sum(-1, keepdim=True) if norm_type else chosen)

    options = {"bias": bias.to(DEVICE), "norm_type": norm_type, "routed_scaling_factor": 2.5, "out_flag": True}
    assert_same(lambda x: npu.npu_moe_gating_top_k(x, 3, **options), plain, x)
    _, experts, scores = npu.npu_moe_gating_top_k(x.to(DEVICE), 3, **options)
    expected = x.sigmoid() if norm_type else x.softmax(-1)
    assert torch.allclose(scores.cpu(), expected, atol=1e-6)
    assert torch.equal(experts.cpu().long(), (expected + bias).topk(3).indices)


def test_gating_by_groups(npu):
    x = torch.tensor([[0.9, 0.0, 0.5, 0.6, 0.1, 0.8, 0.3, 0.3]]).logit()
    options = {"k_group": 1, "group_count": 2, "norm_type": 1}
    for mode, expected in ((0, [0, 3]), (1, [0, 3])):
        found = npu.npu_moe_gating_top_k(x.to(DEVICE), 2, group_select_mode=mode, **options)[1]
        assert found.tolist() == [expected]


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_cross_entropy(npu, reduction):
    target = torch.randint(0, 30, (12,))
    plain = lambda x: F.cross_entropy(x, target, reduction=reduction).reshape(-1)  # noqa: E731
    ours = lambda x: npu.npu_cross_entropy_loss(x, target.to(DEVICE), reduction=reduction)  # noqa: E731
    assert_same(ours, plain, torch.randn(12, 30))


def indexer_scores(query, key, weights):
    return torch.einsum("bqnk,bqn->bqk", torch.einsum("bqnd,bkd->bqnk", query, key[:, :, 0]).relu(), weights)


def test_lightning_indexer(npu):
    inputs = halves(2, 16, 4, 8), halves(2, 16, 1, 8), halves(2, 16, 4)
    scores = indexer_scores(*inputs).masked_fill(CAUSAL, -torch.inf)
    found = npu.npu_lightning_indexer(*[move(t.half()) for t in inputs], sparse_count=6, return_value=True)
    values, places = (t[..., :6] for t in scores.sort(dim=-1, descending=True, stable=True))
    seen = values > -torch.inf
    assert torch.equal(found[0][:, :, 0].cpu().long(), torch.where(seen, places, -1))
    assert_near(found[1][:, :, 0].cpu()[seen], values[seen])

    def plain(*tensors):
        taken = indexer_scores(*tensors).gather(-1, places)
        return (taken * seen)[:, :, None]

    def ours(*tensors):
        chosen, values = npu.npu_lightning_indexer(*[t.half() for t in tensors], sparse_count=6, return_value=True)
        return torch.where(chosen >= 0, values, 0).float()

    assert_same(ours, plain, *inputs, tolerance=0.05)


def test_sparse_attention(npu):
    inputs = [halves(2, 16, heads, size) for heads, size in ((4, 8), (1, 8), (1, 8), (4, 4), (1, 4))]
    chosen = torch.full((2, 16, 1, 4), -1, dtype=torch.int32)
    for token in range(16):
        count = min(4, token + 1)
        chosen[:, token, 0, :count] = torch.randperm(token + 1)[:count].to(torch.int32)

    def ours(*given):
        query, key, value, query_rope, key_rope = (t.half() for t in given)
        ropes = {"query_rope": query_rope, "key_rope": key_rope, "return_softmax_lse": True}
        return npu.npu_sparse_flash_attention(query, key, value, chosen.to(DEVICE), 0.3, **ropes)[0].float()

    def plain(query, key, value, query_rope, key_rope):
        seen = torch.zeros(2, 16, 17, dtype=torch.bool)
        places = chosen[:, :, 0].long()
        seen.scatter_(-1, torch.where(places < 0, 16, places), True)
        whole = [torch.cat(pair, -1).transpose(1, 2) for pair in ((query, query_rope), (key, key_rope))]
        return attention(*whole, value.transpose(1, 2), ~seen[:, None, :, :16], 0.3).transpose(1, 2)

    assert_same(ours, plain, *inputs, tolerance=0.01)


def test_the_fused_step_of_adamw(npu):
    values = [torch.rand(8) for _ in range(4)]
    parameter = torch.nn.Parameter(values[0].clone())
    optimizer = torch.optim.AdamW([parameter], lr=0.1, betas=(0.8, 0.9), weight_decay=0.2)
    there = [parameter.detach().clone().to(DEVICE), torch.zeros(8, device=DEVICE), torch.zeros(8, device=DEVICE)]
    for step in range(3):
        parameter.grad = values[step + 1]
        optimizer.step()
        powers = 0.8**step, 0.9**step
        arguments = (*powers, 0.1, 0.2, 0.8, 0.9, 1e-8, values[step + 1].to(DEVICE), None, False, False)
        npu.npu_apply_adam_w(*arguments, out=tuple(there))
    assert torch.allclose(there[0].cpu(), parameter.detach(), atol=1e-6)


def test_tensors_of_two_devices_are_refused(npu):
    with pytest.raises(RuntimeError, match=r"found at least two devices, npu:0 and npu:1! \(in npu::npu_rms_norm\)"):
        npu.npu_rms_norm(torch.ones(2, 8, device=DEVICE), torch.ones(8, device="npu:1"))


def test_what_is_not_emulated_is_named(npu):
    tensors = [torch.ones(1, 1, 4, 8, device=DEVICE, dtype=torch.float16)] * 3
    with pytest.raises(NotImplementedError, match="quantised attention .antiquant_scale. is not emulated"):
        scale = torch.ones(1, device=DEVICE)
        npu.npu_fused_infer_attention_score(*tensors, input_layout="BNSD", antiquant_scale=scale)


def test_sparse_operators_refuse_what_their_kernels_do(npu):
    query, key = move(torch.randn(1, 8, 16).half()).unflatten(1, (4, 2)), move(torch.randn(1, 4, 1, 16).half())
    strided = query[..., :8]
    with pytest.raises(RuntimeError, match="npu_lightning_indexer: query is not contiguous"):
        npu.npu_lightning_indexer(strided, key[..., :8].contiguous(), move(torch.ones(1, 4, 2).half()))
    chosen = torch.tensor([0, -1, 1], dtype=torch.int32).expand(1, 4, 1, 3).contiguous().to(DEVICE)
    with pytest.raises(RuntimeError, match=r"a key behind an absent one"):
        npu.npu_sparse_flash_attention(query, key, key, chosen, 0.3)
    with pytest.raises(RuntimeError, match="npu_sparse_flash_attention: value is not contiguous"):
        npu.npu_sparse_flash_attention(query, key, key.expand(1, 4, 2, 16), chosen, 0.3)


def test_shapes_are_those_of_the_meta_kernels(npu):
    cases = {
        "npu_rms_norm": (torch.ones(4, 8), torch.ones(8)),
        "npu_swiglu": (torch.ones(4, 8),),
        "npu_moe_gating_top_k": (torch.ones(4, 8), 2),
        "npu_moe_token_permute": (torch.ones(4, 8), torch.zeros(4, 2, dtype=torch.int64)),
        "npu_rotary_mul": (torch.ones(1, 4, 2, 8), torch.ones(1, 4, 1, 8), torch.ones(1, 4, 1, 8)),
        "npu_fusion_attention": (*[torch.ones(2, 4, 16, 8)] * 3, 4, "BNSD"),
        "npu_cross_entropy_loss": (torch.ones(4, 9), torch.zeros(4, dtype=torch.int64)),
    }
    for name, arguments in cases.items():
        for device in ("meta", DEVICE):
            moved = [t.to(device) if isinstance(t, torch.Tensor) else t for t in arguments]
            found = getattr(npu, name)(*moved)
            found = found if isinstance(found, (tuple, list)) else [found]
            shapes = [(tuple(t.shape), t.dtype) for t in found if isinstance(t, torch.Tensor) and t.numel()]
            if device == "meta":
                expected = shapes
        if name != "npu_cross_entropy_loss":  # the z-loss has a shape there and no content
            assert shapes == expected, name
        assert math.prod(shapes[0][0]) > 0
