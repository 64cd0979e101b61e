import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from longcat.corpus.loader import Loader, Prefetcher, shuffled_index
from longcat.corpus.shards import Batch


class Rows:
    """Rows that hold their own number."""

    def __init__(self, count):
        self.count = count

    def __len__(self):
        return self.count

    def take(self, indices):
        column = indices[:, None]
        return Batch(column, column, np.zeros_like(column))


def numbers(loader, step):
    return loader.batch(step).tokens[:, 0].tolist()


@given(st.integers(1, 3000), st.integers(0, 2**32), st.integers(0, 1000))
def test_an_epoch_is_a_permutation(size, seed, epoch):
    assert sorted(shuffled_index(np.arange(size), size, seed, epoch).tolist()) == list(range(size))


@given(st.integers(1, 200), st.integers(1, 12), st.integers(0, 10**9), st.integers(1, 40))
def test_every_row_once_an_epoch_in_batches_that_run_on(rows, quarter, seed, steps):
    batch = 4 * quarter
    loader = Loader(Rows(rows), seed, batch)
    seen = [number for step in range(steps) for number in numbers(loader, step)]
    for begin in range(0, len(seen) - rows + 1, rows):
        assert sorted(seen[begin : begin + rows]) == list(range(rows))


@given(st.integers(1, 200), st.integers(1, 12), st.integers(0, 10**9), st.integers(0, 10**6))
def test_order_is_the_same_for_every_world_size(rows, quarter, seed, step):
    batch = 4 * quarter
    alone = numbers(Loader(Rows(rows), seed, batch), step)
    for world in (2, 4):
        loaders = [Loader(Rows(rows), seed, batch, rank, world) for rank in range(world)]
        assert [number for loader in loaders for number in numbers(loader, step)] == alone


def test_seeds_and_epochs_have_orders_of_their_own():
    orders = {tuple(shuffled_index(np.arange(1000), 1000, seed, epoch)) for seed in range(5) for epoch in range(5)}
    assert len(orders) == 25


def test_order_looks_random():
    size = 5000
    order = shuffled_index(np.arange(size), size, 3, 0)
    assert abs(np.corrcoef(np.arange(size), order)[0, 1]) < 0.05
    assert np.mean(np.abs(np.diff(order))) == pytest.approx(size / 3, rel=0.05)
    firsts = [shuffled_index(np.array([0]), 10, seed, 0)[0] for seed in range(5000)]
    assert np.bincount(firsts, minlength=10).min() > 400  # 500 each, if even


def test_order_is_pinned():
    # a resumed run depends on it: whoever changes it has to raise the STAGE_VERSION of pre-training
    assert shuffled_index(np.arange(10), 10, 0, 0).tolist() == [9, 5, 8, 7, 6, 4, 0, 2, 3, 1]


def test_epoch_counts_passes():
    loader = Loader(Rows(10), 0, 4)
    assert loader.epoch(0) == 0
    assert loader.epoch(5) == 2.0


@pytest.mark.parametrize(("rows", "batch", "rank", "world"), [(0, 4, 0, 1), (8, 3, 0, 2), (8, 4, 2, 2)])
def test_impossible_shares_are_refused(rows, batch, rank, world):
    with pytest.raises(ValueError, match=r"rows|batch_sequences"):
        Loader(Rows(rows), 0, batch, rank, world)


class WatchedRows(Rows):
    """Rows that say when a batch has been read, and by which thread."""

    def __init__(self, count):
        super().__init__(count)
        self.taken, self.threads, self.read = [], [], threading.Semaphore(0)

    def take(self, indices):
        self.taken.append(indices[0])
        self.threads.append(threading.current_thread())
        self.read.release()
        if len(self.taken) == 7:
            raise OSError("disk gone")
        return super().take(indices)


def test_the_next_batch_is_read_ahead_and_the_order_stays():
    rows = WatchedRows(64)
    plain, ahead = Loader(Rows(64), 3, 4), Prefetcher(Loader(rows, 3, 4))
    assert np.array_equal(ahead.batch(0).tokens, plain.batch(0).tokens)
    first = ahead.waited
    assert first > 0
    for _ in range(2):  # the next one is read before anybody asks for it
        assert rows.read.acquire(timeout=300)
    assert np.array_equal(ahead.batch(1).tokens, plain.batch(1).tokens)
    assert rows.read.acquire(timeout=300)
    me = threading.current_thread()
    assert [thread is me for thread in rows.threads] == [True, False, False]
    assert rows.taken == [plain.batch(step).tokens[0, 0] for step in range(3)]  # and once each
    assert 0 < ahead.waited != first
    assert np.array_equal(ahead.batch(9).tokens, plain.batch(9).tokens)  # a jump
    assert np.array_equal(ahead.batch(10).tokens, plain.batch(10).tokens)
    with pytest.raises(OSError, match="disk gone"):  # where the batch is asked for
        for step in range(11, 14):
            ahead.batch(step)
