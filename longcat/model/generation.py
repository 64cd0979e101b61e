"""Text from a model, a token at a time."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from longcat.errors import ConfigError
from longcat.model.transformer import LongcatModel


def generate(
    model: LongcatModel,
    prompt: list[int],
    count: int,
    *,
    temperature: float = 0.0,
    top_k: int | None = None,
    top_p: float = 1.0,
    seed: int = 0,
    stop: int | None = None,
) -> Iterator[int]:
    """Return an iterator over up to `count` tokens that continue a prompt; each costs one forward pass of one token.

    Args:
        model: in evaluation mode.
        prompt: at least one token.
        count: most tokens to yield.
        temperature: 0 takes the likeliest token; otherwise logits are divided by it and sampled from.
        top_k: sample from this many likeliest tokens only.
        top_p: sample from the likeliest tokens that together have this probability only.
        seed: of the sampling.
        stop: end before yielding this token.

    Raises:
        ConfigError: prompt and continuation are longer than the model is meant for.
    """
    limit = model.config.max_position_embeddings
    if len(prompt) + count > limit:
        raise ConfigError(f"{len(prompt)} tokens of prompt and {count} new ones exceed the model's {limit} positions")
    return _continuation(model, prompt, count, temperature, top_k, top_p, seed, stop)


def _continuation(
    model: LongcatModel,
    prompt: list[int],
    count: int,
    temperature: float,
    top_k: int | None,
    top_p: float,
    seed: int,
    stop: int | None,
) -> Iterator[int]:
    device = next(model.parameters()).device
    generator = torch.Generator(device).manual_seed(seed)
    cache = model.new_cache()
    tokens = torch.tensor([prompt], device=device)
    for _ in range(count):
        with torch.inference_mode():
            token = int(pick(model.next_logits(tokens, cache)[0], temperature, top_k, top_p, generator))
        if token == stop:
            return
        yield token
        tokens = torch.tensor([[token]], device=device)


def pick(
    logits: Tensor, temperature: float, top_k: int | None, top_p: float, generator: torch.Generator | None = None
) -> Tensor:
    """Choose a token by logits `[vocab]`, see `generate`."""
    if temperature == 0:
        return logits.argmax()
    ordered, tokens = (logits / temperature).sort(descending=True)
    if top_k is not None:
        ordered, tokens = ordered[:top_k], tokens[:top_k]
    probabilities = ordered.softmax(-1)
    tail = probabilities.cumsum(-1) - probabilities >= top_p
    tail[0] = False  # the likeliest is always there
    chosen = probabilities.masked_fill(tail, 0.0).multinomial(1, generator=generator)
    return tokens[chosen[0]]
