"""The likeliest continuation of one text, a token at a time; `longcat.inference` continues many, and samples."""

from __future__ import annotations

import torch

from longcat.errors import ConfigError
from longcat.model.transformer import LongcatModel


def continue_greedily(model: LongcatModel, prompt: list[int], count: int) -> list[int]:
    """Return the `count` tokens that continue a prompt of at least one token, the likeliest one each time.

    Raises:
        ConfigError: prompt and continuation are longer than the model is meant for.
    """
    limit = model.config.max_position_embeddings
    if len(prompt) + count > limit:
        raise ConfigError(f"{len(prompt)} tokens of prompt and {count} new ones exceed the model's {limit} positions")
    cache = model.new_cache()
    tokens = torch.tensor([prompt], device=next(model.parameters()).device)
    found: list[int] = []
    with torch.inference_mode():
        for _ in range(count):
            tokens = model.next_logits(tokens, cache).argmax(-1, keepdim=True)
            found.append(int(tokens))
    return found
