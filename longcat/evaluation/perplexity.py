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


def bytes_of_targets(rows: Batch, token_bytes: np.ndarray) -> np.ndarray:
    """Return the UTF-8 bytes of every target, int64 `[rows, length]`; 0 where it is ignored."""
    found: np.ndarray = np.where(rows.targets == IGNORE, 0, token_bytes[rows.targets]).astype(np.int64)
    return found
