"""What is asked of a model, and what it answers. Plain values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from longcat.inference.sampling import Sampling

Reason = Literal["stop", "end_of_text", "length"]
"""Why a text ended: a stop string, the token that ends a text, or as many tokens as were asked for."""


@dataclass(frozen=True)
class Continuation:
    """Tokens whose likelihood after a context is asked for."""

    context: Sequence[int]
    """What comes before them; without any, the token that ends the text before."""
    tokens: Sequence[int]
    """The continuation itself."""


@dataclass(frozen=True)
class Likelihood:
    """How likely a continuation is."""

    nats: float
    """Its log-likelihood, by the natural logarithm."""
    greedy: bool
    """Whether each of its tokens is the likeliest one in its place."""
    dropped: int
    """Tokens of the context that were cut off at the left because the model does not read so many."""


@dataclass(frozen=True)
class Prompt:
    """A text to continue."""

    tokens: Sequence[int]
    """What comes before; without any, the token that ends the text before."""
    sampling: Sampling
    """How the next tokens are chosen."""
    stops: Sequence[str] = ()
    """Strings that end the text, which are no part of it."""


@dataclass(frozen=True)
class Generated:
    """How a text was continued."""

    tokens: list[int]
    """All that were made, without the one that ends a text; those of a stop string are among them."""
    text: str
    """What they say, up to the first stop string."""
    reason: Reason
    """Why it ended."""
    dropped: int = 0
    """Tokens of the prompt that were cut off at the left because the model does not read so many."""
