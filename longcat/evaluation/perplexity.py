"""Bits per byte, a measure that compares models with different tokenizers.

It is the negative log-likelihood of the target tokens in bits, over the bytes of their UTF-8 text. End-of-text tokens
cost bits and have no bytes.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F

from longcat.corpus.shards import Batch
from longcat.padding import IGNORE

TokenModel = Callable[..., torch.Tensor]
"""Function of int64 tokens `[batch, seq]` and optional `documents` of that shape to logits `[batch, seq, vocab]`."""


def target_bits(
    model: TokenModel,
    rows: Batch,
    batch: int,
    on_batch: Callable[[int], None] = lambda done: None,
    *,
    mask_documents: bool = False,
    device: torch.device | None = None,
) -> np.ndarray:
    """Compute -log2 p of every target, float64 `[rows, length]`, 0 where it is ignored; in batches of one fixed size.

    Logarithms are fp32. With `mask_documents` the model gets the document of each token, and keeps documents apart. The
    model is on the `device`, the CPU if None.
    """

    def on_device(numbers: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(numbers).to(device)

    bits = np.zeros(rows.targets.shape)
    with torch.inference_mode():
        for start in range(0, len(rows), batch):
            part = slice(start, start + batch)
            inputs = {"documents": on_device(rows.documents[part])} if mask_documents else {}
            logits = model(on_device(rows.tokens[part]), **inputs).float()
            targets = on_device(rows.targets[part])
            nats = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORE, reduction="none")
            bits[part] = nats.view_as(targets).cpu().double().numpy() / math.log(2)
            on_batch(min(start + batch, len(rows)))
    return bits


def documents_of(rows: Batch) -> np.ndarray:
    """Return a number for each token's document, int64 `[rows, length]`; -1 for padding.

    A document that goes on in another row is another one there.
    """
    longest = int(rows.documents.max(initial=0)) + 1
    numbers = rows.documents + longest * np.arange(len(rows))[:, None]
    return np.where(rows.documents < 0, -1, numbers).astype(np.int64)


def by_document(documents: np.ndarray, *values: np.ndarray) -> list[np.ndarray]:
    """Sum values over the documents that their tokens belong to, in order of the documents.

    Args:
        documents: of each value, see `documents_of`; values of padding are left out.
        values: arrays of the same shape.
    """
    inside = documents >= 0
    found, place = np.unique(documents[inside], return_inverse=True)
    return [np.bincount(place, of[inside], len(found)) for of in values]


def bytes_of_targets(rows: Batch, token_bytes: np.ndarray) -> np.ndarray:
    """Return the UTF-8 bytes of every target, int64 `[rows, length]`; 0 where it is ignored."""
    found: np.ndarray = np.where(rows.targets == IGNORE, 0, token_bytes[rows.targets]).astype(np.int64)
    return found
