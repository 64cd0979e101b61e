"""torch_npu's attention operators against plain torch on the CPU: every option, values and gradients."""

import re

import pytest
import torch
import torch.nn.functional as F

from tests.emulator.same import DEVICE, assert_near, assert_same, halves, move

pytestmark = [pytest.mark.emulator, pytest.mark.usefixtures("seed")]
CAUSAL_2048 = torch.ones(2048, 2048, dtype=torch.bool).triu(1)
PREFIX_3072 = torch.cat((CAUSAL_2048, torch.arange(2048).ge(1024).expand(1024, 2048)))


def moved(options):
    return {name: move(value) for name, value in options.items()}


def plain(query, key, value, scale=1.0, mask=None, bias=0.0, sink=None):
    """`[batch, heads, tokens, size]`; a bias is added after the scale; True hides; a sink is a logit without a value."""
    key, value = (t.repeat_interleave(query.shape[1] // t.shape[1], 1) for t in (key, value))
    scores = query @ key.mT * scale + bias
    scores = scores if mask is None else scores.masked_fill(mask, -torch.inf)
    if sink is not None:
        scores = torch.cat((scores, sink.view(1, -1, 1, 1).expand(*scores.shape[:3], 1)), -1)
    probabilities = scores.softmax(-1).nan_to_num(0)
    return probabilities[..., : key.shape[2]] @ value


def distance(queries, keys, last=False):
    return torch.arange(keys) - torch.arange(queries)[:, None] - (keys - queries if last else 0)


BIAS = torch.randn(2, 4, 6, 6)
SLOPES = torch.tensor([0.5, 0.25, 0.125, 0.0625])
SINK = torch.tensor([-1.0, 0.0, 1.0, 2.0])
PREFIX = (distance(6, 6) > 0) & (torch.arange(6) >= torch.tensor([2, 5])[:, None, None, None])
OPTIONS = {
    "bias before the scale": ({"pse": BIAS}, {"bias": BIAS * 0.3}),
    "bias after the scale": ({"pse": BIAS, "pse_type": 0}, {"bias": BIAS}),
    "bias of one row": ({"pse": BIAS[:, :, :1], "pse_type": 0}, {"bias": BIAS[:, :, :1]}),
    "slopes": ({"pse": SLOPES, "pse_type": 2}, {"bias": -SLOPES[:, None, None] * distance(6, 6).abs()}),
    "slopes of roots, moved": (
        {"pse": SLOPES.expand(2, 4), "pse_type": 3, "q_start_idx": [3], "kv_start_idx": [1]},
        {"bias": -SLOPES[:, None, None] * (distance(6, 6) - 2).abs().sqrt()},
    ),
    "sink": ({"sink": SINK}, {"sink": SINK}),
    "mode without mask": ({"sparse_mode": 3}, {}),
    "whole mask": ({"atten_mask": BIAS > 0.5, "sparse_mode": 1}, {"mask": BIAS > 0.5}),
    "uint8 mask": ({"atten_mask": (BIAS[:, :1] > 0.5).to(torch.uint8)}, {"mask": BIAS[:, :1] > 0.5}),
    "first rows aligned": ({"atten_mask": CAUSAL_2048, "sparse_mode": 2}, {"mask": distance(6, 6) > 0}),
    "given prefix": ({"atten_mask": PREFIX, "sparse_mode": 5, "prefix": [2, 5]}, {"mask": PREFIX}),
    "compressed prefix": ({"atten_mask": PREFIX_3072, "sparse_mode": 6, "prefix": [2, 5]}, {"mask": PREFIX}),
}  # fmt: skip


@pytest.mark.parametrize("name", OPTIONS)
def test_options(npu, name):
    options, expected = OPTIONS[name]
    inputs = [torch.randn(2, heads, 6, 8) for heads in (4, 2, 2)]
    ours = lambda *t: npu.npu_fusion_attention_v2(*t, 4, "BNSD", scale=0.3, **moved(options))  # noqa: E731
    assert_same(ours, lambda *t: plain(*t, 0.3, **expected), *inputs)


LONG_BIAS = torch.randn(1, 4, 150, 200)
LONG = {
    "causal": ({"atten_mask": CAUSAL_2048, "sparse_mode": 3}, {"mask": distance(150, 200, True) > 0}),
    "band": (
        {"atten_mask": CAUSAL_2048, "sparse_mode": 4, "pre_tockens": 20, "next_tockens": -5},
        {"mask": (distance(150, 200, True) > -5) | (distance(150, 200, True) < -20)},
    ),
    "mask that hides rows": (
        {"atten_mask": (LONG_BIAS[:, :1] > 0.5) | (distance(150, 200) < -100)},
        {"mask": (LONG_BIAS[:, :1] > 0.5) | (distance(150, 200) < -100)},
    ),
    "bias and sink": ({"pse": LONG_BIAS, "sink": SINK}, {"bias": LONG_BIAS * 0.3, "sink": SINK}),
    "everything": ({}, {}),
}  # fmt: skip


@pytest.mark.parametrize("name", LONG)
def test_more_queries_than_are_computed_at_once(npu, name):
    options, expected = LONG[name]
    inputs = [torch.randn(1, heads, tokens, 8) for heads, tokens in ((4, 150), (2, 200), (2, 200))]
    ours = lambda *t: npu.npu_fusion_attention(*t, 4, "BNSD", scale=0.3, **moved(options))  # noqa: E731
    assert_same(ours, lambda *t: plain(*t, 0.3, **expected), *inputs)


@pytest.mark.parametrize(
    ("name", "extra", "tokens"), [("pse", BIAS, 6), ("sink", SINK, 6), ("pse", torch.randn(2, 4, 130, 130), 130)]
)
def test_gradients_of_bias_and_sink(npu, name, extra, tokens):
    inputs = [torch.randn(2, 4, tokens, 8) for _ in range(3)]

    def expected(q, k, v, t):
        return plain(q, k, v, 0.3, **({"bias": t * 0.3} if name == "pse" else {"sink": t}))

    ours = lambda q, k, v, t: npu.npu_fusion_attention(q, k, v, 4, "BNSD", scale=0.3, **{name: t})  # noqa: E731
    assert_same(ours, expected, *inputs, extra.clone())


def by_sequences(function, ends, *tensors):
    """Apply a function to every packed sequence, as one batch, and pack the results."""
    rows, starts = [], [0, 0]
    for number, stops in enumerate(zip(*ends, strict=True)):
        spans = [slice(a, b) for a, b in zip(starts, stops, strict=True)]
        parts = [t[spans[min(i, 1)]].transpose(0, 1)[None] for i, t in enumerate(tensors)]
        rows.append(function(number, *parts)[0].transpose(0, 1))
        starts = stops
    return torch.cat(rows)


def hidden(number, queries, keys, mode):
    if mode == 0:
        return torch.arange(keys) % 3 == 2
    if mode == 6:
        return (distance(queries, keys, True) > 0) & (torch.arange(keys) >= [2, 0, 3][number])
    if (mode, number) in ((7, 2), (8, 0)):
        ahead = distance(queries, keys, True)
        return (ahead > -1) | (ahead < -9)
    return distance(queries, keys, mode != 8) > 0


@pytest.mark.parametrize("mode", [0, 3, 6, 7, 8])
def test_packed_sequences_one_of_them_empty(npu, mode):
    ends = [[3, 3, 8], [4, 4, 12]]
    inputs = [torch.randn(tokens, heads, size) for tokens, heads, size in ((8, 4, 8), (12, 2, 8), (12, 2, 6))]
    masks = {0: (torch.arange(12) % 3 == 2).expand(8, 12), 6: PREFIX_3072}
    options = {
        "atten_mask": masks.get(mode, CAUSAL_2048), "sparse_mode": mode, "actual_seq_qlen": ends[0],
        "actual_seq_kvlen": ends[1], "scale": 0.3,
        **({"prefix": [2, 0, 3]} if mode == 6 else {}),
        **({"pre_tockens": 9, "next_tockens": -1} if mode in (7, 8) else {}),
    }  # fmt: skip

    def expected(*tensors):
        part = lambda n, q, k, v: plain(q, k, v, 0.3, hidden(n, q.shape[2], k.shape[2], mode))  # noqa: E731
        return by_sequences(part, ends, *tensors)

    assert_same(lambda *t: npu.npu_fusion_attention(*t, 4, "TND", **moved(options)), expected, *inputs)


def test_tokens_behind_the_last_sequence_give_nothing(npu):
    inputs = [torch.randn(6, 2, 8, device=DEVICE, requires_grad=True) for _ in range(3)]
    out, maximum, total, *_ = npu.npu_fusion_attention(*inputs, 2, "TND", actual_seq_qlen=[4], actual_seq_kvlen=[4])
    assert out.shape == (6, 2, 8) and maximum.shape == total.shape == (6, 2, 8)
    assert out[4:].eq(0).all() and total[4:].eq(0).all() and total[:4].gt(0).all()
    out.sum().backward()
    assert all(t.grad[4:].eq(0).all() for t in inputs)


def test_a_sequence_without_keys_gives_nothing(npu):
    inputs = [torch.randn(tokens, 2, 8, device=DEVICE, requires_grad=True) for tokens in (4, 2, 2)]
    out = npu.npu_fusion_attention(*inputs, 2, "TND", actual_seq_qlen=[3, 4], actual_seq_kvlen=[0, 2])[0]
    out.sum().backward()
    assert out[:3].eq(0).all() and out[3].ne(0).all() and inputs[0].grad[:3].eq(0).all()


def test_rotary_parts_come_packed_in_bf16(npu):
    ends = [5, 16]
    inputs = [torch.randn(16, 4, size).bfloat16() for size in (16, 16, 16, 8, 8)]
    options = {"atten_mask": CAUSAL_2048, "sparse_mode": 3, "actual_seq_qlen": ends, "actual_seq_kvlen": ends}

    def ours(q, k, v, q_rope, k_rope):
        ropes = {"query_rope": q_rope, "key_rope": k_rope}
        return npu.npu_fusion_attention_v2(q, k, v, 4, "TND", scale=0.2, **ropes, **moved(options))

    def expected(q, k, v, q_rope, k_rope):
        whole = [torch.cat(pair, -1).float() for pair in ((q, q_rope), (k, k_rope))]
        part = lambda n, q, k, v: plain(q, k, v, 0.2, distance(q.shape[2], k.shape[2]) > 0)  # noqa: E731
        return by_sequences(part, [ends, ends], *whole, v.float()).bfloat16()

    assert_same(ours, expected, *inputs, tolerance=0.03)


@pytest.mark.parametrize(("layout", "softmax_layout"), [("SBH", ""), ("TND", ""), ("TND", "TND")])
def test_a_ring_of_two_parts_of_the_keys_is_the_whole(npu, layout, softmax_layout):
    packed = layout == "TND"
    shape = (6, 2, 8) if packed else (6, 2, 16)
    query, key, value, d_out = (torch.randn(shape, device=DEVICE) for _ in range(4))
    options = {"softmax_layout": softmax_layout, "actual_seq_qlen": [2, 6]} if packed else {}
    halves = ([0, 2, 3], [1, 4, 5]) if packed else ([0, 1, 2], [3, 4, 5])
    lengths = ([1, 3], [1, 3]) if packed else (None, None)

    def attend(keys, length):
        named = {**options, "actual_seq_kvlen": length} if packed else {}
        return npu.npu_fusion_attention(query, key[keys], value[keys], 2, layout, scale=0.3, **named)[:3]

    parts = [attend(keys, length) for keys, length in zip(halves, lengths, strict=True)]
    named = {"input_layout": layout, "input_softmax_layout": softmax_layout} if packed else {}
    ends = {"actual_seq_qlen": torch.tensor([2, 6], device=DEVICE)} if packed else {}
    joined = npu.npu_ring_attention_update(*parts[0], *parts[1], **named, **ends)
    whole = attend(list(range(6)), [2, 6])
    for found, expected in zip(joined, whole, strict=True):
        torch.testing.assert_close(found, expected)

    def gradients(keys, length):
        named = {**options, "actual_seq_kvlen": length} if packed else {}
        statistics = {"softmax_max": whole[1], "softmax_sum": whole[2], "attention_in": whole[0]}
        given = (query, key[keys], value[keys], d_out, 2, layout)
        return npu.npu_fusion_attention_grad(*given, scale_value=0.3, **statistics, **named)[:3]

    of_parts = [gradients(keys, length) for keys, length in zip(halves, lengths, strict=True)]
    expected = gradients(list(range(6)), [2, 6])
    torch.testing.assert_close(of_parts[0][0] + of_parts[1][0], expected[0])
    for place in (1, 2):
        for keys, found in zip(halves, of_parts, strict=True):
            torch.testing.assert_close(found[place], expected[place][keys])


def test_attention_update_joins_by_logarithms_of_sums(npu):
    lse, parts = torch.randn(3, 5), torch.randn(3, 5, 8)
    out, joined = npu.npu_attention_update(list(move(lse)), list(move(parts)), 1)
    torch.testing.assert_close(joined.cpu(), lse.logsumexp(0))
    torch.testing.assert_close(out.cpu(), (lse.softmax(0).unsqueeze(-1) * parts).sum(0))


@pytest.mark.parametrize("packed", [False, True])
def test_dropout_uses_the_mask_of_its_seed(npu, packed):
    keep, ends = 0.6, [2, 6]
    shape = (6, 2, 8) if packed else (1, 2, 6, 8)
    inputs = [torch.randn(shape) for _ in range(3)]
    options = {"actual_seq_qlen": ends, "actual_seq_kvlen": ends} if packed else {}
    layout, count = ("TND", 2 * (4 + 16)) if packed else ("BNSD", 2 * 36)
    npu.npu.manual_seed(7)
    found = npu.npu_fusion_attention(*map(move, inputs), 2, layout, keep_prob=keep, **options)
    assert found[4:] == (7, 0, count)
    mask = npu._npu_dropout_gen_mask(move(inputs[0]), [count], 1 - keep, 7, 0)
    bits = (mask.cpu()[:, None] >> torch.arange(8) & 1).flatten()[:count].bool()
    assert 0 < bits.sum() < count

    def expected(q, k, v):
        taken = [0]

        def part(_, q, k, v):
            size = q.shape[1] * q.shape[2] * k.shape[2]
            kept = bits[taken[0] : taken[0] + size].view(1, 2, q.shape[2], k.shape[2])
            taken[0] += size
            return ((q @ k.mT).softmax(-1) * kept / keep) @ v

        return by_sequences(part, [ends, ends], q, k, v) if packed else part(0, q, k, v)

    def ours(*tensors):
        named = {"keep_prob": keep, "dropout_mask": mask, "seed": 7}
        return npu.npu_fusion_attention(*tensors, 2, layout, **named, **options)

    assert_same(ours, expected, *inputs)


def test_the_third_version_returns_tensors_of_the_host(npu):
    inputs = [torch.randn(6, 2, 8, device=DEVICE, requires_grad=True) for _ in range(3)]
    ends = torch.tensor([2, 6])
    found = npu.npu_fusion_attention_v3(*inputs, 2, "TND", actual_seq_qlen=ends, actual_seq_kvlen=ends)
    expected = npu.npu_fusion_attention(*inputs, 2, "TND", actual_seq_qlen=[2, 6], actual_seq_kvlen=[2, 6])
    torch.testing.assert_close(found[:3], expected[:3])
    assert [(t.device.type, t.dtype, t.tolist()) for t in found[4:]] == [("cpu", torch.int64, [0])] * 2
    found[0].sum().backward()
    assert all(t.grad is not None for t in inputs)


SHAPE = (2, 4, 6, 8)
REFUSED = {
    "input_layout must be one of": {"input_layout": "BDSN"},
    "must have 3 dimensions": {"input_layout": "BSH"},
    "one dtype": {"key": torch.randn(SHAPE).half()},
    "query must be bfloat16 or float16 or float32, got torch.int32": {
        name: torch.ones(SHAPE, dtype=torch.int32) for name in ("query", "key", "value")
    },
    "query has 4 heads": {"head_num": 2},
    "multiple of key's": {"key": torch.randn(2, 3, 6, 8), "value": torch.randn(2, 3, 6, 8)},
    "head sizes must be equal": {"value": torch.randn(2, 4, 6, 16)},
    "batch sizes": {"key": torch.randn(1, 4, 6, 8), "value": torch.randn(1, 4, 6, 8)},
    "keep_prob": {"keep_prob": 0.0},
    "sparse_mode must be": {"sparse_mode": 7},
    "padding_mask": {"padding_mask": torch.ones(1)},
    "softmax_layout": {"softmax_layout": "TND"},
    "sink must be float32": {"sink": torch.ones(3)},
    "bool or uint8": {"atten_mask": torch.ones(6, 6)},
    "compressed [2048, 2048]": {"atten_mask": torch.ones(6, 6, dtype=torch.bool), "sparse_mode": 3},
    "atten_mask must be one of": {"atten_mask": torch.ones(5, 6, dtype=torch.bool)},
    "needs prefix": {"atten_mask": PREFIX_3072, "sparse_mode": 6},
    "prefix must be within 0 and 6": {"atten_mask": PREFIX_3072, "sparse_mode": 6, "prefix": [7, 1]},
    "prefix must have a number for each of 2": {"atten_mask": PREFIX_3072, "sparse_mode": 6, "prefix": [6]},
    "the band from pre_tockens -3 to next_tockens 1 is empty": {
        "atten_mask": torch.ones(6, 6, dtype=torch.bool),
        "pre_tockens": -3,
        "next_tockens": 1,
    },
    "head_num must be within 1 and 256": {"head_num": 257},
    "key and value must have as many tokens": {"value": torch.randn(2, 4, 5, 8)},
    "must have tokens": {name: torch.randn(2, 4, 0, 8) for name in ("query", "key", "value")},
    "got [2, 3, 6, 6]": {"atten_mask": torch.ones(2, 3, 6, 6, dtype=torch.bool)},
    "as many sequences, and some, got 2 and 1": {
        "input_layout": "TND",
        **{n: torch.randn(6, 4, 8) for n in ("query", "key", "value")},
        "actual_seq_qlen": [2, 6],
        "actual_seq_kvlen": [6],
    },
    "pse must have query's dtype": {"pse": torch.ones(2, 4, 6, 6).half()},
    "pse must be [batch or 1": {"pse": torch.ones(2, 4, 5, 6)},
    "needs actual_seq_qlen": {"input_layout": "TND", **{n: torch.randn(6, 4, 8) for n in ("query", "key", "value")}},
}


@pytest.mark.parametrize("message", REFUSED)
def test_refused_as_the_documentation_says(npu, message):
    given = {name: torch.randn(SHAPE) for name in ("query", "key", "value")}
    given = moved({**given, "head_num": 4, "input_layout": "BNSD", **REFUSED[message]})
    with pytest.raises(RuntimeError, match=re.escape(message)):
        npu.npu_fusion_attention(**given)


@pytest.mark.parametrize("name", ["query", "atten_mask"])
def test_tensors_of_the_host_are_refused(npu, name):
    given = moved({n: torch.randn(SHAPE) for n in ("query", "key", "value")} | {"atten_mask": BIAS > 0.5})
    given[name] = given[name].cpu()
    with pytest.raises(RuntimeError, match="Expected all tensors to be on the same device"):
        npu.npu_fusion_attention(**given, head_num=4, input_layout="BNSD")


def test_sequences_of_no_length_at_the_end_do_not_count(npu):
    inputs = [torch.randn(9, 2, 8) for _ in range(3)]
    assert_same(
        lambda *t: npu.npu_fusion_attention(
            *t, 2, "TND", actual_seq_qlen=[2, 5, 9, 0, 0], actual_seq_kvlen=[2, 5, 9, 0, 0]
        ),
        lambda *t: torch.cat([
            plain(*(x[a:b].transpose(0, 1)[None] for x in t))[0].transpose(0, 1) for a, b in ((0, 2), (2, 5), (5, 9))
        ]),
        *inputs,
    )  # fmt: skip


def laid_out(tensor, layout):
    """`[batch, heads, tokens, size]` in a layout; packed ones hold one batch."""
    return {
        "BNSD": lambda t: t, "BSND": lambda t: t.transpose(1, 2), "BSH": lambda t: t.transpose(1, 2).flatten(2),
        "NBSD": lambda t: t.transpose(0, 1), "TND": lambda t: t[0].transpose(0, 1), "NTD": lambda t: t[0],
        "NSD": lambda t: t[0],
    }[layout](tensor)  # fmt: skip


@pytest.mark.parametrize(
    "layout",
    ["BNSD", "BSND", "BSH", "TND", "NTD", "NSD", "BNSD_BSND", "BSH_BNSD", "BSND_BNSD", "BSH_NBSD", "BSND_NBSD",
     "BNSD_NBSD", "TND_NTD", "NTD_TND"],
)  # fmt: skip
def test_inference_in_every_layout(npu, layout):
    of_query, of_result = (layout.split("_") * 2)[:2]
    packed = of_query in ("TND", "NTD", "NSD")
    q, k, v = (halves(1 if packed else 2, heads, tokens, size) for heads, tokens, size in
               ((4, 3, 16), (2, 9, 16), (2, 9, 12)))  # fmt: skip
    lengths = {"actual_seq_qlen": [3], "actual_seq_kvlen": [9]} if of_query in ("TND", "NTD") else {}
    given = [move(laid_out(t.half(), of_query).contiguous()) for t in (q, k, v)]
    options = {"num_query_heads": 4, "num_key_value_heads": 2, "softmax_scale": 0.3, "return_softmax_lse": True}
    found, lse = npu.npu_fused_infer_attention_score_v2(*given, input_layout=layout, **options, **lengths)
    assert_near(found, laid_out(plain(q, k, v, 0.3), of_result).contiguous())
    sums = (q @ k.repeat_interleave(2, 1).mT * 0.3).logsumexp(-1, keepdim=True)
    torch.testing.assert_close(lse.cpu(), laid_out(sums, "TND") if lengths else sums)


@pytest.mark.parametrize("form", ["by width", "by heads", "NZ"])
def test_inference_from_pages(npu, form):
    lengths, table = [5, 11], torch.tensor([[3, 1, 0], [5, 2, 4]], dtype=torch.int32)
    pages = [halves(6, 2, 4, 32) for _ in range(2)]  # [pages, heads, tokens, size]
    forms = {
        "by width": lambda t: t.transpose(1, 2).flatten(2), "by heads": lambda t: t,
        "NZ": lambda t: t.unflatten(-1, (2, 16)).transpose(2, 3),
    }  # fmt: skip
    query = halves(2, 4, 1, 32)
    options = {"num_heads": 4, "num_key_value_heads": 2, "scale": 0.2, "input_layout": "BNSD", "block_size": 4}
    given = [move(forms[form](t.half()).contiguous()) for t in pages]
    found, lse = npu.npu_fused_infer_attention_score(
        move(query.half()), *given, block_table=move(table), actual_seq_lengths_kv=lengths, **options
    )
    assert lse.shape == (0,)
    for row, length in enumerate(lengths):
        k, v = (torch.cat(list(t[table[row].long()]), 1)[None, :, :length] for t in pages)
        assert_near(found[row : row + 1], plain(query[row : row + 1], k, v, 0.2))


def test_inference_with_lengths_padding_prefix_bias_mask_and_sink(npu):
    q, k, v = halves(2, 2, 4, 8), halves(2, 2, 6, 8), halves(2, 2, 6, 8)
    fused = npu.npu_fused_infer_attention_score
    given = [move(t.half()) for t in (q, k, v)]
    common = {"num_heads": 2, "input_layout": "BNSD", "scale": 0.3}

    def run(**options):
        return fused(*given, **common, **moved(options))[0].cpu()

    found = run(actual_seq_lengths=[2, 4], actual_seq_lengths_kv=[3, 6])
    assert_near(found[:1, :, :2], plain(q[:1, :, :2], k[:1, :, :3], v[:1, :, :3], 0.3))
    assert found[0, :, 2:].eq(0).all()
    found = run(actual_seq_lengths_kv=[3, 6], kv_padding_size=torch.tensor([0]))  # they lie at the end
    assert_near(found[:1], plain(q[:1], k[:1, :, 3:], v[:1, :, 3:], 0.3))
    prefix = halves(1, 2, 3, 8)
    found = run(key_shared_prefix=prefix.half(), value_shared_prefix=prefix.half(), actual_shared_prefix_len=[2])
    whole = [torch.cat((prefix[:, :, :2].expand(2, -1, -1, -1), t), 2) for t in (k, v)]
    assert_near(found, plain(q, *whole, 0.3))
    bias = halves(1, 2, 4, 6)
    assert_near(run(pse_shift=bias.half()), plain(q, k, v, 0.3, bias=bias))
    mask = torch.rand(2, 1, 4, 6) > 0.6
    assert_near(run(atten_mask=mask), plain(q, k, v, 0.3, mask))
    right = distance(4, 6, True) > 0
    assert_near(run(atten_mask=CAUSAL_2048, sparse_mode=3), plain(q, k, v, 0.3, right))
    sink = SINK[:2]
    found = npu.npu_fused_infer_attention_score_v2(
        *given, num_query_heads=2, input_layout="BNSD", softmax_scale=0.3, learnable_sink=move(sink)
    )[0]
    assert_near(found, plain(q, k, v, 0.3, sink=sink))
    with pytest.raises(NotImplementedError, match="quantised"):
        run(antiquant_scale=torch.ones(1).half())
    with pytest.raises(RuntimeError, match="layout BSHD is not supported"):
        fused(*given, num_heads=2, input_layout="BSHD")


def test_prompts_and_single_tokens(npu):
    q, k, v = halves(2, 2, 4, 8), halves(2, 2, 6, 8), halves(2, 2, 6, 8)
    found = npu.npu_prompt_flash_attention(
        *[move(t.half()) for t in (q, k, v)], num_heads=2, input_layout="BNSD", scale_value=0.3
    )
    assert_near(found, plain(q, k, v, 0.3))
    one = [move(laid_out(t.half(), "BSH").contiguous()) for t in (q[:, :, :1], k, v)]
    found = npu.npu_incre_flash_attention(*one, num_heads=2, scale_value=0.3, actual_seq_lengths=[3, 6])
    expected = laid_out(plain(q[:1, :, :1], k[:1, :, :3], v[:1, :, :3], 0.3), "BSH")
    assert_near(found[:1], expected)
    with pytest.raises(RuntimeError, match="one token"):
        npu.npu_incre_flash_attention(*[one[1]] * 3, num_heads=2)


def test_multi_head_attention(npu):
    batch, heads, size, src, tgt = 2, 2, 16, 8, 8
    width = heads * size
    query, key, value = (torch.randn(batch * n, width).half() for n in (tgt, src, src))
    weights, biases = (
        [(torch.randn(width, width) * 0.2).half() for _ in range(4)],
        [torch.randn(width).half() for _ in range(4)],
    )
    mask = torch.randn(batch, heads, tgt, src).half()

    def ours(*t):
        return npu.npu_multi_head_attention(*t[:6], move(mask), t[6], *t[7:], None, heads, size, src, tgt, 0.0, True)

    def expected(*given):
        q, k, v, qw, kw, vw, ow, qb, kb, vb, ob = (t.float() for t in given)
        parts = [F.linear(x, w, b).view(batch, -1, heads, size).transpose(1, 2)
                 for x, w, b in ((q, qw, qb), (k, kw, kb), (v, vw, vb))]  # fmt: skip
        context = plain(*parts, size**-0.5, bias=mask.float()).transpose(1, 2).reshape(batch * tgt, width)
        return F.linear(context, ow, ob).half()

    assert_same(ours, expected, query, key, value, *weights, *biases, tolerance=0.03)


def test_fused_attention_score(npu):
    inputs = [torch.randn(2, 2, 8, 16).half() for _ in range(3)]
    mask = torch.randn(2, 1, 8, 8).half()

    def expected(*t):
        out = plain(*(x.float() for x in t), 0.25, bias=mask.float())
        return out.transpose(1, 2).reshape(16, 32).half()

    ours = lambda *t: npu.npu_fused_attention_score_fwd(*t, move(mask), 0.25, 1.0)  # noqa: E731
    assert_same(ours, expected, *inputs, tolerance=0.02)
    with pytest.raises(RuntimeError, match="float16"):
        npu.npu_fused_attention_score(*(move(x.float()) for x in inputs), move(mask), 0.25, 1.0)


def test_attention_to_blocks(npu):
    shape = [16, 128]
    inputs = [torch.randn(2, heads, tokens, 64).half() * 0.5 for heads, tokens in ((4, 40), (2, 200), (2, 200))]
    mask = torch.tensor([[1, 0], [1, 1], [0, 1]], dtype=torch.int8).expand(2, 4, 3, 2).contiguous()
    seen = mask.bool().repeat_interleave(16, 2).repeat_interleave(128, 3)[:, :, :40, :200]
    named = {"q_input_layout": "BNSD", "kv_input_layout": "BNSD", "num_key_value_heads": 2, "scale_value": 0.125}
    ours = lambda *t: npu.npu_block_sparse_attention(*t, move(mask), shape, **named)  # noqa: E731
    expected = lambda *t: plain(*(x.float() for x in t), 0.125, ~seen).half()  # noqa: E731
    assert_same(ours, expected, *inputs, tolerance=0.01)
    packed = [laid_out(t[:1], "TND").contiguous() for t in inputs]
    named = {"num_key_value_heads": 2, "scale_value": 0.125, "actual_seq_lengths": [40], "actual_seq_lengths_kv": [200]}
    ours = lambda *t: npu.npu_block_sparse_attention(*t, move(mask[:1]), shape, **named)  # noqa: E731
    part = lambda _, *p: plain(*(x.float() for x in p), 0.125, ~seen[:1]).half()  # noqa: E731
    expected = lambda *t: by_sequences(part, [[40], [200]], *t)  # noqa: E731
    assert_same(ours, expected, *packed, tolerance=0.01)


def test_compressed_keys_and_the_blocks_they_choose(npu):
    x, weight = torch.randn(80, 2, 16).half(), torch.randn(32, 2).half()

    def compressed(x, weight):
        rows = [(x[a : a + 32].float() * weight.float().unsqueeze(-1)).sum(0) for a in (0, 16, 50 - 2)]
        return torch.stack(rows).half()

    ends = [48, 80]
    assert_same(lambda *t: npu.npu_nsa_compress(*t, 32, 16, actual_seq_len=ends), compressed, x, weight, tolerance=0.02)
    query, key, value = (torch.randn(tokens, heads, size).half() for tokens, heads, size in
                         ((12, 4, 16), (40, 2, 16), (40, 2, 8)))  # fmt: skip
    named = {"actual_seq_qlen": [12], "actual_cmp_seq_kvlen": [40], "actual_sel_seq_kvlen": [10]}
    ours = lambda *t: npu.npu_nsa_compress_attention(*t, 0.25, 4, 32, 16, 64, 3, **named)  # noqa: E731
    expected = lambda *t: by_sequences(  # noqa: E731
        lambda _, *p: plain(*(y.float() for y in p), 0.25).half(), [[12], [40]], *t
    )
    assert_same(ours, expected, query, key, value, tolerance=0.01)
    chosen = ours(*map(move, (query, key, value)))[1].cpu()
    q, k = (laid_out_back(t.float()) for t in (query, key))
    probabilities = (q @ k.repeat_interleave(2, 1).mT * 0.25).softmax(-1)[0].view(2, 2, 12, 40).sum(1)
    weights = torch.zeros(40, 10)  # four strides make a block, and each compressed key spans two of them
    for block in range(10):
        for back, times in enumerate((1, 2, 2, 2, 1)):
            if 4 * (block + 1) - back < 40:
                weights[4 * (block + 1) - back, block] = times
    best = (probabilities @ weights).topk(3).indices.transpose(0, 1)
    assert torch.equal(chosen.long(), best)


def laid_out_back(tensor):
    return tensor.transpose(0, 1)[None]


def test_attention_to_chosen_blocks(npu):
    query, key, value = (torch.randn(tokens, heads, size).half() for tokens, heads, size in
                         ((6, 4, 16), (384, 2, 16), (384, 2, 8)))  # fmt: skip
    top = torch.stack([torch.randperm(3)[:2] for _ in range(12)]).view(6, 2, 2).int()
    ends = [[2, 6], [192, 384]]
    seen = torch.zeros(6, 2, 3, dtype=torch.bool).scatter_(2, top.long(), True).repeat_interleave(64, 2)
    named = {"actual_seq_qlen": ends[0], "actual_seq_kvlen": ends[1]}
    ours = lambda *t: npu.npu_nsa_select_attention(*t, move(top), 0.25, 4, 64, 2, **named)  # noqa: E731

    def part(number, q, k, v):
        rows = seen[:2] if number == 0 else seen[2:]
        mask = ~rows.transpose(0, 1).repeat_interleave(2, 0)[None]
        return plain(q.float(), k.float(), v.float(), 0.25, mask).half()

    assert_same(ours, lambda *t: by_sequences(part, ends, *t), query, key, value, tolerance=0.01)


def test_floyd_attention(npu):
    shapes = [(1, 1, 16, 128, 32), (1, 1, 16, 128, 32), (1, 1, 16, 128, 32), (1, 1, 128, 128, 32), (1, 1, 128, 128, 32)]
    inputs = [torch.randn(shape).half() * 0.5 for shape in shapes]

    def expected(q, k1, v1, k2, v2):
        q, k1, v1, k2, v2 = (t.float() for t in (q, k1, v1, k2, v2))
        scores = torch.einsum("bhikc,bhijc->bhikj", q, k1) + torch.einsum("bhikc,bhjkc->bhikj", q, k2)
        p = (scores * 0.2).softmax(-1)
        return (torch.einsum("bhikj,bhijc->bhikc", p, v1) + torch.einsum("bhikj,bhjkc->bhikc", p, v2)).half()

    ours = lambda *t: (npu.npu_fused_floyd_attention(*t, scale_value=0.2)[2],)  # noqa: E731
    assert_same(ours, expected, *inputs, tolerance=0.02)


@pytest.mark.parametrize("layout", ["BSND", "TND"])
@pytest.mark.parametrize("sparse", [False, True])
def test_the_loss_of_the_indexer(npu, sparse, layout):
    """More keys than queries, two heads a key, and parts that are rotated; torch's own gradients of the formula."""
    batch, tokens, length, heads, offset = 2, 6, 9, 4, 3
    query, query_rope = torch.randn(batch, tokens, heads, 16).half(), torch.randn(batch, tokens, heads, 8).half()
    key, key_rope = torch.randn(batch, length, 2, 16).half(), torch.randn(batch, length, 2, 8).half()
    q_index, k_index = torch.randn(batch, tokens, 8, 128).half() * 0.1, torch.randn(batch, length, 1, 128).half()
    weights = torch.randn(batch, tokens, 8)
    mask = distance(tokens, length, last=True) > 0
    chosen = torch.stack([torch.arange(t + offset, t + offset - 3, -1).clamp_min(-1) for t in range(tokens)]).int()
    if sparse:
        mask = mask | (distance(tokens, length, last=True) < -2)
    q, k = torch.cat([query, query_rope], -1).float(), torch.cat([key, key_rope], -1).float().repeat_interleave(2, 2)
    scores = (torch.einsum("bqnd,bknd->bnqk", q, k) * 0.25).masked_fill(mask, -torch.inf)
    maximum = scores.amax(-1)
    rows = [t.view(batch, 2, 2, tokens).mT for t in (maximum, (scores - maximum.unsqueeze(-1)).exp().sum(-1))]
    leaves = [t.float().requires_grad_() for t in (q_index, k_index, weights)]
    index = torch.einsum("bqnd,bkd->bqnk", leaves[0], leaves[1][:, :, 0]).relu()
    log = torch.einsum("bqnk,bqn->bqk", index, leaves[2]).masked_fill(mask, -torch.inf).log_softmax(-1)
    target = scores.softmax(-1).mean(1)
    loss = torch.where(mask, 0.0, target * (target.clamp_min(1e-30).log() - log)).sum()
    loss.backward()
    packed = layout == "TND"
    given = [move(t.flatten(0, 1) if packed else t) for t in (query, key, q_index, k_index, weights)]
    ropes = {
        name: move(t.flatten(0, 1) if packed else t)
        for name, t in {"query_rope": query_rope, "key_rope": key_rope}.items()
    }
    ends = {"actual_seq_qlen": [6, 12], "actual_seq_klen": [9, 18]} if packed else {}
    rows = [move(torch.cat(list(t), 1) if packed else t.contiguous()) for t in rows]
    if sparse:
        indices = move(chosen[None, :, None].expand(batch, -1, -1, -1).contiguous())
        given.append(indices.flatten(0, 1) if packed else indices)
        found = npu.npu_sparse_lightning_indexer_grad_kl_loss(*given, *rows, 0.25, **ropes, **ends, layout=layout)
    else:
        sums = npu.npu_dense_lightning_indexer_softmax_lse(*given[2:], **ends, layout=layout)
        assert [list(t.shape) for t in sums] == [[1, 12] if packed else [batch, 1, tokens]] * 2
        dense = npu.npu_dense_lightning_indexer_grad_kl_loss
        found = dense(*given, *rows, *sums, 0.25, **ropes, **ends, layout=layout)
        doubled = dense(*given, *rows, sums[0], 2 * sums[1], 0.25, **ropes, **ends, layout=layout)
        more = batch * tokens * torch.tensor([2.0]).log()  # probabilities of the sums that are given
        torch.testing.assert_close(doubled[3].cpu(), loss.detach() + more, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(found[3].cpu(), loss.detach()[None], rtol=1e-3, atol=1e-3)
    for gradient, leaf in zip(found[:3], leaves, strict=True):
        expected = leaf.grad.flatten(0, 1) if packed else leaf.grad
        torch.testing.assert_close(gradient.cpu().float(), expected, rtol=0.02, atol=0.02)


def chosen_rows(query, key, rope, key_rope, value, indices, length, sink):
    """One sequence token by token: `[queries, heads, size]`, keys `[keys, size]`, blocks of two tokens."""
    rows = []
    for place, (q, qr, blocks) in enumerate(zip(query, rope, indices, strict=True)):
        last = length - len(query) + place
        keys = [t for b in blocks.tolist() if b >= 0 for t in (2 * b, 2 * b + 1) if t <= last]
        scores = (q @ key[keys].T + qr @ key_rope[keys].T) * 0.3
        whole = torch.cat((scores, sink[:, None]), 1).softmax(-1)[:, : len(keys)]
        rows.append(whole @ value[keys])
    return torch.stack(rows)


@pytest.mark.parametrize("paged", [False, True])
def test_sparse_attention_and_its_indexer_with_lengths_blocks_sinks_and_pages(npu, paged):
    lengths, batch, tokens, size = [5, 8], 2, 3, 16
    query, rope = halves(batch, tokens, 4, size), halves(batch, tokens, 4, 8)
    keys = [halves(batch, 8, 1, n) for n in (size, size, 8)]
    indices = torch.tensor([[0, 1, -1], [1, 0, 2], [2, 1, 0]], dtype=torch.int32).expand(batch, 1, 3, 3)
    indices = indices.transpose(1, 2).contiguous()
    table = torch.tensor([[3, 0], [1, 2]], dtype=torch.int32)

    def stored(tensor):
        tensor = tensor.half()
        pages = torch.zeros(4, 4, 1, tensor.shape[-1], dtype=torch.float16)
        pages[table.flatten().long()] = tensor.view(4, 4, 1, -1)
        return move(pages if paged else tensor)

    counts = torch.tensor(lengths, dtype=torch.int32)
    options = {"block_table": move(table)} if paged else {}
    layout = "PA_BSND" if paged else "BSND"
    sink = SINK.clone()
    found = npu.npu_sparse_flash_attention(
        move(query.half()), stored(keys[0]), stored(keys[1]), move(indices), 0.3, query_rope=move(rope.half()),
        key_rope=stored(keys[2]), actual_seq_lengths_kv=move(counts), sparse_block_size=2, layout_kv=layout,
        attention_mode=2, sinks=move(sink), **options,
    )[0]  # fmt: skip
    for row, length in enumerate(lengths):
        flat = [t[row, :length, 0] for t in keys]
        expected = chosen_rows(query[row], flat[0], rope[row], flat[2], flat[1], indices[row, :, 0], length, sink)
        assert_near(found[row], expected)
    weights = halves(batch, tokens, 4).abs()
    chosen, _ = npu.npu_lightning_indexer(
        move(query.half()), stored(keys[0]), move(weights.half()), actual_seq_lengths_key=move(counts), layout_key=layout,
        actual_seq_lengths_query=move(torch.tensor([2, 3], dtype=torch.int32)), sparse_count=4, return_value=True,
        **options,
    )  # fmt: skip
    assert chosen[0, 2].eq(-1).all()  # behind its sequence
    for row, (length, count) in enumerate(zip(lengths, (2, 3), strict=True)):
        k = keys[0][row, :length, 0]
        plain_scores = (
            torch.einsum("qnd,kd->qnk", query[row, :count], k).relu().mul(weights[row, :count, :, None]).sum(1)
        )
        plain_scores = plain_scores.masked_fill(distance(count, length, True) > 0, -torch.inf)
        best = plain_scores.topk(4).indices
        best = torch.where(plain_scores.gather(1, best) > -torch.inf, best, -1)
        assert torch.equal(chosen[row, :count, 0].cpu().long(), best)
