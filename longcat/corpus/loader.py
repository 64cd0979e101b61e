"""Batches as a pure function of seed and step, so that there is no state to save or to lose.

Every epoch goes through all rows once, in an order of its own. The order is a keyed permutation that is computed, not
stored: a Feistel network over the smallest even number of bits that holds a row number, walked until it lands inside
(Black and Rogaway 2002, "Ciphers with arbitrary finite domains"). A resumed run, and any number of processes, see the
same rows at the same step.
"""

from __future__ import annotations

import time
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np

from longcat.corpus.shards import Batch, TokenRows
from longcat.corpus.words import mix

_ROUNDS = 6


class Loader:
    """Batches for one of `world` processes, each of which gets its part of every global batch."""

    def __init__(self, rows: TokenRows, seed: int, batch_sequences: int, rank: int = 0, world: int = 1) -> None:
        if len(rows) < 1:
            raise ValueError("there are no rows to load")
        if batch_sequences % world or not 0 <= rank < world:
            raise ValueError(f"batch_sequences={batch_sequences} cannot be shared out to rank {rank} of {world}")
        self.rows = rows
        self.seed = seed
        self.batch_sequences = batch_sequences
        self.places = range(rank * batch_sequences // world, (rank + 1) * batch_sequences // world)

    def batch(self, step: int) -> Batch:
        """Read this process' rows of a step, `[batch_sequences / world, sequence_length]`."""
        return self.rows.take(self.indices(step))

    def indices(self, step: int) -> np.ndarray:
        """Return the numbers of this process' rows of a step, int64; a batch may reach into the next epoch."""
        places = step * self.batch_sequences + np.arange(self.places.start, self.places.stop, dtype=np.int64)
        epochs, places = np.divmod(places, len(self.rows))
        indices = np.empty_like(places)
        for epoch in np.unique(epochs):
            of_epoch = epochs == epoch
            indices[of_epoch] = shuffled_index(places[of_epoch], len(self.rows), self.seed, int(epoch))
        return indices

    def epoch(self, step: int) -> float:
        """Return the passes over all rows that are complete before a step, as a fraction."""
        return step * self.batch_sequences / len(self.rows)


class Prefetcher:
    """Reads the batch of the next step in the background while the current one is used."""

    def __init__(self, loader: Loader) -> None:
        self._loader = loader
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="prefetch")
        self._coming: tuple[int, Future[Batch]] | None = None
        self.waited = 0.0
        """Seconds that the last call of `batch` waited."""

    def batch(self, step: int) -> Batch:
        """Return the batch of a step as `Loader.batch` does; without waiting when steps come in order."""
        began = time.perf_counter()
        if self._coming is not None and self._coming[0] == step:
            rows = self._coming[1].result()
        else:  # the first one, or a jump
            rows = self._loader.batch(step)
        self.waited = time.perf_counter() - began
        self._coming = step + 1, self._pool.submit(self._loader.batch, step + 1)
        return rows


def shuffled_index(places: np.ndarray, size: int, seed: int, epoch: int) -> np.ndarray:
    """Map places in `range(size)` by the permutation of (seed, epoch), int64 of the same shape."""
    half = max(1, ((size - 1).bit_length() + 1) // 2)
    keys = np.random.SeedSequence([seed, epoch]).generate_state(_ROUNDS, np.uint64)
    values = places.astype(np.uint64)
    outside = np.ones(values.shape, bool)
    while outside.any():
        values[outside] = _feistel(values[outside], half, keys)
        outside = values >= size
    return values.astype(np.int64)


def _feistel(values: np.ndarray, half: int, keys: np.ndarray) -> np.ndarray:
    mask = np.uint64((1 << half) - 1)
    left, right = values >> np.uint64(half), values & mask
    for key in keys:
        left, right = right, left ^ (mix(right + key) & mask)
    return (left << np.uint64(half)) | right
