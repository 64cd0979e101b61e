"""Likelihoods in batches are those of one whole forward pass each."""

import random

import pytest
import torch

from longcat.errors import ConfigError
from longcat.inference.batches import Context, fit, make_batches
from longcat.inference.requests import Continuation
from longcat.inference.runner import Runner


def by_hand(opened, context, tokens):
    with torch.inference_mode():
        rows = torch.tensor([[*context, *tokens]])
        scores = opened.model.logits(rows[:, :-1])[0, -len(tokens) :].log_softmax(-1)
        wanted = rows[0, -len(tokens) :]
        return float(scores.gather(1, wanted[:, None]).sum()), bool((scores.argmax(-1) == wanted).all())


def requests(seed, preamble=0):
    """Draw items of several choices, single ones and one asked twice, behind a common preamble."""
    draw = random.Random(seed)

    def text(length):
        return [draw.randrange(2, 259) for _ in range(length)]

    before, found = text(preamble), []
    for choices, length in ((4, 1), (4, 6), (1, 9), (3, 2), (2, 1), (1, 1)):
        for _ in range(3):
            context = before + text(draw.randrange(1, 90))
            found += [Continuation(context, text(draw.randrange(1, length + 1))) for _ in range(choices)]
    found += [found[0], Continuation([], text(4))]
    draw.shuffle(found)
    return found


@pytest.mark.parametrize("preamble", [0, 150])
@pytest.mark.parametrize(("rows", "tokens"), [(1, 64), (7, 900), (64, 16_384)])
def test_batches_equal_single_passes(opened, preamble, rows, tokens):
    asked = requests(rows, preamble)
    told = []
    found = Runner(opened, batch_sequences=rows, batch_tokens=tokens).likelihoods(asked, told.append)
    for request, likelihood in zip(asked, found, strict=True):
        nats, greedy = by_hand(opened, list(request.context) or [2], list(request.tokens))
        assert likelihood.nats == pytest.approx(nats, abs=3e-4, rel=1e-4)
        assert (likelihood.greedy, likelihood.dropped) == (greedy, 0)
    assert told == sorted(told) and told[-1] == len(asked)


def test_the_likeliest_continuation_is_greedy(opened):
    context = [5, 9, 11]
    with torch.inference_mode():
        best = int(opened.model.logits(torch.tensor([context]))[0, -1].argmax())
    other = 3 if best != 3 else 4
    [first, second, both] = Runner(opened).likelihoods(
        [Continuation(context, [best]), Continuation(context, [other]), Continuation(context, [best, other])]
    )
    assert (first.greedy, second.greedy) == (True, False)
    assert first.nats > second.nats > both.nats - first.nats - 100


def test_a_context_that_is_too_long_loses_its_beginning(opened):
    text = [3 + number % 200 for number in range(60)]
    runner = Runner(opened, window=32)
    [cut, whole] = runner.likelihoods([Continuation(text[:50], text[50:]), Continuation(text[27:50], text[50:])])
    assert (cut.dropped, whole.dropped) == (27, 0)
    assert cut.nats == pytest.approx(whole.nats, abs=1e-5)
    [full] = runner.likelihoods([Continuation(text[:1], text[1:33])])
    assert full.dropped == 0
    with pytest.raises(ConfigError, match="33 tokens, more than the 32"):
        runner.likelihoods([Continuation(text[:1], text[1:34])])


def test_an_empty_continuation_is_certain(opened):
    [empty, other] = Runner(opened).likelihoods([Continuation([5], []), Continuation([5], [7])])
    assert (empty.nats, empty.greedy) == (0.0, True)
    assert other.nats < 0
    assert Runner(opened).likelihoods([]) == []


def test_a_window_beyond_the_model_is_refused(opened):
    with pytest.raises(ConfigError, match=r"2049 tokens.*2048"):
        Runner(opened, window=2049)


def contexts(*rows):
    return [Context(tuple(row), {(1,): [number]}) for number, row in enumerate(rows)]


def test_common_beginnings_are_found_and_the_rest_is_sorted_by_length():
    first, second = list(range(100, 500)), list(range(600, 900))
    of_first = [[*first, number, *range(number)] for number in range(1, 9)]
    of_second = [[9, *second, number] for number in range(6)]
    alone = [[9, 8, 7], [100, 101], [5] * 30]
    batches = make_batches(contexts(*of_first, *of_second, *alone), most_rows=4, most_tokens=10_000, alone_from=2000)
    by_stem = {}
    for batch in batches:
        by_stem.setdefault(batch.stem, []).append([len(context.tokens) for context in batch.contexts])
    assert set(by_stem) == {(), tuple(first), (9, *second)}
    assert by_stem[tuple(first)] == [[409, 408, 407, 406], [405, 404, 403, 402]]
    assert by_stem[()] == [[30, 3, 2]]
    assert sorted(n for batch in batches for context in batch.contexts for n in context.continuations[(1,)]) == [
        *range(17)
    ]


def test_a_beginning_is_shorter_than_each_context():
    text = list(range(700))
    [batch] = make_batches(contexts(text, [*text, 1], [*text, 2, 3]), most_rows=8, most_tokens=9999, alone_from=2000)
    assert batch.stem == tuple(text[:-1])


def test_long_contexts_are_alone_and_few_tokens_are_no_batch():
    rows = [[1] * 50, [2] * 40, [3] * 30, [4] * 20]
    batches = make_batches(contexts(*rows), most_rows=8, most_tokens=80, alone_from=50)
    assert [[context.tokens[0] for context in batch.contexts] for batch in batches] == [[1], [2, 3], [4]]


def test_fitting():
    assert fit(Continuation([], [5]), 2, 8) == ((2,), (5,), 0)
    assert fit(Continuation(range(20), [5, 6]), 2, 8) == ((13, 14, 15, 16, 17, 18, 19), (5, 6), 13)
