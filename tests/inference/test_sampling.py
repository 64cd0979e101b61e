"""What may be drawn, and how often."""

from collections import Counter

import pytest
import torch

from longcat.errors import ConfigError
from longcat.inference.sampling import Sampling, choose, draws

PROBABILITIES = [0.1, 0.2, 0.3, 0.4]


def drawn(count, **options):
    rows = torch.tensor(PROBABILITIES).log().expand(count, -1)
    settings = [Sampling(1, **{"temperature": 1.0, **options}, seed=seed) for seed in range(count)]
    return Counter(choose(rows, settings, [draws(of.seed) for of in settings]))


def test_top_k_and_top_p_cut_the_tail():
    assert set(drawn(300)) == {0, 1, 2, 3}
    assert set(drawn(300, top_k=2)) == {2, 3}
    assert set(drawn(300, top_p=0.7)) == {2, 3}
    assert set(drawn(300, top_p=0.71)) == {1, 2, 3}
    assert set(drawn(300, top_p=0.0)) == {3}
    assert set(drawn(300, top_k=1)) == {3}
    assert set(drawn(300, top_k=99)) == {0, 1, 2, 3}
    assert set(drawn(300, temperature=0.01)) == {3}


def test_tokens_are_drawn_as_often_as_they_are_likely():
    found = drawn(4000)
    for token, probability in enumerate(PROBABILITIES):
        assert found[token] / 4000 == pytest.approx(probability, abs=0.03)
    halves = drawn(4000, top_k=2)
    assert halves[3] / 4000 == pytest.approx(4 / 7, abs=0.03)


def test_rows_have_settings_of_their_own():
    rows = torch.tensor([PROBABILITIES] * 4).log()
    settings = [Sampling(1), Sampling(1, temperature=2.0, top_k=1), Sampling(1, 1.0, top_p=0.1), Sampling(1)]
    assert choose(rows, settings, [draws(0)] * 4) == [3, 3, 3, 3]


def test_a_token_without_probability_is_never_drawn():
    class Whole:
        def random(self):
            return 1.0 - 2**-53

    rows = torch.tensor([[0.0, 5.0, -torch.inf, 1.0]] * 2)
    assert choose(rows, [Sampling(1, temperature=1.0)] * 2, [Whole()] * 2) == [0, 0]


@pytest.mark.parametrize(
    "wrong", [{"max_tokens": 0}, {"temperature": -1}, {"temperature": float("nan")}, {"top_k": 0}, {"top_p": 1.5}]
)
def test_what_makes_no_sense_is_refused(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        Sampling(**{"max_tokens": 1, **wrong})


@pytest.mark.parametrize("temperature", [1e-300, 1e-40, 1e-9])
def test_the_coldest_texts_take_the_likeliest_token(temperature):
    assert set(drawn(50, temperature=temperature)) == {3}


def test_the_hottest_texts_take_any_token():
    assert set(drawn(300, temperature=1e300)) == {0, 1, 2, 3}
