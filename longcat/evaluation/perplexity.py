"""Bits per byte: the same measure for every model and tokenizer.

The negative log-likelihood of the target tokens in bits, over the bytes of UTF-8 text they stand for. End-of-text tokens
cost bits and stand for no bytes.
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
"""Int64 tokens `[batch, seq]`, and `documents` of the same shape if asked for, to logits `[batch, seq, vocab]`."""


def model_bits(
    model: TokenModel,
    rows: Batch,
    batch: int,
    on_batch: Callable[[int], None] = lambda done: None,
    *,
    mask_documents: bool = False,
) -> float:
    """Sum of -log2 p over all targets that are learnt, in fp32 log-softmax, in batches of one fixed size.

    With `mask_documents` the model is told of the documents, and keeps them apart.
    """
    bits = 0.0
    with torch.inference_mode():
        for start in range(0, len(rows), batch):
            part = slice(start, start + batch)
            told = {"documents": torch.from_numpy(rows.documents[part])} if mask_documents else {}
            logits = model(torch.from_numpy(rows.tokens[part]), **told).float()
            targets = torch.from_numpy(rows.targets[part])
            nats = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORE, reduction="sum")
            bits += float(nats) / math.log(2)
            on_batch(min(start + batch, len(rows)))
    return bits


def text_bytes(rows: Batch, token_bytes: np.ndarray) -> int:
    """Bytes of text behind the targets that are learnt."""
    return int(token_bytes[rows.targets[rows.targets != IGNORE]].sum())
