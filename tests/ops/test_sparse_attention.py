"""Sparse attention and its indexer against plain loops and masked dense attention."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.checkpoint import checkpoint

from longcat.config import SparseAttentionConfig
from longcat.ops import sparse_attention as ops
from longcat.ops.documents import find_document_starts

BATCH, LENGTH, HEADS, DIM = 2, 19, 3, 8


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    """So that every function goes through several chunks."""
    monkeypatch.setattr(ops, "CHUNK_ELEMENTS", 600)
    monkeypatch.setattr(ops, "GATHERED_ELEMENTS", 600)


def settings_of(topk, sink=1, window=2, **pages):
    return SparseAttentionConfig(
        index_n_heads=HEADS,
        index_head_dim=DIM,
        index_topk=topk,
        index_init_tokens=sink,
        index_local_tokens=window,
        **pages,
    )


def indexer(seed, queries=LENGTH, length=LENGTH):
    generator = torch.Generator().manual_seed(seed)
    query = torch.randn(BATCH, queries, HEADS, DIM, generator=generator)
    key = torch.randn(BATCH, length, DIM, generator=generator)
    weight = torch.randn(BATCH, queries, HEADS, generator=generator)
    return query, key, weight


def test_scores_are_the_published_sum():
    query, key, weight = indexer(0)
    scores = ops.index_scores(query, key, weight)
    for b, t, s in [(0, 3, 1), (1, 18, 18), (1, 0, 7)]:
        by_hand = sum(weight[b, t, h] * (query[b, t, h] @ key[b, s]).clamp_min(0) for h in range(HEADS))
        assert float(scores[b, t, s]) == pytest.approx(float(by_hand), abs=1e-5)


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 999), sink=st.integers(0, 3), window=st.integers(1, 4), more=st.integers(0, 6),
       queries=st.integers(1, LENGTH))  # fmt: skip
def test_selection_is_sink_window_and_the_best_of_the_rest(seed, sink, window, more, queries):
    query, key, weight = indexer(seed, queries)
    budget = sink + window + more
    keys = ops.select_keys(query, key, weight, settings_of(budget, sink, window))
    scores = ops.index_scores(query, key, weight)
    for b in range(BATCH):
        for row in range(queries):
            t = LENGTH - queries + row
            always = {s for s in range(t + 1) if s < sink or s > t - window}
            rest = sorted((float(scores[b, row, s]) for s in range(t + 1) if s not in always), reverse=True)
            found = [s for s in keys[b, row].tolist() if s >= 0]
            assert len(found) == len(set(found)) == min(budget, t + 1)
            assert always <= set(found)
            chosen = sorted((float(scores[b, row, s]) for s in set(found) - always), reverse=True)
            assert chosen == pytest.approx(rest[: len(chosen)], abs=1e-5)  # scores of zero are many, any will do


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 999), cut=st.integers(1, LENGTH - 1), budget=st.integers(5, 9))
def test_a_document_chooses_what_it_would_choose_alone(seed, cut, budget):
    """The second one with its sink at its own start; compared by scores, of which zeros are many."""
    query, key, weight = indexer(seed)
    config = settings_of(budget, sink=2, window=3)
    document_starts = torch.where(torch.arange(LENGTH) < cut, 0, cut).expand(BATCH, -1)
    together = ops.select_keys(query, key, weight, config, document_starts=document_starts)
    scores = torch.nn.functional.pad(ops.index_scores(query, key, weight), (0, 1), value=-torch.inf)
    for start, end in ((0, cut), (cut, LENGTH)):
        keys = together[:, start:end]
        assert (keys[keys >= 0] >= start).all()
        if end - start < budget:  # all of them
            expected = torch.arange(start, end).clamp(max=LENGTH) <= torch.arange(start, end)[:, None]
            assert torch.equal((keys >= 0).sum(-1), expected.sum(-1).expand(BATCH, -1))
            continue
        alone = ops.select_keys(query[:, start:end], key[:, start:end], weight[:, start:end], config)
        alone = torch.where(alone >= 0, alone + start, -1)
        chosen = [
            scores[:, start:end].gather(2, found.where(found >= 0, LENGTH)).sort(-1).values for found in (keys, alone)
        ]
        torch.testing.assert_close(*chosen)
        for t in range(start, end):
            near = {*range(start, min(start + 2, t + 1)), *range(max(start, t - 2), t + 1)}
            assert near <= set(together[0, t].tolist())


@pytest.mark.parametrize("queries", [LENGTH, 4, 1])
def test_all_pages_give_what_all_tokens_give(queries):
    query, key, weight = indexer(1, queries)
    config = settings_of(7, index_page_tokens=4, index_block_tokens=2, index_pages=5)
    flat = ops.select_keys(query, key, weight, config)
    paged = ops.select_keys(query, key, weight, config, hierarchical=True)
    scores = torch.nn.functional.pad(ops.index_scores(query, key, weight), (0, 1))  # the last one for "none"
    chosen = [scores.gather(2, keys.where(keys >= 0, LENGTH)).sort(-1).values for keys in (flat, paged)]
    torch.testing.assert_close(*chosen)  # scores of zero are many, any will do


def test_few_pages_keep_sink_and_window_and_find_a_needle():
    query, key, weight = indexer(2, queries=1, length=64)
    weight = weight.abs()
    key = key * 0.01
    key[:, 37] = 10 * query[:, 0].sum(1)  # every head likes it
    config = settings_of(8, sink=1, window=2, index_page_tokens=4, index_block_tokens=2, index_pages=3)
    keys = ops.select_keys(query, key, weight, config, hierarchical=True)
    for row in keys[:, 0].tolist():
        assert {0, 62, 63, 37} <= set(row)
        assert len({position // 4 for position in row}) <= 3


@pytest.mark.parametrize("queries", [LENGTH, 5])
def test_attention_and_gradients_equal_masked_dense_attention(queries):
    generator = torch.Generator().manual_seed(3)
    heads, rank, dim = 4, 6, 9
    query = torch.randn(BATCH, queries, heads, dim, generator=generator, dtype=torch.double, requires_grad=True)
    cached_latents = torch.randn(BATCH, LENGTH, dim, generator=generator, dtype=torch.double, requires_grad=True)
    keys = ops.select_keys(*indexer(4, queries), settings_of(6))
    direction = torch.randn(BATCH, queries, heads, rank, generator=generator, dtype=torch.double)

    out, attended = ops.sparse_attention(query, cached_latents, keys, rank, 0.3)
    ours = torch.autograd.grad((out * direction).sum(), (query, cached_latents))

    mask = torch.zeros(BATCH, queries, LENGTH + 1, dtype=torch.bool)
    mask = mask.scatter(2, torch.where(keys < 0, LENGTH, keys), True)[..., :LENGTH]
    scores = torch.einsum("bthd,bsd->bhts", query, cached_latents) * 0.3
    weights = scores.masked_fill(~mask[:, None], -torch.inf).softmax(-1)
    expected = torch.einsum("bhts,bsr->bthr", weights, cached_latents[..., :rank])
    theirs = torch.autograd.grad((expected * direction).sum(), (query, cached_latents))

    torch.testing.assert_close(out, expected)
    mean = weights.mean(1).gather(2, keys.clamp_min(0)).masked_fill(keys < 0, 0.0)
    torch.testing.assert_close(attended, mean.float())
    torch.testing.assert_close(ours[0], theirs[0])
    torch.testing.assert_close(ours[1], theirs[1], atol=1e-6, rtol=1e-5)  # summed in fp32


def dense_divergence(index, attended, mask):
    """KL(p || softmax(I)) over the keys in a mask, summed over queries."""
    log_q = ops.index_scores(*index).masked_fill(~mask, -torch.inf).log_softmax(-1)
    return sum(
        attended[place] * (attended[place].log() - log_q[place]) for place in map(tuple, mask.nonzero().tolist())
    )


def test_dense_loss_is_the_divergence_from_attention():
    index = [tensor.requires_grad_() for tensor in indexer(5)]
    generator = torch.Generator().manual_seed(6)
    query, key = (torch.randn(BATCH, 4, LENGTH, 5, generator=generator, requires_grad=True) for _ in range(2))
    loss = ops.dense_index_loss(*index, query, key, 0.4)
    mask = torch.ones(BATCH, LENGTH, LENGTH, dtype=torch.bool).tril()
    with torch.no_grad():
        attended = (query @ key.mT * 0.4).masked_fill(~mask[:, None], -torch.inf).softmax(-1).mean(1)
    expected = dense_divergence(index, attended, mask)
    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-4)
    ours, theirs = (torch.autograd.grad(value, index) for value in (loss, expected))
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)
    loss = ops.dense_index_loss(*index, query, key, 0.4)
    assert torch.autograd.grad(loss, query, allow_unused=True) == (None,)  # attention does not learn from its indexer


def test_sparse_loss_is_the_divergence_on_the_chosen_keys():
    index = [tensor.requires_grad_() for tensor in indexer(7)]
    keys = ops.select_keys(*index, settings_of(6))
    attended = torch.rand(keys.shape, generator=torch.Generator().manual_seed(8)).masked_fill(keys < 0, 0.0)
    attended = attended / attended.sum(-1, keepdim=True)
    loss = ops.sparse_index_loss(*index, keys, attended)
    wide = torch.zeros(BATCH, LENGTH, LENGTH + 1).scatter(2, torch.where(keys < 0, LENGTH, keys), attended)[
        ..., :LENGTH
    ]
    expected = dense_divergence(index, wide, wide > 0)
    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-4)
    ours, theirs = (torch.autograd.grad(value, index) for value in (loss, expected))
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


def test_a_perfect_indexer_has_no_loss():
    query, key, weight = indexer(9)
    keys = ops.select_keys(query, key, weight, settings_of(6))
    scores = ops.index_scores_at(query, key, weight, keys).masked_fill(keys < 0, -torch.inf)
    assert float(ops.sparse_index_loss(query, key, weight, keys, scores.softmax(-1))) == pytest.approx(0, abs=1e-4)


def test_of_equal_scores_the_nearest_are_chosen_however_many_keys_there_are():
    """A prompt that is read whole and one that is read token by token see other numbers of keys."""
    sparse = SparseAttentionConfig(
        index_n_heads=1, index_head_dim=4, index_topk=8, index_init_tokens=1, index_local_tokens=2
    )
    query, key, weight = -torch.ones(1, 40, 1, 4), torch.ones(1, 40, 4), torch.ones(1, 40, 1)  # every score is 0
    whole = ops.select_keys(query, key, weight, sparse)[0].sort(-1).values
    for position in range(8, 40):
        seen = position + 1
        alone = ops.select_keys(query[:, position:seen], key[:, :seen], weight[:, position:seen], sparse)[0, 0]
        expected = [0, *range(position - 6, position + 1)]
        assert alone.sort().values.tolist() == whole[position].tolist() == expected


def random_starts(seed, length=LENGTH, share=0.15):
    draws = torch.Generator().manual_seed(seed)
    return find_document_starts((torch.rand(BATCH, length, generator=draws) < share).long().cumsum(1))


@settings(deadline=None, max_examples=60)
@given(seed=st.integers(0, 999), cut=st.integers(1, LENGTH - 1), budget=st.integers(4, 9), packed=st.booleans(),
       dtype=st.sampled_from([torch.float32, torch.bfloat16]), equal=st.booleans())  # fmt: skip
def test_the_last_queries_of_a_prefix_choose_what_they_choose_among_all(seed, cut, budget, packed, dtype, equal):
    """Also of scores that are equal, which are many in 16 bits, and where there are fewer keys than are chosen."""
    query, key, weight = (tensor.to(dtype) for tensor in indexer(seed))
    if equal:
        key = key[:, torch.arange(LENGTH) % 3]
    config = settings_of(budget, sink=1, window=2)
    starts = random_starts(seed) if packed else None
    whole = ops.select_keys(query, key, weight, config, False, starts).sort(-1).values
    for first, end in ((0, cut), (cut, LENGTH), (cut // 2, cut)):
        if first < end:
            own = None if starts is None else starts[:, first:end]
            keys = ops.select_keys(query[:, first:end], key[:, :end], weight[:, first:end], config, False, own)
            assert keys.shape[-1] == budget
            assert torch.equal(keys.sort(-1).values, whole[:, first:end])


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("cut", [1, 3, 12, 18])
def test_parts_of_the_queries_sum_to_the_whole(packed, cut):
    """Sparse attention, both losses of the indexer, and all gradients, from two runs of queries against a prefix each."""
    index = [tensor.requires_grad_() for tensor in indexer(11)]
    draws = torch.Generator().manual_seed(12)
    query, key = (torch.randn(BATCH, 4, LENGTH, 5, generator=draws) for _ in range(2))
    absorbed = torch.randn(BATCH, LENGTH, 4, 9, generator=draws, requires_grad=True)
    latents = torch.randn(BATCH, LENGTH, 9, generator=draws, requires_grad=True)
    starts = random_starts(13) if packed else None
    padding = torch.arange(LENGTH) >= torch.tensor([[LENGTH], [LENGTH - 4]])
    config = settings_of(6)

    def losses(first, end):
        own, before = slice(first, end), slice(0, end)
        index_query, index_key, weight = index[0][:, own], index[1][:, before], index[2][:, own]
        apart = None if starts is None else starts[:, own]
        keys = ops.select_keys(index_query, index_key, weight, config, False, apart)
        out, attended = ops.sparse_attention(absorbed[:, own], latents[:, before], keys, 6, 0.3)
        sparse = ops.sparse_index_loss(index_query, index_key, weight, keys, attended)
        dense = ops.dense_index_loss(
            index_query, index_key, weight, query[:, :, own], key[:, :, before], 0.4, apart, padding[:, own]
        )
        return torch.stack([sparse, dense, out.sin().sum()])

    whole, parts = losses(0, LENGTH), losses(0, cut) + losses(cut, LENGTH)
    torch.testing.assert_close(parts, whole, rtol=1e-5, atol=1e-5)
    leaves = [*index, absorbed, latents]
    found, expected = (torch.autograd.grad(values.sum(), leaves) for values in (parts, whole))
    for ours, right in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, right, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(("processes", "run"), [(2, 16), (4, 16), (3, LENGTH)])
def test_dense_loss_from_heads_of_several_processes(packed, processes, run):
    """Each has some of the heads and the indexer's queries of a slice of a run: values and gradients add up."""
    run = run // processes * processes
    index = [tensor.requires_grad_() for tensor in indexer(14, queries=run)]
    draws = torch.Generator().manual_seed(15)
    heads, own = 12, run // processes
    query = torch.randn(BATCH, heads, run, 5, generator=draws)
    key = torch.randn(BATCH, heads, LENGTH, 5, generator=draws)
    starts = random_starts(16)[:, LENGTH - run :] if packed else None
    padding = (torch.arange(run) >= run - 3).expand(BATCH, -1)
    sent = {}

    def loss_of(place, exchange):
        some, mine = (
            slice(place * heads // processes, (place + 1) * heads // processes),
            slice(place * own, (place + 1) * own),
        )
        return ops.dense_index_loss(
            index[0][:, mine], index[1], index[2][:, mine], query[:, some], key[:, some], 0.4, starts, padding[:, mine],
            ops.HeadShare(processes, place, exchange),
        )  # fmt: skip

    def send(place):
        def exchange(parts):
            sent.setdefault(place, []).append(parts)
            return parts[place]

        return exchange

    def receive(place):
        chunks = zip(*(sent[other] for other in range(processes)), strict=True)
        return lambda parts: torch.stack(next(chunks)).sum(0)[place]

    for place in range(processes):
        loss_of(place, send(place))
    assert len(sent[0]) > 1
    found = sum(loss_of(place, receive(place)) for place in range(processes))
    expected = ops.dense_index_loss(*index, query, key, 0.4, starts, padding)
    torch.testing.assert_close(found, expected)
    for ours, right in zip(torch.autograd.grad(found, index), torch.autograd.grad(expected, index), strict=True):
        torch.testing.assert_close(ours, right)


def test_dense_loss_in_a_part_that_is_recomputed():
    index = [tensor.requires_grad_() for tensor in indexer(17)]
    query, key = torch.randn(2, BATCH, 4, LENGTH, 5, generator=torch.Generator().manual_seed(18))
    calls = []

    def part(*index):
        calls.append(1)
        return 3 * ops.dense_index_loss(*(2 * tensor for tensor in index), query, key, 0.4)

    found = torch.autograd.grad(checkpoint(part, *index, use_reentrant=False), index)
    assert len(calls) == 2
    for ours, right in zip(found, torch.autograd.grad(part(*index), index), strict=True):
        assert torch.equal(ours, right)
