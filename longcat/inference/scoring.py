"""Log-likelihoods of single tokens, from states of the model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from longcat.model.transformer import LongcatModel
from longcat.ops.linear_cross_entropy import chunk_rows


class TokenScores(NamedTuple):
    """Scores of tokens in their places."""

    nats: list[float]
    """log p of each."""
    greedy: list[bool]
    """Whether each is the likeliest one; of equal ones, the first one of the vocabulary."""


def score_tokens(model: LongcatModel, states: Tensor, places: Sequence[int], targets: Sequence[int]) -> TokenScores:
    """Score tokens; the logits of some places are held at a time, and never their probabilities.

    Args:
        model: whose head is asked.
        states: `[places, hidden]`.
        places: number of the place of each token; they never fall.
        targets: the tokens.
    """
    device, vocabulary = states.device, model.config.vocabulary
    chunk = chunk_rows(device.type, vocabulary, states.dtype)
    wanted, at = torch.tensor(targets, device=device), torch.tensor(places, device=device)
    nats, greedy = [], []
    for start in range(0, len(states), chunk):
        logits = model.predict(states[start : start + chunk])
        total, best = logits.logsumexp(-1), logits.max(-1).indices
        here = (at >= start) & (at < start + chunk) if len(states) > chunk else slice(None)
        rows, tokens = at[here] - start, wanted[here]
        nats.append(logits[rows, tokens] - total[rows])
        greedy.append(best[rows] == tokens)
    return TokenScores(torch.cat(nats).tolist(), torch.cat(greedy).tolist())
