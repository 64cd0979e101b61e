"""Rows of unequal length in one cache: each says what it says alone, whoever joins and leaves."""

import pytest
import torch

from longcat.config import load_config
from longcat.model import LongcatModel

LENGTHS = [5, 70, 30, 1]


@pytest.fixture(scope="module", params=["tiny", "tiny-2.0"])
def model(request):
    overrides = ["model.initializer_range=0.2"]
    if request.param == "tiny-2.0":
        overrides.append("model.sparse_attention.index_topk=56")  # fewer than the longest row's, more than the others'
    model = LongcatModel(load_config(request.param, overrides=overrides).model)
    model.initialize(0)
    return model.eval()


@pytest.fixture(scope="module")
def texts():
    draws = torch.Generator().manual_seed(0)
    return [torch.randint(0, 40, (length + 12,), generator=draws) for length in LENGTHS]  # ends of text among them


@pytest.fixture(scope="module")
def expected(model, texts):
    with torch.inference_mode():
        return [model.logits(text[None])[0] for text in texts]


def prefilled(model, texts, lengths):
    """Compute rows that are padded at the right, and let them end together."""
    tokens = torch.zeros(len(texts), max(lengths), dtype=torch.int64)
    padding = torch.ones_like(tokens, dtype=torch.bool)
    for row, (text, length) in enumerate(zip(texts, lengths, strict=True)):
        tokens[row, :length] = text[:length]
        padding[row, :length] = False
    cache = model.new_cache()
    model.states(tokens, cache=cache, padding=padding)
    return cache.select(range(len(texts)), lengths)


def assert_close(found, wanted):
    torch.testing.assert_close(found, wanted, atol=3e-4, rtol=1e-4)


@pytest.mark.parametrize("new", [1, 2, 12])
def test_rows_of_unequal_length_go_on_as_each_alone(model, texts, expected, new):
    with torch.inference_mode():
        cache = prefilled(model, texts, LENGTHS)
        assert cache.lengths == LENGTHS
        for step in range(0, 12, new):
            tokens = torch.stack([text[n + step : n + step + new] for text, n in zip(texts, LENGTHS, strict=True)])
            found = model.logits(tokens, cache=cache)
            for row, length in enumerate(LENGTHS):
                assert_close(found[row], expected[row][length + step : length + step + new])


def test_rows_join_leave_and_double(model, texts, expected):
    with torch.inference_mode():
        cache = prefilled(model, texts, LENGTHS).select([3, 2, 2, 0])  # the longest one leaves
        assert (cache.length, cache.lengths) == (30, [1, 30, 30, 5])
        cache = cache.join(prefilled(model, [texts[1]], [60]))
        assert cache.lengths == [1, 30, 30, 5, 60]
        of = [(3, 1), (2, 30), (2, 30), (0, 5), (1, 60)]
        found = model.logits(torch.stack([texts[text][n : n + 3] for text, n in of]), cache=cache)
        for row, (text, n) in enumerate(of):
            assert_close(found[row], expected[text][n : n + 3])
        cache = cache.select([4, 0], [61, 2])  # a token and two are taken back
        found = model.logits(torch.stack([texts[1][61:64], texts[3][2:5]]), cache=cache)
        assert_close(found[0], expected[1][61:64])
        assert_close(found[1], expected[3][2:5])


def test_many_new_tokens_after_a_prefix(model, texts, expected):
    """Keys and values of heads are made where queries are many, and the space of the latent is used where they are few."""
    few = model.blocks[0].self_attn[0]._is_few
    assert few(1) and not few(400)
    long = torch.randint(0, 40, (2, 420), generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        whole = model.logits(long)
        cache = model.new_cache()
        model.states(long[:, :20], cache=cache)
        cache = cache.select([0, 1, 1], [20, 20, 7])  # the last one reads another text on
        found = model.logits(torch.cat([long[:, 20:], long[:1, 20:]]), cache=cache)
        assert_close(found[:2], whole[:, 20:])
        other = torch.cat([long[1:, :7], long[:1, 20:]], dim=1)
        assert_close(found[2], model.logits(other)[0, 7:])
