"""Initial weights, drawn in blocks of rows, so that any part of a parameter can be drawn without the rest of it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from itertools import product

import numpy as np
import torch
from torch import Tensor

from longcat.config import ModelConfig
from longcat.model.scaling import role_of, transfer, width_over_proxy

BLOCK_ROWS = 64
"""Rows of a matrix that are drawn together; other blocks are other values."""


class InitialWeights:
    """The initial values of a model's parameters: matrices from normal(0, initializer_range), norms 1, biases 0.

    A value depends on the seed, the name of the parameter and the place in it alone, not on the order of parameters, the
    device, or what else is drawn. With `proxy_hidden_size` the variance is carried over from the proxy, see
    `longcat.model.scaling.transfer`.
    """

    def __init__(self, config: ModelConfig, seed: int) -> None:
        self.seed, self.range = seed, config.initializer_range
        self.width = width_over_proxy(config)

    @torch.no_grad()
    def fill(self, name: str, part: Tensor, shape: Sequence[int], offsets: Sequence[int]) -> None:
        """Set a part of a parameter to its initial values; no more than a block of rows is drawn at a time.

        Args:
            name: of the parameter in the model.
            part: what is filled, of as many dimensions as the parameter.
            shape: of the whole parameter: a vector, a matrix, or a stack of matrices.
            offsets: place of the part's first number in the parameter.
        """
        role = role_of(name, len(shape))
        if role == "vector":
            part.fill_(1.0 if "norm" in name else 0.0)
            return
        deviation = self.range * transfer(role, self.width).variance ** 0.5
        rows, columns = shape[-2:]
        *above, first, left = offsets
        own_rows, own_columns = part.shape[-2:]
        blocks = range(first // BLOCK_ROWS, -(-(first + own_rows) // BLOCK_ROWS)) if part.numel() else range(0)
        for place in product(*map(range, part.shape[:-2])):
            matrix = [start + index for start, index in zip(above, place, strict=True)]
            for block in blocks:
                begin, end = block * BLOCK_ROWS, min((block + 1) * BLOCK_ROWS, rows)
                drawn = self._block(f"{name}:{matrix}:{block}", (end - begin, columns)) * deviation
                top, bottom = max(begin, first), min(end, first + own_rows)
                wanted = drawn[top - begin : bottom - begin, left : left + own_columns]
                part[place][top - first : bottom - first] = wanted

    def _block(self, name: str, shape: tuple[int, int]) -> Tensor:
        """Draw a block from normal(0, 1).

        A key of 128 bits gives each of the millions of blocks of a large table a stream of its own; torch's generator on
        a CPU uses 32 bits of a seed.
        """
        key = hashlib.sha256(f"{self.seed}:{name}".encode()).digest()[:16]
        stream = np.random.Generator(np.random.Philox(key=int.from_bytes(key, "big")))
        return torch.from_numpy(stream.standard_normal(shape, dtype=np.float32))
