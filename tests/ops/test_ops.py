"""Fast paths agree with their plain references, in values and gradients."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from longcat.ops import attention
from longcat.ops.attention import block_attention, causal_attention, torch_attention
from longcat.ops.documents import find_document_starts, pack, readable, same_document
from longcat.ops.grouped_matmul import grouped_matmul
from longcat.ops.linear_cross_entropy import (
    ACCELERATOR_BYTES,
    FEWEST_ROWS,
    chunk_rows,
    linear_cross_entropy,
)
from longcat.ops.rms_norm import rms_norm
from longcat.ops.rotary import rotary_angles, rotate
from longcat.padding import IGNORE


@settings(max_examples=25, deadline=None)
@given(counts=st.lists(st.integers(0, 9), min_size=1, max_size=6), sizes=st.sampled_from([(8, 16), (16, 8), (7, 5)]))
def test_grouped_matmul_equals_a_product_a_group(counts, sizes):
    inner, outer = sizes
    torch.manual_seed(sum(counts))
    x = torch.randn(sum(counts), inner, requires_grad=True)
    weight = torch.randn(len(counts), outer, inner, requires_grad=True)
    upstream = torch.randn(sum(counts), outer)
    results = []
    for function in (grouped_matmul, grouped_matmul.reference):
        out = function(x, weight, torch.tensor(counts), counts)
        results.append((out, *torch.autograd.grad(out, (x, weight), upstream)))
    for fast, plain in zip(*results, strict=True):
        torch.testing.assert_close(fast, plain)


def test_an_expert_without_tokens_gets_zero_gradients():
    weight = torch.randn(3, 8, 8, requires_grad=True)
    out = grouped_matmul(torch.randn(4, 8), weight, torch.tensor([4, 0, 0]), [4, 0, 0])
    out.backward(torch.ones_like(out))
    assert weight.grad[0].abs().sum() > 0
    assert torch.equal(weight.grad[1:], torch.zeros(2, 8, 8))
    empty = torch.autograd.grad(
        grouped_matmul(torch.randn(0, 8), weight, torch.zeros(3, dtype=int), [0] * 3).sum(), weight
    )[0]
    assert torch.equal(empty, torch.zeros_like(weight))


@pytest.mark.parametrize("counts", [[5, 40, 3, 0, 33], [0, 0, 7, 1], [100, 2, 64]])
@pytest.mark.parametrize("bad", [float("inf"), float("nan")])
def test_what_is_not_finite_in_one_group_stays_there(counts, bad):
    generator = torch.Generator().manual_seed(0)
    clean = torch.randn(sum(counts), 8, generator=generator)
    weight = torch.randn(len(counts), 6, 8, generator=generator, requires_grad=True)
    upstream = torch.randn(sum(counts), 6, generator=generator)
    ends = torch.tensor(counts).cumsum(0).tolist()
    for group in (group for group, count in enumerate(counts) if count):
        for spoiled in ("row", "gradient"):
            results = []
            for spoil in (False, True):
                x, direction = clean.clone(), upstream.clone()
                if spoil:
                    (x if spoiled == "row" else direction)[ends[group] - 1, 3] = bad
                x.requires_grad_()
                out = grouped_matmul(x, weight, torch.tensor(counts), counts)
                results.append((out, *torch.autograd.grad(out, (x, weight), direction)))
            (out, d_x, d_weight), (bad_out, bad_d_x, bad_d_weight) = results
            others = torch.arange(len(counts)) != group
            assert torch.equal(d_weight[others], bad_d_weight[others])
            rows = torch.arange(sum(counts)) != ends[group] - 1
            assert torch.equal(out[rows], bad_out[rows])
            assert torch.equal(d_x[rows], bad_d_x[rows])
            assert not bad_d_weight[group].isfinite().all()


@pytest.mark.parametrize("counts", [[1, 0, 3], [31, 31, 2], [32, 1, 0]])
def test_products_without_gradient_are_the_same(counts):
    x, weight = torch.randn(sum(counts), 8), torch.randn(3, 6, 8, requires_grad=True)
    with torch.no_grad():
        torch.testing.assert_close(
            grouped_matmul(x, weight, torch.tensor(counts), counts),
            grouped_matmul.reference(x, weight, torch.tensor(counts), counts),
        )


@pytest.mark.parametrize(("seq", "value_dim"), [(1, 12), (17, 8), (128, 12), (300, 8)])
@pytest.mark.parametrize("kept_length", [2048, 0])
def test_block_attention_equals_torch(seq, value_dim, kept_length, monkeypatch):
    monkeypatch.setattr(attention, "KEPT_LENGTH", kept_length)
    monkeypatch.setattr(attention, "BLOCK_SCORES", 6 * 300 * 50)  # smaller blocks for the longest
    torch.manual_seed(0)
    query, key = (torch.randn(2, 3, seq, 12, requires_grad=True) for _ in range(2))
    value = torch.randn(2, 3, seq, value_dim, requires_grad=True)
    upstream = torch.randn(2, 3, seq, value_dim)
    ours = block_attention(query, key, value, 0.4)
    theirs = F.scaled_dot_product_attention(query, key, value, is_causal=True, scale=0.4)
    torch.testing.assert_close(ours, theirs)
    for a, b in zip(
        torch.autograd.grad(ours, (query, key, value), upstream),
        torch.autograd.grad(theirs, (query, key, value), upstream),
        strict=True,
    ):
        torch.testing.assert_close(a, b)


def documents_of(seed, rows, seq, share):
    """Numbers of documents with starts at random places."""
    return (torch.rand(rows, seq, generator=torch.Generator().manual_seed(seed)) < share).long().cumsum(1)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 999), seq=st.integers(1, 70), share=st.sampled_from([0.0, 0.05, 0.5, 1.0]))
def test_a_query_reads_its_document_up_to_itself(seed, seq, share):
    documents = documents_of(seed, 2, seq, share)
    documents[1, seq - seq // 3 :] = -1
    document_starts = find_document_starts(documents)
    seen, after = readable(document_starts, seq, seq, document_starts.device), same_document(document_starts, 2)
    for row, numbers in enumerate(documents.tolist()):
        assert document_starts[row].tolist() == [numbers.index(number) for number in numbers]
        expected = [[key <= query and numbers[key] == numbers[query] for key in range(seq)] for query in range(seq)]
        assert seen[row].tolist() == expected
        assert after[row].tolist() == [i + 2 < seq and numbers[i + 2] == numbers[i] for i in range(seq)]


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 999), seq=st.sampled_from([1, 40, 150]), share=st.sampled_from([0.0, 0.02, 0.3, 1.0]),
       kept_length=st.sampled_from([2048, 0]))  # fmt: skip
def test_attention_within_documents_equals_torch_with_a_mask(seed, seq, share, kept_length):
    torch.manual_seed(seed)
    query, key = (torch.randn(3, 2, seq, 12, requires_grad=True) for _ in range(2))
    value, upstream = torch.randn(3, 2, seq, 8, requires_grad=True), torch.randn(3, 2, seq, 8)
    document_starts = find_document_starts(documents_of(seed, 3, seq, share))
    results = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(attention, "KEPT_LENGTH", kept_length)
        patch.setattr(attention, "QUERY_BLOCK", 16)
        for function in (block_attention, torch_attention):
            out = function(query, key, value, 0.4, document_starts)
            results.append((out, *torch.autograd.grad(out, (query, key, value), upstream)))
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 999), keys=st.sampled_from([1, 40, 150]), before=st.integers(0, 149),
       share=st.sampled_from([None, 0.0, 0.02, 0.3]), kept_length=st.sampled_from([2048, 0]))  # fmt: skip
def test_the_last_queries_read_what_they_read_among_all(seed, keys, before, share, kept_length):
    """Whole rows, divided in two: values, and gradients as sums of both parts'."""
    torch.manual_seed(seed)
    cut = before % keys
    inputs = [torch.randn(3, 2, keys, width, requires_grad=True) for width in (12, 12, 8)]
    upstream = torch.randn(3, 2, keys, 8)
    starts = None if share is None else find_document_starts(documents_of(seed, 3, keys, share))

    def part(function, first, end):
        query, key, value = inputs[0][:, :, first:end], inputs[1][:, :, :end], inputs[2][:, :, :end]
        return function(query, key, value, 0.4, None if starts is None else starts[:, first:end])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(attention, "KEPT_LENGTH", kept_length)
        patch.setattr(attention, "QUERY_BLOCK", 16)
        whole = causal_attention.reference(*inputs, 0.4, starts)
        expected = torch.autograd.grad(whole, inputs, upstream)
        for function in (causal_attention.reference, block_attention, torch_attention):
            parts = [part(function, *span) for span in ((0, cut), (cut, keys)) if span[0] < span[1]]
            found = torch.cat(parts, dim=2)
            torch.testing.assert_close(found, whole)
            for ours, right in zip(torch.autograd.grad(found, inputs, upstream), expected, strict=True):
                torch.testing.assert_close(ours, right)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 999), keys=st.integers(1, 40), before=st.integers(0, 39),
       share=st.sampled_from([0.0, 0.1, 0.5, 1.0]))  # fmt: skip
def test_packed_documents_hold_the_keys_that_their_queries_read(seed, keys, before, share):
    starts = find_document_starts(documents_of(seed, 3, keys, share))
    first = before % keys
    packed = pack(starts[:, first:], keys)
    positions = torch.arange(keys).expand(3, -1) + 100 * torch.arange(3)[:, None]
    laid, queries = packed.keys(positions[..., None])[:, 0].tolist(), positions[:, first:].flatten().tolist()
    assert (packed.query_ends[-1], packed.key_ends[-1]) == (len(queries), len(laid))
    begins = zip([0, *packed.query_ends[:-1]], [0, *packed.key_ends[:-1]], strict=True)
    for (query, key), *ends in zip(begins, packed.query_ends, packed.key_ends, strict=True):
        row, last = divmod(queries[ends[0] - 1], 100)
        assert laid[key : ends[1]] == list(range(100 * row + int(starts[row, last]), 100 * row + last + 1))
        assert queries[query : ends[0]] == laid[key : ends[1]][-(ends[0] - query) :]
    assert pack(starts[:, first:], keys) == packed


@given(shift=st.integers(0, 1000))
@settings(max_examples=20, deadline=None)
def test_rotated_dot_products_depend_on_distance_only(shift):
    torch.manual_seed(1)
    query, key = torch.randn(1, 8), torch.randn(1, 8)

    def score(first, second):
        cos, sin = rotary_angles(torch.tensor([first, second]), 8, 10_000.0)
        q, k = (rotate(x.view(1, 1, 8), cos[i : i + 1], sin[i : i + 1]) for i, x in enumerate((query, key)))
        return float((q * k).sum())

    assert score(5 + shift, 2 + shift) == pytest.approx(score(5, 2), abs=2e-3)
    assert score(0, 0) == pytest.approx(float((query * key).sum()), abs=1e-5)


@settings(max_examples=25, deadline=None)
@given(tokens=st.integers(0, 40), ignored=st.floats(0, 1), chunk=st.sampled_from([1, 7, 100]))
def test_chunked_loss_equals_whole_logits(tokens, ignored, chunk):
    torch.manual_seed(tokens)
    hidden, weight = torch.randn(tokens, 8, requires_grad=True), torch.randn(11, 8, requires_grad=True)
    targets = torch.randint(0, 11, (tokens,))
    targets[torch.rand(tokens) < ignored] = IGNORE
    results = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("longcat.ops.linear_cross_entropy.chunk_rows", lambda *_: chunk)
        for function in (linear_cross_entropy, linear_cross_entropy.reference):
            loss = function(hidden, weight, targets)
            results.append((loss, *torch.autograd.grad(2 * loss, (hidden, weight))))
        kept = targets != IGNORE
        if kept.any():  # those left out might as well not be there
            loss = linear_cross_entropy(hidden[kept], weight, targets[kept])
            torch.testing.assert_close(results[0], (loss, *torch.autograd.grad(2 * loss, (hidden, weight))))
    for fast, plain in zip(*results, strict=True):
        torch.testing.assert_close(fast, plain)


@pytest.mark.parametrize("bad", [float("inf"), float("nan")])
def test_a_token_left_out_may_hold_anything(bad):
    hidden, weight = torch.randn(5, 8), torch.randn(11, 8, requires_grad=True)
    targets = torch.tensor([1, IGNORE, 3, 4, 5])
    expected = linear_cross_entropy(hidden, weight, targets)
    gradient = torch.autograd.grad(expected, weight)[0]
    hidden[1, 2] = bad
    found = linear_cross_entropy(hidden, weight, targets)
    assert torch.equal(found, expected)
    assert torch.equal(torch.autograd.grad(found, weight)[0], gradient)


def test_the_chunk_is_sized_by_the_device():
    for kind in ("npu", "cuda"):
        for dtype in (torch.bfloat16, torch.float32):
            rows = chunk_rows(kind, 163_840, dtype)
            assert rows >= 1024
            assert rows * 163_840 * (4 if dtype == torch.float32 else 6) <= ACCELERATOR_BYTES
    assert chunk_rows("cpu", 8192, torch.bfloat16) == 512
    assert chunk_rows("cpu", 163_840, torch.bfloat16) == FEWEST_ROWS


class Largest(TorchDispatchMode):
    """The numbers of elements of all tensors that are made."""

    def __init__(self):
        super().__init__()
        self.sizes = {}

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                self.sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return result


def test_nothing_as_large_as_the_head_is_held_but_its_gradient(monkeypatch):
    monkeypatch.setattr("longcat.ops.linear_cross_entropy.chunk_rows", lambda *_: 4)
    hidden, weight = (torch.randn(rows, 64).bfloat16().requires_grad_() for rows in (16, 1000))
    with Largest() as made:
        linear_cross_entropy(hidden, weight, torch.arange(16)).backward()
    own = {weight.data_ptr(), weight.grad.data_ptr()}
    assert [size for place, size in made.sizes.items() if place not in own and size >= weight.nbytes] == []


def test_gradients_in_bf16_are_as_exact_as_their_type():
    torch.manual_seed(0)
    hidden, weight = (
        (size * torch.randn(rows, 64)).bfloat16().requires_grad_() for rows, size in ((2048, 1), (500, 0.1))
    )
    targets = torch.randint(0, 500, (2048,))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("longcat.ops.linear_cross_entropy.chunk_rows", lambda *_: FEWEST_ROWS)
        found = torch.autograd.grad(linear_cross_entropy(hidden, weight, targets), (hidden, weight))
    exact = [one.detach().double().requires_grad_() for one in (hidden, weight)]
    expected = torch.autograd.grad(linear_cross_entropy.reference(*exact, targets), exact)
    for ours, right in zip(found, expected, strict=True):
        assert float((ours - right).abs().max() / right.abs().max()) < 0.012


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e4])
def test_the_norm_of_a_single_token_is_that_of_many(scale):
    """Decoding takes another way through the norm, with the same result."""
    draws = torch.Generator().manual_seed(0)
    rows, weight = scale * torch.randn(1, 7, 96, generator=draws), torch.randn(96, generator=draws)
    many = rms_norm(rows, weight, 1e-6)
    with torch.inference_mode():
        for number in range(7):
            one = rms_norm(rows[:, number : number + 1], weight, 1e-6)
            torch.testing.assert_close(one, many[:, number : number + 1], rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_many_tokens_are_normed_alike_with_and_without_a_gradient(scale):
    draw = torch.Generator().manual_seed(0)
    x, weight = scale * torch.randn(5, 3, 24, generator=draw), torch.randn(24, generator=draw)
    x[2, 1] = 0
    with torch.no_grad():
        torch.testing.assert_close(rms_norm(x, weight, 1e-5), rms_norm.reference(x, weight, 1e-5), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("first", [0, 1, 2], ids=["whole", "pairs between numbers", "pairs after others"])
@pytest.mark.parametrize("width", [8, 11])
def test_a_rotation_without_gradient_is_the_reference_wherever_its_pairs_lie(first, width):
    x = torch.randn(2, 5, 3, first + width, generator=torch.Generator().manual_seed(0))[..., first : first + 8]
    for positions in (torch.arange(5), torch.arange(10).view(2, 5)):
        turn = rotary_angles(positions, 8, 100.0)
        torch.testing.assert_close(rotate(x, *turn), rotate.reference(x, *turn))
