"""Texts side by side are those that each is alone, whoever joins and leaves."""

import random

import pytest

from longcat.errors import ConfigError
from longcat.inference.decoder import Decoder
from longcat.inference.requests import Prompt
from longcat.inference.runner import Runner
from longcat.inference.sampling import Sampling
from longcat.model.generation import continue_greedily


def prompts(count, sampling, seed=0, stops=()):
    draw = random.Random(seed)
    return [
        Prompt([draw.randrange(3, 259) for _ in range(draw.choice([1, 3, 20, 70]))], sampling(number), stops)
        for number in range(count)
    ]


def test_greedy_text_equals_that_of_one_at_a_time(opened):
    asked = prompts(9, lambda number: Sampling(4 + 5 * (number % 4)))
    found = Runner(opened, batch_sequences=4).generate(asked)
    for prompt, made in zip(asked, found, strict=True):
        whole = continue_greedily(opened.model, list(prompt.tokens), prompt.sampling.max_tokens)
        expected = whole[: whole.index(2)] if 2 in whole else whole
        assert made.tokens == expected
        assert made.text == opened.tokenizer.decode(expected)
        assert made.reason == ("end_of_text" if 2 in whole else "length")


def test_samples_depend_on_the_own_seed_only(opened):
    asked = prompts(6, lambda number: Sampling(12, temperature=1.0, top_p=0.95, seed=number))
    together = Runner(opened, batch_sequences=6).generate(asked)
    alone = [Runner(opened).generate([prompt])[0] for prompt in asked]
    assert together == alone
    again = Runner(opened).generate([Prompt(asked[0].tokens, Sampling(12, temperature=1.0, top_p=0.95, seed=99))])
    assert again[0].tokens != together[0].tokens


def test_a_stop_string_ends_a_text_and_is_no_part_of_it(opened):
    [whole] = Runner(opened).generate([Prompt([7, 8], Sampling(40))])
    stop = whole.text[10:13]  # of several tokens
    [made] = Runner(opened).generate([Prompt([7, 8], Sampling(40), (stop, "never there"))])
    assert made.text == whole.text[: whole.text.index(stop)]
    assert made.reason == "stop" and len(made.tokens) < 40


def test_a_prompt_that_is_too_long_loses_its_beginning(opened):
    text = [3 + number % 200 for number in range(90)]
    [cut, same] = Runner(opened, window=64).generate([Prompt(text, Sampling(8)), Prompt(text[34:], Sampling(8))])
    assert (cut.dropped, same.dropped) == (34, 0)
    assert cut.tokens == same.tokens
    with pytest.raises(ConfigError, match="64 new tokens leave no room"):
        Runner(opened, window=64).generate([Prompt([5], Sampling(64))])


def test_no_prompt_begins_a_text(opened):
    [empty, same] = Runner(opened).generate([Prompt([], Sampling(6)), Prompt([2], Sampling(6))])
    assert empty == same


def test_texts_join_and_are_cancelled_between_steps(opened):
    [one, two, three] = prompts(3, lambda number: Sampling(10), seed=3)
    alone = [made.tokens for made in (Runner(opened).generate([prompt])[0] for prompt in (one, two, three))]
    decoder, made = Decoder(opened, rows=2), {}

    def step():
        for event in decoder.step():
            if event.token is not None:
                made.setdefault(event.handle, []).append(event.token)

    first = decoder.add(one)
    step()
    step()
    second, third = decoder.add(two), decoder.add(three)
    step()
    assert (decoder.active, decoder.waiting) == (2, 1)
    decoder.cancel(first)
    decoder.cancel(12345)
    assert (decoder.active, decoder.waiting) == (1, 1)
    while decoder.active or decoder.waiting:
        step()
    assert decoder.step() == []
    assert made[first] == alone[0][: len(made[first])] and len(made[first]) == 3
    assert [made[second], made[third]] == alone[1:]


def test_the_tokens_of_the_cache_are_bounded(opened):
    decoder = Decoder(opened, rows=8, tokens=opened.window)
    for _ in range(5):
        decoder.add(Prompt([5] * 500, Sampling(100)))
    decoder.step()
    assert (decoder.active, decoder.waiting) == (3, 2)  # of 600 columns each


def test_a_text_longer_than_the_model_is_refused(opened):
    with pytest.raises(ConfigError, match="2000 tokens of prompt and 49 new ones exceed the model's 2048 positions"):
        Decoder(opened).add(Prompt([5] * 2000, Sampling(49)))


def test_texts_can_wait_for_one_another(opened):
    asked = prompts(7, lambda number: Sampling(4 + number))
    decoder, begun, counts = Decoder(opened, rows=4, together=2), set(), []
    for prompt in asked:
        decoder.add(prompt)
    while decoder.waiting or decoder.active:
        new = {event.handle for event in decoder.step()} - begun
        begun |= new
        counts.append(len(new))
    # a text alone waits for another one, but for the last one, which has none to wait for
    assert [count for count in counts if count] == [4, 2, 1]
