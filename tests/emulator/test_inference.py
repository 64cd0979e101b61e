"""torch_npu's operators of inference against plain formulas: caches in blocks, attention over them, sampling."""

import pytest
import torch

from tests.emulator.same import run
from tests.emulator.test_quantised import near, normalised

pytestmark = [pytest.mark.emulator, pytest.mark.usefixtures("npu", "seed")]
BLOCKS, SIZE, HEADS, KEY_HEADS, WIDTH = 8, 4, 4, 2, 8
LENGTHS = [9, 3]
TABLE = torch.tensor([[5, 0, 3], [7, 0, 0]], dtype=torch.int32)


def atb(operator, *arguments, host=(), **options):
    """Call an operator of ATB; tensors at the positions or names in `host` stay there. What was passed comes back."""
    moved = [v.npu() if isinstance(v, torch.Tensor) and i not in host else v for i, v in enumerate(arguments)]
    named = {k: v.npu() if isinstance(v, torch.Tensor) and k not in host else v for k, v in options.items()}
    result = getattr(torch.ops.atb, operator)(*moved, **named)
    back = [value.cpu() if isinstance(value, torch.Tensor) else value for value in (*moved, *named.values())]
    return back if result is None else result


def attention(query, key, value, scale, bias=0.0):
    """One sequence: `[tokens, heads, size]`; keys may have fewer heads."""
    groups = query.shape[1] // key.shape[1]
    query, key, value = (t.float().transpose(0, 1) for t in (query, key, value))
    scores = query @ key.repeat_interleave(groups, 0).mT * scale + bias
    return (scores.softmax(-1) @ value.repeat_interleave(groups, 0)).transpose(0, 1), scores.logsumexp(-1)


def causal(tokens, keys):
    return torch.full((tokens, keys), -torch.inf).triu(keys - tokens + 1)


def caches(*widths, heads=KEY_HEADS):
    return [torch.randn(BLOCKS, SIZE, heads, width).half() for width in widths]


def rows(cache, number):
    """The rows of one sequence, read one by one."""
    return torch.stack([cache[TABLE[number, i // SIZE], i % SIZE] for i in range(LENGTHS[number])])


@pytest.mark.parametrize("fractal", [False, True])
def test_writing_and_reading_a_cache(fractal):
    key, value = torch.randn(3, 2, 16).half(), torch.randn(3, 2, 16).half()
    shape = (BLOCKS, 2, SIZE, 16) if fractal else (BLOCKS, SIZE, 2, 16)
    slots = torch.tensor([6, -1, 31], dtype=torch.int32)
    expected = torch.zeros(shape).half()
    for token, slot in ((0, 6), (2, 31)):
        part = expected[slot // SIZE, :, slot % SIZE] if fractal else expected[slot // SIZE, slot % SIZE]
        part.copy_(key[token])
    empty = torch.zeros(shape).half()
    found = atb("_npu_reshape_and_cache", key, value, empty, empty.clone(), slots)
    assert torch.equal(found[2], expected)
    again = run("npu_scatter_pa_kv_cache_functional", key, value, empty, empty, slots,
                cache_mode="PA_NZ" if fractal else "Norm")  # fmt: skip
    assert torch.equal(again[0], expected)
    tables = torch.tensor([[7], [1]], dtype=torch.int32)
    lengths, target = torch.tensor([4, 3], dtype=torch.int32), torch.zeros(7, 2, 16).half()
    read = run("npu_gather_pa_kv_cache_functional", expected, expected, tables, lengths, target, target)
    assert torch.equal(read[0][3], key[2]) and torch.equal(read[0][6], key[0])


def test_sequences_are_loaded_one_behind_another():
    key, value = caches(WIDTH, 16)
    found = torch.ops.atb.npu_paged_cache_load(*(t.npu() for t in (key, value, TABLE, torch.tensor(LENGTHS).int())))
    for cache, part in ((key, found[0]), (value, found[1])):
        assert torch.equal(part.cpu(), torch.cat([rows(cache, 0), rows(cache, 1)]))


@pytest.mark.parametrize("kind", ["plain", "bias", "latent", "int8"])
def test_attention_of_one_query_over_cached_keys(kind):
    query, (key, value) = torch.randn(2, HEADS, WIDTH).half(), caches(WIDTH, 6)
    lengths, bias, scales = torch.tensor(LENGTHS, dtype=torch.int32), torch.randn(2, HEADS, 1, 9).half(), None
    out = torch.zeros(2, HEADS, 6).half()
    if kind == "plain":
        found = atb("_npu_paged_attention", query, key, value, KEY_HEADS, HEADS, 0.3, TABLE, lengths, out, host=(7,))[8]
    elif kind == "bias":
        found = atb(
            "_npu_paged_attention_v2", query, key, TABLE, LENGTHS, value_cache=value, mask=bias, num_kv_heads=KEY_HEADS,
            num_heads=HEADS, scale_value=0.3, mask_type=2, out=out,
        ).cpu()  # fmt: skip
    elif kind == "latent":
        value = key[..., :6]
        found = atb("_npu_paged_attention_mla", query, key, KEY_HEADS, HEADS, 0.3, TABLE, lengths, 6, out, host=(6,))[8]
    else:
        key, value = ((cache * 20).to(torch.int8) for cache in (key, value))
        scales = torch.rand(2 * WIDTH) * 0.1, torch.rand(2 * 6) * 0.1
        found = atb(
            "_npu_paged_attention_quant", query, key, value, KEY_HEADS, HEADS, 0.3, TABLE, lengths, 1, 1, *scales, out,
            host=(7,),
        )[-1]  # fmt: skip
        key, value = key * scales[0].view(2, WIDTH), value * scales[1].view(2, 6)
    for number, length in enumerate(LENGTHS):
        own = bias[number, ..., :length].float() if kind == "bias" else 0.0
        expected = attention(query[number : number + 1], rows(key, number), rows(value, number), 0.3, own)[0]
        near(found[number : number + 1], expected, 2e-3)


@pytest.mark.parametrize("kind", ["rows", "compressed", "prefix", "alibi", "encoder"])
def test_attention_of_the_last_tokens_over_cached_keys(kind):
    tokens, (key, value), slopes = [2, 3], caches(WIDTH, WIDTH), torch.rand(HEADS)
    query = torch.randn(5, HEADS, WIDTH).half()
    lengths, counts = torch.tensor(LENGTHS, dtype=torch.int32), torch.tensor(tokens, dtype=torch.int32)
    out = torch.zeros_like(query)
    if kind in ("rows", "compressed"):
        wide = torch.cat([causal(count, length).nan_to_num(neginf=-1e4) if length == 9 else
                          torch.cat([causal(count, length).nan_to_num(neginf=-1e4), torch.zeros(count, 6)], 1)
                          for count, length in zip(tokens, LENGTHS, strict=True)])  # fmt: skip
        mask = wide.half() if kind == "rows" else torch.ones(2, 2).half()
        found = atb(
            "_npu_paged_attention_splitfuse", query, key, value, TABLE, lengths, mask, counts, KEY_HEADS, HEADS, 0.3,
            out, host=(4, 6),
        )[-1]  # fmt: skip
    elif kind == "encoder":
        found = torch.ops.atb.npu_self_attention_prefix_encoder(
            query.npu(), key.npu(), value.npu(), TABLE.npu(), tokens, LENGTHS, HEADS, 0.3, KEY_HEADS
        ).cpu()
    else:
        options = {"slopes": -slopes, "mask_type": 4} if kind == "alibi" else {"mask_type": 3}
        found = atb(
            "_npu_flash_attention_prefix_v2", query, key, value, TABLE, torch.zeros(128, 128).half(), tokens, LENGTHS,
            num_kv_heads=KEY_HEADS, num_heads=HEADS, scale_value=0.3, out=out, **options,
        ).cpu()  # fmt: skip
    start = 0
    for number, (count, length) in enumerate(zip(tokens, LENGTHS, strict=True)):
        bias = causal(count, length)
        if kind == "alibi":
            distance = torch.arange(length - count, length).unsqueeze(1) - torch.arange(length)
            bias = bias - slopes.view(-1, 1, 1) * distance.clamp(min=0)
        part = slice(start, start + count)
        near(found[part], attention(query[part], rows(key, number), rows(value, number), 0.3, bias)[0], 2e-3)
        start += count


@pytest.mark.parametrize("kind", ["mask", "none", "compressed"])
def test_attention_of_packed_sequences(kind):
    query, key, value = (torch.randn(12, heads, WIDTH).half() for heads in (HEADS, KEY_HEADS, KEY_HEADS))
    lengths, out = torch.tensor(LENGTHS, dtype=torch.int32), torch.zeros(12, HEADS, WIDTH).half()
    mask = causal(9, 9).nan_to_num(neginf=-1e4).half()
    if kind == "mask":
        found = atb("_npu_flash_attention", query, key, value, mask, lengths, 0.3, HEADS, KEY_HEADS, out, host=(4,))[-1]
    elif kind == "none":
        found = atb("_npu_flash_attention_unpad", query, key, value, lengths, 0.3, HEADS, KEY_HEADS, out, host=(3,))[-1]
    else:
        found = atb("_npu_flash_attention_v3", query, key, value, mask[:2, :2], lengths, 0.3, HEADS, KEY_HEADS,
                    host=(4,), out=out)[-1]  # fmt: skip
    for part in (slice(0, 9), slice(9, 12)):
        bias = 0.0 if kind == "none" else causal(part.stop - part.start, part.stop - part.start)
        near(found[part], attention(query[part], key[part], value[part], 0.3, bias)[0], 2e-3)


def test_latent_attention_and_the_logarithms_of_its_sums():
    plain, rotary = torch.randn(2, HEADS, 512).half() * 0.1, torch.randn(2, HEADS, 64).half()
    latent, turned = torch.randn(BLOCKS, SIZE, 1, 512).half(), torch.randn(BLOCKS, SIZE, 1, 64).half()
    found, lse = torch.ops.atb.npu_multi_head_latent_attention.lse(
        *(t.npu() for t in (plain, rotary, latent, turned, TABLE)), LENGTHS, HEADS, 0.1, 1, True
    )
    for number in range(2):
        query = torch.cat([plain[number], rotary[number]], -1).unsqueeze(0)
        key = torch.cat([rows(latent, number), rows(turned, number)], -1)
        expected, sums = attention(query, key, rows(latent, number), 0.1)
        near(found[number].cpu(), expected[0], 5e-3)
        near(lse[number].cpu().flatten(), sums.flatten(), 5e-3)


def test_parts_of_latent_attention_merge_to_the_whole():
    q, key, value = (
        torch.randn(3, 2, 24).bfloat16(),
        torch.randn(10, 2, 24).bfloat16(),
        torch.randn(10, 2, 16).bfloat16(),
    )
    mask, options = torch.zeros(512, 512).bfloat16(), {"qk_scale": 0.2, "mask_type": "no_mask"}

    def part(first, last, **more):
        lengths = torch.tensor([[3], [last - first]], dtype=torch.int32)
        split = (q[..., :16], q[..., 16:], key[first:last, :, :16], key[first:last, :, 16:], value[first:last], mask)
        return torch.ops.atb.npu_ring_mla(*(t.npu() for t in split), lengths, 2, 2, **options, **more)

    first = part(0, 6, calc_type="calc_type_first_ring")
    whole, lse = part(6, 10, pre_out=first[0], prev_lse=first[1])
    expected, sums = attention(q, key, value, 0.2)
    near(whole.cpu(), expected, 0.02)
    near(lse.cpu(), sums, 1e-3)


def test_keys_are_normalised_rotated_and_cached():
    kv, gamma = torch.randn(2, 1, 3, 576).half(), torch.rand(512).half()
    cos, sin = torch.randn(2, 1, 3, 64).half(), torch.randn(2, 1, 3, 64).half()
    empty, slots = [torch.zeros(4, 4, 1, width).half() for width in (64, 512)], torch.tensor([0, 5, -1, 7, 8, 15])
    found = run("npu_kv_rmsnorm_rope_cache", kv, gamma, cos, sin, slots, *empty, cache_mode="PA_BNSD")
    part = kv[..., 512:].float().unflatten(-1, (32, 2)).mT.flatten(-2)
    first, second = part.chunk(2, -1)
    turned = part * cos.float() + torch.cat([-second, first], -1) * sin.float()
    for cache, expected in ((found[0], turned), (found[1], normalised(kv[..., :512], gamma))):
        flat, rows_ = cache.flatten(0, 1)[:, 0], expected.transpose(1, 2).reshape(6, -1)
        for token, slot in enumerate(slots.tolist()):
            if slot >= 0:
                near(flat[slot], rows_[token], 5e-3)
        assert (flat[1] == 0).all()


@pytest.mark.parametrize("neox", [True, False])
def test_rotation_in_place(neox):
    positions, table = torch.tensor([3, 0, 7]), torch.randn(10, 8)
    query, key = torch.randn(3, 2 * 12), torch.randn(3, 12)
    found = atb("_npu_rotary_embedding", positions, query, key, 12, table, neox)
    for before, after in ((query, found[1]), (key, found[2])):
        heads, (cos, sin) = before.view(3, -1, 12), table[positions].unsqueeze(1).chunk(2, -1)
        a, b = (heads[..., :4], heads[..., 4:8]) if neox else (heads[..., 0:8:2], heads[..., 1:8:2])
        pair = a * cos - b * sin, b * cos + a * sin
        turned = torch.cat(pair, -1) if neox else torch.stack(pair, -1).flatten(-2)
        near(after, torch.cat([turned, heads[..., 8:]], -1).view(before.shape), 1e-6)


def test_choice_among_the_best_words():
    logits = torch.tensor([[1.0, 4.0, 2.0, 3.0]]).repeat(3, 1)
    p, k = torch.tensor([1.0, 0.7, 1e-6]), torch.tensor([2, 4, 3], dtype=torch.int32)
    kept = run("npu_top_k_top_p", logits, p, k)
    assert (kept.isfinite().int()).tolist() == [[0, 1, 0, 1], [0, 1, 0, 1], [0, 1, 0, 0]]
    noise = torch.ones(3, 4)
    noise[:, 0] = 100.0  # the best word becomes unlikely
    chosen, scores = run("npu_top_k_top_p_sample", logits, k, p, noise, is_need_logits=True)
    assert chosen.tolist() == [3, 3, 1] and scores[0].isfinite().tolist() == [False, True, False, True]
    assert run("npu_top_k_top_p_sample", logits, k, p)[0].tolist() == [1, 1, 1]


def test_a_batch_moves_on_by_one_token():
    tokens, positions, lengths = (torch.tensor(v) for v in ([1, 2, 9], [4, 7, 0], [5, 8, 1]))
    given = [t.npu() for t in (tokens, torch.tensor([[11], [12]]), positions, lengths, torch.zeros(3).long(),
                               torch.tensor([[3, 6, 0], [1, 2, 9]]))]  # fmt: skip
    torch.ops.npu.npu_advance_step_flashattn(*given, 3, 2, 4)
    assert [given[i].tolist() for i in (0, 2, 3, 4)] == [[11, 12, 9], [5, 8, 0], [6, 9, 1], [25, 36, 0]]


def test_experts_are_chosen_by_groups():
    x, bias = torch.randn(3, 16), torch.randn(16)
    weights, chosen = torch.ops.atb.npu_fused_add_topk_div(x.npu(), bias.npu(), group_num=4, group_topk=2, n=2, k=3)
    for row in range(3):
        scores = x[row].sigmoid()
        biased = (scores + bias).view(4, 4)
        groups = biased.topk(2, -1).values.sum(-1).topk(2).indices
        allowed = torch.full((4, 4), -torch.inf)
        allowed[groups] = biased[groups]
        best = allowed.flatten().topk(3).indices
        assert chosen[row].tolist() == best.tolist()
        near(weights[row].cpu(), scores[best] / scores[best].sum(), 1e-5)


def context(sizes, numbers):
    """The bytes that workers share: 7 sizes, then 8-byte numbers at their places."""
    memory = torch.zeros(128, dtype=torch.int64)
    memory.view(torch.int32)[:7] = torch.tensor(sizes, dtype=torch.int32)
    for place, number in numbers.items():
        memory[place // 8] = number
    return memory.view(torch.int8).npu()


def test_workers_find_their_tokens_through_addresses():
    sessions, batches, tokens, choices, width = 2, 2, 3, 2, 4
    data = torch.randn(batches, tokens, choices + 1, width).half().npu()
    weights = torch.rand(tokens, choices)
    shared = context([1, batches, tokens, 3, 4, 8, 8], {272: data.data_ptr(), 280: data.nbytes, 288: 1})
    result, layer = torch.ops.npu.npu_attention_worker_combine(
        shared, weights.npu(), torch.tensor([7], dtype=torch.int32, device="npu"), width
    )
    rows = data[1].cpu().float()
    near(result.cpu(), (rows[:, :2] * weights[..., None]).sum(1) + rows[:, 2], 1e-2)
    assert layer.tolist() == [8] and result.dtype == torch.float16

    sent = torch.randint(-9, 9, (sessions, batches, tokens, choices, 8)).to(torch.int8)
    sent.view(torch.float32)[..., 1] = torch.rand(sessions, batches, tokens, choices)
    experts = torch.tensor([[3, 1, 1, 2_000_000, 0, 3], [0, 0, 1, 1, 3, 2_000_000]], dtype=torch.int32)
    info = torch.ones(sessions, batches, 8, dtype=torch.int32)
    info[:, 1, 2:] = experts
    info, there = info.npu(), sent.npu()
    shared = context(
        [sessions, batches, tokens, choices, 4, 8, 8],
        {384: info.data_ptr(), 392: info.nbytes, 400: there.data_ptr(), 408: there.nbytes, 416: 1},
    )
    found = torch.ops.npu.npu_ffn_worker_batching(
        shared, 4, [sessions, tokens, choices, width], token_dtype=2, need_schedule=1
    )
    rows, groups, session, batch, token, choice, scale, count = (part.cpu() for part in found)
    places = [(s, i) for e in range(4) for s in range(2) for i in range(6) if experts[s, i] == e]
    assert groups.tolist() == [[0, 3], [1, 4], [3, 3], [0, 0]] and count.tolist() == [10]
    assert list(zip(session.tolist(), (2 * token + choice).tolist(), strict=True))[:10] == places
    assert batch[:10].tolist() == [1] * 10 and len(rows) == 12 and rows.dtype == torch.int8
    expected = torch.stack([sent[s, 1].view(6, 8)[i] for s, i in places])
    assert torch.equal(rows[:10], expected[:, :4]) and torch.equal(scale[:10], expected.view(torch.float32)[:, 1])
    with pytest.raises(RuntimeError, match="a buffer of the context has 0 bytes"):
        torch.ops.npu.npu_attention_worker_combine(
            context([1, 1, 3, 3, 4, 8, 8], {}), weights.npu(), torch.zeros(1, dtype=torch.int32).npu(), width
        )
    batching = torch.ops.npu.npu_ffn_worker_batching
    for experts_number, wanted, reason in (
        (2, width, "tokens of 3 experts, expert_num is 2"),
        (4, 5, "a token of width 5 has 9 bytes, schedule_context has 8"),
    ):
        with pytest.raises(RuntimeError, match=reason):
            batching(shared, experts_number, [sessions, tokens, choices, wanted], token_dtype=2, need_schedule=1)
    nothing = context([sessions, batches, tokens, choices, 4, 8, 8], {400: there.data_ptr(), 408: there.nbytes})
    rows, groups, *_, count = batching(nothing, 4, [sessions, tokens, choices, width])
    assert not rows.any() and not groups.any() and count.tolist() == [0]
    with pytest.raises(RuntimeError, match="schedule_context has no micro batches"):
        batching(torch.zeros(1024, dtype=torch.int8, device="npu"), 4, [sessions, tokens, choices, width])


def test_workers_schedule_what_has_come():
    sessions, batches, tokens, choices = 2, 3, 4, 2
    flags = torch.zeros(batches, tokens * choices, dtype=torch.int32, device="npu")
    sizes, run_flag = [sessions, batches, tokens, choices, 4, 8, 8], {128: 1}
    shared = context(sizes, run_flag | {256: flags.data_ptr(), 264: flags.nbytes, 288: 2})
    with pytest.raises(RuntimeError, match="results of this micro batch are not all there"):
        torch.ops.npu.attention_worker_scheduler(shared)
    flags[:2] = 1
    before = shared.clone()
    found = torch.ops.npu.attention_worker_scheduler(shared)
    assert torch.equal(shared, before) and found.view(torch.int32)[72] == 0 and flags.sum(1).tolist() == [0, 8, 0]
    found = torch.ops.npu.attention_worker_scheduler_(found)
    assert found.view(torch.int32)[72] == 1 and flags.count_nonzero() == 0
    stopped = context(sizes, {256: flags.data_ptr(), 264: flags.nbytes, 288: 2})
    assert torch.equal(torch.ops.npu.attention_worker_scheduler(stopped), stopped)

    info = torch.randint(0, 9, (sessions, batches, 2 + tokens * choices), dtype=torch.int32, device="npu")
    info[:, 2, 0] = 1
    sent = info.cpu()
    lists = {place: torch.zeros(count, dtype=torch.int32, device="npu")
             for place, count in ((512, 2), (528, 2), (544, 2), (560, 16))}  # fmt: skip
    numbers = {384: info.data_ptr(), 392: info.nbytes, 416: 2}
    for place, buffer in lists.items():
        numbers |= {place: buffer.data_ptr(), place + 8: buffer.nbytes}
    shared = context(sizes, run_flag | numbers)
    found = torch.ops.npu.ffn_worker_scheduler(shared, sync_group_size=sessions)
    assert found.view(torch.int64)[52] == 0 and found.view(torch.int32)[144] == sessions
    layers, ids, micro, experts = (buffer.cpu() for buffer in lists.values())
    assert torch.equal(layers, sent[:, 2, 1]) and ids.tolist() == [0, 1] and micro.tolist() == [2, 2]
    assert torch.equal(experts.view(2, 8), sent[:, 2, 2:])
    assert info[:, 2, 0].count_nonzero() == 0 and torch.equal(info[:, :2].cpu(), sent[:, :2])
    with pytest.raises(NotImplementedError, match="no groups of sessions"):
        torch.ops.npu.ffn_worker_scheduler_(shared, sync_group_size=1)


@pytest.mark.parametrize("paged", [False, True])
def test_the_quantised_indexer_ranks_keys(paged):
    heads, block, counts = 3, 16, [20, 37]
    pages = torch.randint(-128, 128, (5, block, 1, 128), dtype=torch.int8)
    page_scales, table = torch.rand(5, block, 1).half(), torch.tensor([[4, 1, 0], [2, 0, 3]], dtype=torch.int32)
    keys = [pages[table[i]].flatten(0, 1)[:n] for i, n in enumerate(counts)]
    scales = [page_scales[table[i]].flatten(0, 1)[:n] for i, n in enumerate(counts)]
    query, (weights, factors) = torch.randint(-128, 128, (5, heads, 128), dtype=torch.int8), torch.rand(2, 5, heads)
    weights, factors, ends = weights.half(), factors.half(), torch.tensor([2, 5], dtype=torch.int32)
    where = {"layout_key": "TND", "actual_seq_lengths_key": torch.tensor(counts).cumsum(0).int()}
    if paged:
        where = {"layout_key": "PA_BSND", "actual_seq_lengths_key": torch.tensor(counts).int(), "block_table": table}
    store = (pages, page_scales) if paged else (torch.cat(keys), torch.cat(scales))
    found = run(
        "npu_quant_lightning_indexer", query, store[0], weights, factors, store[1], 0, 0, layout_query="TND",
        actual_seq_lengths_query=ends, sparse_count=24, **where,
    )  # fmt: skip
    for row in range(5):
        which, behind = (0, 1 - row) if row < 2 else (1, 4 - row)
        products = (keys[which][:, 0].float() @ query[row].float().T).clamp(min=0) / 1024
        scores = products.half().float() @ (weights[row] * factors[row]).float() * scales[which][:, 0].float()
        scores = scores[: counts[which] - behind]
        chosen = found[row, 0][found[row, 0] >= 0].long()
        assert len(chosen) == min(24, len(scores)) == len(chosen.unique())
        near(scores[chosen], scores.topk(len(chosen)).values, 1e-4)


def test_sparse_attention_to_quantised_pages():
    block, counts, heads = 16, [20, 37], 2
    nope = torch.randint(-128, 128, (5, block, 1, 512), dtype=torch.int8)
    rope, scales = torch.randn(5, block, 1, 64).half(), torch.rand(5, block, 1, 4) / 100
    cache = torch.cat([nope, rope.view(torch.int8), scales.view(torch.int8)], -1)
    table = torch.tensor([[4, 1, 0], [2, 0, 3]], dtype=torch.int32)
    query = torch.randn(5, heads, 576).half()
    chosen = torch.stack([torch.cat([torch.randperm(5)[:3], torch.tensor([-1])]) for _ in range(5)]).int()
    found = run(
        "npu_kv_quant_sparse_flash_attention", query, cache, nope, chosen[:, None], 0.1, 2, 2, attention_mode=2,
        layout_query="TND", layout_kv="PA_BSND", sparse_block_size=4, block_table=table,
        actual_seq_lengths_query=torch.tensor([2, 5], dtype=torch.int32),
        actual_seq_lengths_kv=torch.tensor(counts, dtype=torch.int32),
    )  # fmt: skip
    keys = (nope.float().view(5, block, 4, 128) * scales.view(5, block, 4, 1)).view(5, block, 512)
    for row in range(5):
        which, behind = (0, 1 - row) if row < 2 else (1, 4 - row)
        places = [4 * b + i for b in chosen[row, :3].tolist() for i in range(4) if 4 * b + i < counts[which] - behind]
        key = keys[table[which]].flatten(0, 1)[places]
        whole = torch.cat([key, rope[table[which]].flatten(0, 2)[places].float()], 1)
        near(found[row], (query[row].float() @ whole.T * 0.1).softmax(-1) @ key, 5e-3)
