"""The bootstrap's interval covers the true difference as often as it says, and its p-value finds what is there."""

import numpy as np
import pytest

from longcat.evaluation.bootstrap import adjusted, paired, sign_test, standard_error, unpaired


def items(seed, difference, count=60):
    """Two checkpoints' answers to the same questions, some of which are hard for both."""
    generator = np.random.default_rng(seed)
    hardness = generator.random(count)
    return [(generator.random(count) < np.clip(hardness + shift, 0, 1)).astype(float) for shift in (0.0, difference)]


def test_the_interval_covers_the_truth():
    """Of 300 intervals at 90 %, 270 are expected, with a standard deviation of 5."""
    truth = float(np.mean(np.clip(np.linspace(0, 1, 100_001) + 0.1, 0, 1)) - 0.5)
    found = [paired(*items(seed, 0.1), resamples=400, level=0.9, seed=seed) for seed in range(300)]
    covered = sum(one.low <= truth <= one.high for one in found)
    assert 250 <= covered <= 290


def test_p_is_small_only_where_there_is_a_difference():
    same = [paired(*items(seed, 0.0), resamples=400, seed=seed).p for seed in range(200)]
    assert 0 <= sum(p < 0.05 for p in same) <= 24  # 10 are expected
    assert all(paired(*items(seed, 0.5), resamples=400, seed=seed).p < 0.05 for seed in range(20))


def test_bits_over_bytes_are_a_ratio_of_sums():
    generator = np.random.default_rng(0)
    size = generator.integers(10, 1000, 50).astype(float)
    first, second = 2.0 * size, 1.9 * size
    found = paired(first, second, size)
    assert (found.first, found.second, found.value) == pytest.approx((2.0, 1.9, -0.1))
    assert (found.low, found.high) == pytest.approx((-0.1, -0.1))
    assert found.p == pytest.approx(2 / 10_001)
    apart = unpaired((first, size), (second, size))
    assert apart.value == pytest.approx(-0.1)
    assert apart.low == pytest.approx(-0.1)


def test_pairs_are_sharper_than_what_is_drawn_apart():
    first, second = items(1, 0.1, 400)
    together, apart = paired(first, second), unpaired((first, np.ones(400)), (second, np.ones(400)))
    assert together.high - together.low < apart.high - apart.low


def test_equal_answers_do_not_differ():
    found = paired([1.0, 0.0, 1.0], [1.0, 0.0, 1.0])
    assert (found.value, found.low, found.high, found.p) == (0, 0, 0, 1)


def test_the_same_seed_draws_the_same_and_memory_is_bounded(monkeypatch):
    first, second = items(2, 0.1)
    whole = paired(first, second, seed=3)
    assert paired(first, second, seed=3) == whole
    assert paired(first, second, seed=4) != whole
    monkeypatch.setattr("longcat.evaluation.bootstrap._AT_ONCE", 100)
    assert paired(first, second, seed=3) == whole


def test_the_standard_error_of_a_mean_is_the_known_one():
    values = np.random.default_rng(5).normal(3, 2, 400)
    found = standard_error(values, np.ones(400))
    assert found == pytest.approx(values.std(ddof=1) / 20, rel=0.05)
    assert standard_error(10 * values, 10 * np.ones(400)) == pytest.approx(found)
    assert found == standard_error(values, np.ones(400))


def test_the_standard_error_of_bits_per_byte_is_that_of_documents():
    """Each of ten equal documents with a hundred items: items of one document say the same."""
    generator = np.random.default_rng(6)
    costs, lengths = generator.uniform(1, 3, 10).repeat(100), np.ones(1000)
    of_documents = standard_error(costs.reshape(10, 100).sum(1), lengths.reshape(10, 100).sum(1))
    assert of_documents > 5 * standard_error(costs, lengths)


@pytest.mark.parametrize("values, weights", [([], []), ([1.0], [2.0]), ([1.0, 2.0], [0.0, 0.0])])
def test_without_several_items_there_is_no_standard_error(values, weights):
    assert standard_error(values, weights) is None


def test_items_without_bytes_do_not_spoil_it():
    assert 0 < standard_error([4.0, 2.0, 1.0], [2.0, 1.0, 0.0]) < 10


def test_what_cannot_be_compared():
    for bad in (([], []), ([1.0], [1.0, 0.0]), ([1.0], [1.0], [1.0, 2.0])):
        with pytest.raises(ValueError, match="cannot be compared"):
            paired(*bad)


def test_several_comparisons_at_once():
    assert adjusted([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert adjusted([0.9, 0.8]) == [1.0, 1.0]
    assert adjusted([]) == []


def test_few_changes_are_no_proof():
    assert sign_test(5, 0) == sign_test(0, 5) == 0.0625
    assert (sign_test(0, 0), sign_test(3, 3), sign_test(6, 0)) == (1, 1, 0.03125)
    assert 0 < sign_test(2000, 1000) < 1e-6
