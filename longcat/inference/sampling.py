"""How the next token of each row is chosen from its logits."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from longcat.errors import ConfigError

_COLDEST, _HOTTEST = 1e-6, 1e6
"""Temperatures beyond which nothing changes but that quotients are no longer finite."""


@dataclass(frozen=True)
class Sampling:
    """How one text is continued.

    Raises:
        ConfigError: a value is out of its range.
    """

    max_tokens: int
    """Most tokens to make."""
    temperature: float = 0.0
    """0 takes the likeliest token; otherwise logits are divided by it and sampled from."""
    top_k: int | None = None
    """Sample from this many likeliest tokens only."""
    top_p: float = 1.0
    """Sample from the likeliest tokens that together have this probability only; the likeliest one is always there."""
    seed: int = 0
    """Of this text's own random numbers: what is drawn depends on no other text."""

    def __post_init__(self) -> None:
        if self.max_tokens < 1:
            raise ConfigError(f"max_tokens={self.max_tokens} has to be at least 1")
        if not 0 <= self.temperature < float("inf"):
            raise ConfigError(f"temperature={self.temperature} has to be 0 or more")
        if self.top_k is not None and self.top_k < 1:
            raise ConfigError(f"top_k={self.top_k} has to be at least 1")
        if not 0 <= self.top_p <= 1:
            raise ConfigError(f"top_p={self.top_p} has to be between 0 and 1")


def draws(seed: int) -> random.Random:
    """Return a text's random numbers; they are the host's, so that every accelerator draws the same ones."""
    return random.Random(seed)  # nosec B311 # to draw words, not secrets


def choose(logits: Tensor, settings: Sequence[Sampling], chances: Sequence[random.Random]) -> list[int]:
    """Choose a token for each row.

    Args:
        logits: fp32 `[rows, vocab]`.
        settings: of each row.
        chances: random numbers of each row, of which one that samples takes one.
    """
    tokens = logits.max(-1).indices  # as argmax, which takes three times as long on a CPU
    sampled = [row for row, of in enumerate(settings) if of.temperature > 0]
    if sampled:
        some = sampled if len(sampled) < len(settings) else slice(None)
        shares = [chances[row].random() for row in sampled]
        tokens[some] = _sample(logits[some], [settings[row] for row in sampled], shares)
    found: list[int] = tokens.tolist()
    return found


def _sample(logits: Tensor, settings: Sequence[Sampling], shares: Sequence[float]) -> Tensor:
    """Take the token at each row's share of the probability that is left, the likeliest tokens first."""
    vocabulary, device = logits.shape[-1], logits.device

    def column(values: list[float]) -> Tensor:
        return torch.tensor(values, dtype=torch.float32, device=device)[:, None]

    most = max(min(of.top_k or vocabulary, vocabulary) for of in settings)
    scaled = logits / column([min(max(of.temperature, _COLDEST), _HOTTEST) for of in settings])
    ordered, tokens = scaled.topk(most) if most < vocabulary else scaled.sort(descending=True)
    rank = torch.arange(most, device=device)
    ordered = ordered.masked_fill(rank >= column([of.top_k or vocabulary for of in settings]), -torch.inf)
    probabilities = ordered.softmax(-1)
    tail = (probabilities.cumsum(-1) - probabilities >= column([of.top_p for of in settings])) & (rank > 0)
    reached = probabilities.masked_fill(tail, 0.0).double().cumsum(-1)
    wanted = torch.tensor(shares, dtype=torch.float64, device=device)[:, None] * reached[:, -1:]
    place = (reached <= wanted).sum(-1, keepdim=True)
    # a share that rounds up to the whole takes the last token that has a part of it
    last = (reached < reached[:, -1:]).sum(-1, keepdim=True)
    return tokens.gather(-1, torch.minimum(place, last))[:, 0]
