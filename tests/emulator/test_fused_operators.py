"""torch_npu's fused norms, activations, rotary embeddings, losses, optimizers and dropout against plain torch."""

import math

import pytest
import torch
import torch.nn.functional as F

from tests.emulator.same import DEVICE, assert_same, move

pytestmark = [pytest.mark.emulator, pytest.mark.usefixtures("seed")]


ROUND = torch.randn(3, 4, 8).half().float()
X, Y, GAMMA, BETA = torch.randn(3, 4, 8), torch.randn(3, 4, 8), torch.rand(8) + 0.5, torch.randn(8)
IMAGE, CHANNELS, SHIFTS = torch.randn(2, 6, 5, 3), torch.rand(6) + 0.5, torch.randn(6)
LABELS = torch.rand(5, 7).softmax(-1)


WITH_GRADIENTS = {
    "add_layer_norm": (
        lambda npu, *t: npu.npu_add_layer_norm(*t), lambda x, y, g, b: F.layer_norm(x + y, (8,), g, b),
        (X, Y, GAMMA, BETA),
    ),
    "sum of add_layer_norm": (
        lambda npu, x, y: npu.npu_add_layer_norm(x, y, move(GAMMA), move(BETA), 1e-5, True)[3], lambda x, y: x + y,
        (X, Y),
    ),
    "deep_norm": (
        lambda npu, x, y, b, g: npu.npu_deep_norm(x, y, b, g, 0.3, 1e-5)[2],
        lambda x, y, b, g: F.layer_norm(0.3 * x + y, (8,), g, b), (X, Y, BETA, GAMMA),
    ),
    "group_norm_swish": (
        lambda npu, x, g, b: npu.npu_group_norm_swish(x, 3, g, b, 1e-5, 0.7),
        lambda x, g, b: (lambda n: n * torch.sigmoid(0.7 * n))(F.group_norm(x, 3, g, b)), (IMAGE, CHANNELS, SHIFTS),
    ),
    "mish": (lambda npu, x: npu.npu_mish(x), F.mish, (X,)),
    "fast_gelu": (lambda npu, x: npu.fast_gelu(x), lambda x: x * torch.sigmoid(1.702 * x), (X,)),
    "geglu": (
        lambda npu, x: npu.npu_geglu(x), lambda x: x[..., :4] * F.gelu(x[..., 4:], approximate="tanh"), (X,)
    ),
    "geglu of the left half, exact": (
        lambda npu, x: npu.npu_geglu(x, 1, 0, True), lambda x: F.gelu(x[:, :2]) * x[:, 2:], (X,)
    ),
    "softmax_cross_entropy_with_logits": (
        lambda npu, x: npu.npu_softmax_cross_entropy_with_logits(x, move(LABELS)),
        lambda x: -(LABELS * x.log_softmax(-1)).sum(-1), (torch.randn(5, 7),),
    ),
    "dropout_with_add_softmax that drops nothing": (
        lambda npu, x, y: npu.npu_dropout_with_add_softmax(x, y, 0.3, 0.0, -1)[2],
        lambda x, y: (y + 0.3 * x).softmax(-1), (X, Y),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", WITH_GRADIENTS)
def test_values_and_gradients(npu, name):
    ours, plain, inputs = WITH_GRADIENTS[name]
    assert_same(lambda *t: ours(npu, *t), plain, *inputs, tolerance=2e-5)


def clipped_swiglu(x, interleaved):
    a, b = (x[..., ::2], x[..., 1::2]) if interleaved else x.chunk(2, -1)
    a, b = a.clamp(max=0.8), b.clamp(-0.8, 0.8)
    return a * torch.sigmoid(1.5 * a) * (b + 0.5)


def rms(x, gamma=GAMMA):
    return x * (x.square().mean(-1, keepdim=True) + 1e-6).rsqrt() * gamma


VALUES = {
    "silu_": (lambda npu: npu.npu_silu_(move(X.clone())), F.silu(X)),
    "gelu_mul": (lambda npu: npu.npu_gelu_mul(move(X)), F.gelu(X[..., :4]) * X[..., 4:]),
    "clipped_swiglu": (
        lambda npu: npu.npu_clipped_swiglu(move(X), alpha=1.5, limit=0.8, bias=0.5), clipped_swiglu(X, True)
    ),
    "clipped_swiglu of the first rows": (
        lambda npu: npu.npu_clipped_swiglu(
            move(X), group_index=move(torch.tensor([1, 4])), alpha=1.5, limit=0.8, bias=0.5, interleaved=False
        ),
        clipped_swiglu(X, False) * (torch.arange(12) < 5).view(3, 4, 1),
    ),
    "group_norm_silu": (
        lambda npu: npu.npu_group_norm_silu(move(IMAGE), move(CHANNELS), move(SHIFTS), 2)[0],
        F.silu(F.group_norm(IMAGE, 2, CHANNELS, SHIFTS)),
    ),
    "add_rms_norm_cast": (
        lambda npu: npu.npu_add_rms_norm_cast(*(move(t.half()) for t in (ROUND, ROUND, GAMMA)))[0],
        rms(2 * ROUND, GAMMA.half().float()).half().float(),
    ),
    "add_rms_norm_v2_functional": (
        lambda npu: torch.ops.npu.npu_add_rms_norm_v2_functional(*map(move, (X, Y, GAMMA)))[1], rms(X + Y)
    ),
    "layer_norm_eval": (lambda npu: npu.npu_layer_norm_eval(move(X), [4, 8]), F.layer_norm(X, (4, 8))),
    "normalize_batch": (
        lambda npu: npu.npu_normalize_batch(move(X), move(torch.tensor([8, 3, 5], dtype=torch.int32)), 1)[1],
        (X[1] - X[1, :, :3].mean()) / (X[1, :, :3].std() + 1e-5),
    ),
    "masked_softmax_with_rel_pos_bias": (
        lambda npu: npu.npu_masked_softmax_with_rel_pos_bias(move(IMAGE), None, move(IMAGE[:1]), 0.5),
        (IMAGE * 0.5 + IMAGE[:1]).softmax(-1),
    ),
    "batch_norm_reduce": (lambda npu: npu.batch_norm_reduce(move(IMAGE), 1e-5)[1], IMAGE.square().sum((0, 2, 3))),
}  # fmt: skip


@pytest.mark.parametrize("name", VALUES)
def test_values(npu, name):
    ours, expected = VALUES[name]
    torch.testing.assert_close(ours(npu).cpu(), expected, rtol=2e-5, atol=2e-5)


def test_the_sum_of_an_rms_norm_in_place(npu):
    x, y = move(X.clone()), move(Y.clone())
    reciprocal = npu.npu_add_rms_norm_v2(x, y, move(GAMMA))
    torch.testing.assert_close(x.cpu(), rms(X + Y))
    torch.testing.assert_close(y.cpu(), X + Y)
    assert (reciprocal.shape, reciprocal.dtype) == ((3, 4, 1), torch.float32)


def test_the_attention_output_is_normed_with_its_gradients(npu):
    grads = torch.ops.npu.npu_layernorm_grad(
        move(Y), move(X), [8], *(move(t) for t in torch.native_layer_norm(X, [8], GAMMA, BETA, 1e-5)[1:]), move(GAMMA),
        move(BETA),
    )  # fmt: skip
    leaves = [t.clone().requires_grad_() for t in (X, GAMMA, BETA)]
    F.layer_norm(leaves[0], (8,), *leaves[1:]).backward(Y)
    for found, leaf in zip(grads, leaves, strict=True):
        torch.testing.assert_close(found.cpu(), leaf.grad)


@pytest.mark.parametrize(
    "ours",
    [
        lambda npu, g, **out: npu.npu_apply_adam(0.9, 0.99, 0.1, 0.9, 0.99, 1e-8, g, False, False, **out),
        lambda npu, g, **out: npu.npu_apply_adam_w(1.0, 1.0, 0.1, 0.0, 0.9, 0.99, 1e-8, g, None, False, False, **out),
    ],
    ids=["adam", "adam_w"],
)
def test_one_step_of_adam(npu, ours):
    parameter, gradient = torch.nn.Parameter(torch.randn(5)), torch.randn(5)
    state = [parameter.detach().clone().to(DEVICE), torch.zeros(5, device=DEVICE), torch.zeros(5, device=DEVICE)]
    ours(npu, move(gradient), out=state)
    parameter.grad = gradient
    torch.optim.AdamW([parameter], lr=0.1, betas=(0.9, 0.99), weight_decay=0.0).step()
    torch.testing.assert_close(state[0].cpu(), parameter.detach(), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(state[2].cpu(), 0.01 * gradient**2)
    with pytest.raises(RuntimeError, match="out="):
        ours(npu, move(gradient))


def test_bert_and_mbert_steps(npu):
    values, gradient = torch.randn(5), torch.randn(5)
    for mode, clip, step in ((0, 1.0, None), (1, -1.0, 0.3)):
        state = [move(t) for t in (values.clone(), torch.zeros(5), torch.zeros(5))]
        npu.npu_bert_apply_adam(0.1, 0.9, 0.99, 1e-6, move(gradient), clip, 2.0, 0.01, step, mode, out=state)
        scaled = gradient / 2 if mode == 0 else gradient
        update = 0.1 * scaled / ((0.01 * scaled**2).sqrt() + 1e-6)
        expected = values - 0.1 * 0.01 * values - (step or 0.1) * update
        torch.testing.assert_close(state[0].cpu(), expected)


def test_a_vocabulary_in_two_parts(npu):
    x, weight, target = torch.randn(10, 16).half(), torch.randn(256, 16).half(), torch.randint(0, 256, (10,))
    parts = [
        npu.npu_fused_linear_online_max_sum(move(x), move(weight[a : a + 128]), move(target), a, a + 127, True)
        for a in (0, 128)
    ]
    without = npu.npu_fused_linear_online_max_sum(move(x), move(weight[:128]), move(target), 0, 127)
    assert without[5] is None and torch.equal(without[1], parts[0][1])
    maximum = torch.maximum(parts[0][0], parts[1][0])
    total = sum(p[1] * (p[0] - maximum).exp() for p in parts)
    here = [(target >= a) & (target < a + 128) for a in (0, 128)]
    predicted = sum(torch.where(move(of), p[2] + p[0] - maximum, 0.0) for p, of in zip(parts, here, strict=True))
    leaves = [t.float().requires_grad_() for t in (x, weight)]
    expected = F.cross_entropy(leaves[0] @ leaves[1].T, target, reduction="none")
    expected.sum().backward()
    gradients = []
    for part, a in zip(parts, (0, 128), strict=True):
        loss, softmax = npu.npu_fused_cross_entropy_loss_with_max_sum(
            maximum, total, predicted, vocab_parallel_logits=part[5]
        )
        torch.testing.assert_close(loss.cpu(), expected.detach(), rtol=1e-3, atol=1e-3)
        for named in ({"softmax": softmax}, {"logits_max": maximum, "sum_exp_logits": total}):
            gradients.append(
                npu.npu_fused_linear_cross_entropy_loss_with_max_sum_backward(
                    torch.ones(10, device=DEVICE), move(x), move(weight[a : a + 128]), part[3], part[4], **named
                )
            )
    torch.testing.assert_close((gradients[0][0] + gradients[2][0]).cpu().float(), leaves[0].grad, rtol=0.02, atol=0.05)
    for found in gradients[:2]:
        torch.testing.assert_close(found[1].cpu().float(), leaves[1].grad[:128], rtol=0.02, atol=0.02)


def test_masks_of_dropout(npu):
    x = torch.randn(30, 7)
    y, mask = npu._npu_dropout(move(x), 0.4)
    assert (mask.shape, mask.dtype) == ((math.ceil(210 / 128) * 16,), torch.uint8)
    again, same = torch.ops.npu.npu_dropout_do_mask(move(x), mask, 0.4)
    assert torch.equal(again, y) and torch.equal(same, mask)
    made = npu.npu_dropout_gen_mask([30, 7], 0.4, dtype=torch.float32, device=DEVICE)
    assert (made.device.type, made.shape, made.dtype) == ("npu", mask.shape, mask.dtype) and made.any()
    kept = y.cpu() != 0
    assert 0.4 < kept.float().mean() < 0.8
    torch.testing.assert_close(y.cpu(), x * kept / 0.6)
    leaf = move(x).requires_grad_()
    y, mask = npu._npu_dropout(leaf, 0.4)
    y.sum().backward()
    torch.testing.assert_close(leaf.grad, torch.where(y == 0, 0.0, 1 / 0.6))
    full = npu._npu_dropout_gen_mask(move(x), [200], 0.0, 1, 0)
    assert full.tolist() == [255] * 25 + [0] * 7
    with pytest.raises(RuntimeError, match="between 0 and 1"):
        npu._npu_dropout(move(x), 1.5)


def test_exponential_numbers(npu):
    x = torch.empty(20_000, device=DEVICE)
    torch.ops.npu.npu_sim_exponential_(x, 2.0)
    assert x.min() > 0 and abs(x.mean().item() - 0.5) < 0.02
    with pytest.raises(RuntimeError, match="lambd > 0.0"):
        torch.ops.npu.npu_sim_exponential_(x, 0.0)


def rotated(x, cosine, sine, half):
    a, b = x.chunk(2, -1) if half else (x[..., ::2], x[..., 1::2])
    both = a * cosine - b * sine, b * cosine + a * sine
    return torch.cat(both, -1) if half else torch.stack(both, -1).flatten(-2)


@pytest.mark.parametrize("mode", ["half", "interleave"])
@pytest.mark.parametrize("kinds", [None, "default", "interleave"])
def test_positions_of_several_kinds(npu, mode, kinds):
    table = torch.randn(20, 32)
    positions = torch.randint(0, 20, (5,) if kinds is None else (3, 5))
    query, key = torch.randn(5, 2 * 48), torch.randn(5, 48)
    sections = None if kinds is None else [6, 5, 5]
    cosine, sine = table[positions].chunk(2, -1)
    if kinds is not None:
        if kinds == "default":
            owner = torch.tensor([0] * 6 + [1] * 5 + [2] * 5)
        else:
            owner = torch.tensor([i % 3 if i < 15 else 0 for i in range(16)])
        cosine, sine = (t.permute(1, 2, 0).gather(2, owner.expand(5, 16)[..., None])[..., 0] for t in (cosine, sine))
    found = npu.npu_mrope(
        *map(move, (positions, query, key, table)), 48, mrope_section=sections, rotary_mode=mode,
        cache_mode=kinds or "default",
    )  # fmt: skip
    for x, y in zip((query, key), found, strict=True):
        heads = x.view(5, -1, 48)
        turned = rotated(heads[..., :32], cosine[:, None], sine[:, None], mode == "half")
        torch.testing.assert_close(y.cpu(), torch.cat((turned, heads[..., 32:]), -1).flatten(1))


@pytest.mark.parametrize("mode", ["Norm", "PA_BNSD", "PA_NZ", "PA_BLK_BNSD"])
def test_new_latents_go_into_the_cache(npu, mode):
    kv, gamma = torch.randn(2, 1, 3, 48).half(), torch.rand(32).half()
    cosine, sine = torch.randn(2, 1, 3, 16).half(), torch.randn(2, 1, 3, 16).half()
    shapes = [(2, 1, 8, 16), (2, 1, 8, 32)] if mode == "Norm" else [(4, 4, 1, 16), (4, 4, 1, 32)]
    index = {
        "Norm": torch.tensor([[0, 1, 2], [5, 6, -1]]), "PA_BLK_BNSD": torch.tensor([4, 12])
    }.get(mode, torch.tensor([5, 6, 7, 12, 13, -1]))  # fmt: skip
    caches = [torch.zeros(shape, dtype=torch.float16, device=DEVICE) for shape in shapes]
    named = {"cache_mode": mode, "is_output_kv": True}
    found = npu.npu_kv_rmsnorm_rope_cache(*map(move, (kv, gamma, cosine, sine, index)), *caches, **named)
    normed = F.rms_norm(kv[..., :32].float(), (32,), gamma.float(), 1e-5)
    pairs = kv[..., 32:].float()
    half = torch.cat((pairs[..., ::2], pairs[..., 1::2]), -1)
    turned = half * cosine + torch.cat((-half[..., 8:], half[..., :8]), -1) * sine
    for cache, tokens, result in zip(found[:2], (turned, normed), found[2:], strict=True):
        torch.testing.assert_close(result.cpu().float(), tokens, rtol=0.01, atol=0.01)
        whole, width = cache.cpu().float(), tokens.shape[-1]
        if mode == "Norm":
            rows = torch.stack([whole[0, 0, 0], whole[0, 0, 2], whole[1, 0, 5]])
        elif mode == "PA_NZ":
            apart = whole.view(4, width // 16, 4, 16)
            rows = torch.stack([apart[1, :, 1].flatten(), apart[1, :, 3].flatten(), apart[3, :, 0].flatten()])
        else:
            places = [4, 6, 12] if mode == "PA_BLK_BNSD" else [5, 7, 12]
            rows = whole.view(-1, width)[places]
        torch.testing.assert_close(rows, tokens[[0, 0, 1], 0, [0, 2, 0]], rtol=0.01, atol=0.01)


def test_before_latent_attention(npu):
    tokens, width, latent, heads, size, rotary, keys = 3, 24, 16, 2, 8, 4, 12
    shapes = [(1, tokens, width), (width, latent), (latent, heads * (size + rotary)), (heads, size, keys),
              (width, keys + rotary), (latent,), (keys,), (1, tokens, rotary), (1, tokens, rotary)]  # fmt: skip
    given = [(torch.randn(s) * 0.5).bfloat16() for s in shapes]
    caches = [torch.zeros(2, 16, 1, n, dtype=torch.bfloat16, device=DEVICE) for n in (keys, rotary)]
    index = torch.tensor([[17, 18, 3]])
    query, query_rope, kv_cache, kr_cache = npu.npu_mla_prolog(*map(move, given), move(index), *caches)
    f = [t.float() for t in given]
    normed = F.rms_norm(f[0] @ f[1], (latent,), f[5], 1e-5)
    up = (normed @ f[2]).view(1, tokens, heads, size + rotary)

    def turned(part, c, s):
        half = torch.cat((part[..., ::2], part[..., 1::2]), -1)
        return half * c + torch.cat((-half[..., 2:], half[..., :2]), -1) * s

    close = {"rtol": 0.05, "atol": 0.05}
    torch.testing.assert_close(query.cpu().float(), torch.einsum("btnd,ndc->btnc", up[..., :size], f[3]), **close)
    expected = turned(up[..., size:], f[8].unsqueeze(2), f[7].unsqueeze(2))
    torch.testing.assert_close(query_rope.cpu().float(), expected, **close)
    down = f[0] @ f[4]
    latents = F.rms_norm(down[..., :keys], (keys,), f[6], 1e-5)[0]
    torch.testing.assert_close(kv_cache.cpu().float().view(-1, keys)[index[0]], latents, **close)
    expected = turned(down[..., keys:], f[8], f[7])[0]
    torch.testing.assert_close(kr_cache.cpu().float().view(-1, rotary)[index[0]], expected, **close)
    with pytest.raises(RuntimeError, match="bfloat16"):
        npu.npu_mla_prolog(move(given[0].float()), *map(move, given[1:]), move(index), *caches)


REFUSED = {
    "divisible|even": lambda npu: npu.npu_geglu(move(torch.randn(2, 5))),
    "one shape": lambda npu: npu.npu_add_layer_norm(move(X), move(Y[:1]), move(GAMMA), move(BETA)),
    "last dimensions": lambda npu: npu.npu_rms_norm(move(X), move(GAMMA[:4])),
    "multiple of the groups": lambda npu: npu.npu_group_norm_silu(move(IMAGE), None, None, 4),
    "multiples of 32": lambda npu: npu.npu_scaled_masked_softmax(move(X[None]), move(X[None] > 0)),
    "label_smoothing": lambda npu: npu.npu_cross_entropy_loss(
        move(torch.randn(2, 3)), move(torch.tensor([0, 1])), label_smoothing=1.5
    ),
    "half or interleave": lambda npu: npu.npu_rotary_mul(*[move(X)] * 3, "quarter"),
    "none or tanh": lambda npu: npu.npu_gelu_mul(move(X), approximate="erf"),
    "gamma must be": lambda npu: npu.npu_mhc_pre(
        *map(move, (torch.randn(5, 4, 16).half(), torch.randn(24, 64), torch.ones(3), torch.zeros(24))),
        gamma=move(torch.ones(4, 1)),
    ),
    "square matrices": lambda npu: npu.npu_mhc_sinkhorn(move(torch.randn(2, 4, 8))),
    "out_flag must be 0 or 1, got 2": lambda npu: npu.npu_mhc_sinkhorn(move(torch.randn(2, 4, 4)), out_flag=2),
}


@pytest.mark.parametrize("message", REFUSED)
def test_refused_as_the_documentation_says(npu, message):
    with pytest.raises(RuntimeError, match=message):
        REFUSED[message](npu)


def streams_before(x, phi, alpha, bias, gamma, n=4, norm_eps=1e-6, hc_eps=1e-6):
    normed = x * (x.flatten(-2).square().mean(-1) + norm_eps).rsqrt()[..., None, None] * gamma
    products, sizes = normed.flatten(-2) @ phi.T, [n, n, n * n][: len(alpha)]
    parts = [a * p for a, p in zip(alpha, products.split(sizes, -1), strict=True)]
    before, after, *between = (torch.cat(parts, -1) + bias).split(sizes, -1)
    weights = before.sigmoid() + hc_eps
    return (weights.unsqueeze(-1) * x).sum(-2), 2 * after.sigmoid(), *(t.unflatten(-1, (n, n)) for t in between)


@pytest.mark.parametrize("which", [0, 1, 2])
def test_streams_before_a_layer(npu, which):
    x, phi = torch.randn(5, 4, 16).half(), torch.randn(24, 64) * 0.2
    inputs = (x, phi, torch.tensor([0.5, 1.0, 0.3]), torch.randn(24), torch.rand(4, 16) + 0.5)

    def ours(x, phi, alpha, bias, gamma):
        return npu.npu_mhc_pre(x, phi, alpha, bias, gamma=gamma, out_flag=1)[which]

    def expected(x, *others):
        found = streams_before(x.float(), *others)[which]
        return found.half() if which == 0 else found

    assert_same(ours, expected, *inputs, tolerance=0.02)


@pytest.mark.parametrize("which", [0, 1])
def test_streams_that_are_not_mixed_and_are_not_scaled(npu, which):
    """Without the matrices between streams and without gamma; the two epsilons are not the same."""
    x, phi, eps = torch.randn(2, 3, 4, 16).half(), torch.randn(8, 64) * 0.2, {"norm_eps": 0.5, "hc_eps": 0.25}
    inputs = (x, phi, torch.tensor([0.5, 1.0]), torch.randn(8))

    def expected(x, *others):
        found = streams_before(x.float(), *others, 1.0, **eps)[which]
        return found.half() if which == 0 else found

    assert_same(lambda *t: npu.npu_mhc_pre(*t, **eps, out_flag=1)[which], expected, *inputs, tolerance=0.02)
    assert npu.npu_mhc_pre(*map(move, inputs), **eps)[2].tolist() == [0]


def test_the_gradient_of_streams_is_added_to_that_of_what_comes_after_the_layer(npu):
    inputs = (torch.randn(5, 4, 16).half(), torch.randn(24, 64), torch.ones(3), torch.zeros(24))
    x, phi, alpha, bias = map(move, inputs)
    _, after, between, *kept = npu.npu_mhc_pre(x, phi, alpha, bias, out_flag=1)
    given = (x, phi, alpha, move(torch.randn(5, 16).half()), after, between, *kept, after)
    later = torch.randn(5, 4, 16).half()
    alone, together = (
        npu.npu_mhc_pre_backward(*given, grad_x_post=one)[0].cpu().float() for one in (None, move(later))
    )
    torch.testing.assert_close(together, alone + later.float(), rtol=2e-3, atol=2e-3)


def test_streams_after_a_layer(npu):
    x, layer = torch.randn(5, 4, 16).half(), torch.randn(5, 16).half()
    inputs = (x, torch.rand(5, 4, 4), layer, torch.rand(5, 4))

    def expected(x, mixing, layer, weights):
        mixed = (mixing.unsqueeze(-1) * x.float().unsqueeze(-2)).sum(-3)
        return (mixed + weights.unsqueeze(-1) * layer.float().unsqueeze(-2)).half()

    assert_same(lambda *t: npu.npu_mhc_post(*t), expected, *inputs, tolerance=0.02)
    plain = lambda x, layer, w: (x.float() + w.unsqueeze(-1) * layer.float().unsqueeze(-2)).half()  # noqa: E731
    ours = lambda x, layer, w: npu.npu_mhc_post(x, None, layer, w)  # noqa: E731
    assert_same(ours, plain, x, layer, inputs[3], tolerance=0.02)
    with pytest.raises(RuntimeError, match="h_post dtype must be FLOAT32"):
        npu.npu_mhc_post(move(x), None, move(layer), move(inputs[3].half()))


def test_doubly_stochastic_mixing(npu):
    def expected(x):
        y = x.softmax(-1) + 1e-6
        for step in range(1, 6):
            y = y / (y.sum(-2 if step % 2 else -1, keepdim=True) + 1e-6)
        return y

    ours = lambda x: npu.npu_mhc_sinkhorn(x, num_iters=3, out_flag=1)  # noqa: E731
    assert_same(ours, expected, torch.randn(2, 3, 4, 4))


def test_the_gated_delta_rule_in_chunks_and_steps(npu):
    lengths, tokens = [3, 2], 5
    query, key = (torch.randn(tokens, 2, 8).bfloat16() * 0.3 for _ in range(2))
    value, state = torch.randn(tokens, 4, 6).bfloat16(), torch.randn(2, 4, 6, 8).bfloat16()
    beta, g = torch.rand(tokens, 4).bfloat16(), -torch.rand(tokens, 4)
    expected, final, start = [], [], 0
    for row, length in enumerate(lengths):
        s = state[row].double()
        for t in range(start, start + length):
            q, k = (x[t].double().repeat_interleave(2, 0) for x in (query, key))
            v, b, a = value[t].double(), beta[t].double(), g[t].double().exp()
            outer = lambda u, w: u.unsqueeze(-1) * w.unsqueeze(-2)  # noqa: E731
            s = a[:, None, None] * (s - b[:, None, None] * outer((s * k.unsqueeze(1)).sum(-1), k))
            s = s + b[:, None, None] * outer(v, k)
            expected.append((s * q.unsqueeze(1)).sum(-1) * 0.5)
        final.append(s)
        start += length
    counts = torch.tensor(lengths, dtype=torch.int32)
    options = {"beta": beta, "scale": 0.5, "actual_seq_lengths": counts, "g": g}
    options = {name: move(value) for name, value in options.items()}
    found, last = npu.npu_chunk_gated_delta_rule(*map(move, (query, key, value)), initial_state=move(state), **options)
    close = {"rtol": 0.02, "atol": 0.02}
    torch.testing.assert_close(found.cpu().double(), torch.stack(expected), **close)
    torch.testing.assert_close(last.cpu().double(), torch.stack(final), **close)
    pool, places = torch.zeros(6, 4, 6, 8).bfloat16(), torch.tensor([2, 0, 1, 5, 3], dtype=torch.int32)
    pool[2], pool[5] = state
    pool = move(pool)
    found = npu.npu_recurrent_gated_delta_rule(
        *map(move, (query, key, value)), pool, ssm_state_indices=move(places), **options
    )
    torch.testing.assert_close(found.cpu().double(), torch.stack(expected), **close)
    torch.testing.assert_close(pool[[1, 3]].cpu().double(), torch.stack(final), **close)
