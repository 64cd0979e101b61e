"""Continuous batching: texts are continued side by side, and each joins and leaves between two tokens of the others."""

from __future__ import annotations

import random
from collections import deque
from dataclasses import dataclass, field

import torch
from torch import Tensor

from longcat.errors import ConfigError
from longcat.inference.opening import OpenCheckpoint
from longcat.inference.requests import Prompt, Reason
from longcat.inference.rows import padded
from longcat.inference.sampling import choose, draws
from longcat.inference.text import TextStream
from longcat.model.cache import Cache

PREFILL_TOKENS = 8192
"""Tokens of prompts, with their padding, that join in one step: the other texts wait meanwhile."""


@dataclass(frozen=True)
class Event:
    """What a step has made of one text."""

    handle: int
    """Of the text, from `Decoder.add`."""
    token: int | None
    """Its next token; None where that would be the one that ends a text."""
    text: str
    """What can be shown besides what was shown before."""
    finished: Reason | None = None
    """Why the text ended with this; None where it goes on."""


@dataclass
class _Row:
    handle: int
    prompt: Prompt
    stream: TextStream
    chances: random.Random
    made: list[int] = field(default_factory=list)

    @property
    def needed(self) -> int:
        """Return the most columns that it may come to take."""
        return len(self.prompt.tokens) + self.prompt.sampling.max_tokens


class Decoder:
    """Continues any number of texts, some of them at a time, in the order in which they came.

    What becomes of a text depends on no other one, but for rounding.
    """

    def __init__(self, checkpoint: OpenCheckpoint, *, rows: int = 32, tokens: int = 65_536) -> None:
        """Make a decoder without texts.

        Args:
            checkpoint: the model.
            rows: most texts at a time.
            tokens: most tokens that the cache holds, with padding; no fewer than the model reads of one text.
        """
        self._checkpoint, self._model = checkpoint, checkpoint.model
        self._most_rows, self._most_tokens = rows, max(tokens, checkpoint.window)
        self._waiting: deque[_Row] = deque()
        self._active: list[_Row] = []
        self._cache: Cache | None = None
        self._next_handle = 0

    @property
    def waiting(self) -> int:
        """Return the number of texts that have not begun."""
        return len(self._waiting)

    @property
    def active(self) -> int:
        """Return the number of texts that are being continued."""
        return len(self._active)

    def add(self, prompt: Prompt) -> int:
        """Take a text; it begins in one of the next steps.

        Returns:
            Its handle.

        Raises:
            ConfigError: prompt and continuation are longer than the model is meant for.
        """
        tokens, count = list(prompt.tokens) or [self._checkpoint.end_of_text], prompt.sampling.max_tokens
        window = self._checkpoint.window
        if len(tokens) + count > window:
            raise ConfigError(
                f"{len(tokens)} tokens of prompt and {count} new ones exceed the model's {window} positions"
            )
        handle, self._next_handle = self._next_handle, self._next_handle + 1
        settled = Prompt(tokens, prompt.sampling, prompt.stops)
        stream = TextStream(self._checkpoint.tokenizer, prompt.stops)
        self._waiting.append(_Row(handle, settled, stream, draws(prompt.sampling.seed)))
        return handle

    def cancel(self, handle: int) -> None:
        """Drop a text; one that is finished or unknown is no mistake."""
        self._waiting = deque(row for row in self._waiting if row.handle != handle)
        self._keep([row.handle != handle for row in self._active])

    def step(self) -> list[Event]:
        """Make the next token of each text that has begun, and the first one of those that can begin now.

        Returns:
            An event for each; none when nothing is left to do.
        """
        with torch.inference_mode():
            events = self._advance() if self._active else []
            if joining := self._admit():
                events += self._begin(joining)
        return events

    def _advance(self) -> list[Event]:
        assert self._cache is not None
        last = torch.tensor([[row.made[-1]] for row in self._active], device=self._checkpoint.device)
        states = self._model.states(last, cache=self._cache)[:, -1]
        events = self._choose(states, self._active)
        self._keep([event.finished is None for event in events])
        return events

    def _admit(self) -> list[_Row]:
        """Take texts from the queue for which there is room, as long as their prompts are computed together."""
        joining: list[_Row] = []
        while self._waiting and len(self._active) + len(joining) < self._most_rows:
            row, others = self._waiting[0], [*self._active, *joining]
            widest = max([row.needed, *(other.needed for other in others)])
            if others and (
                (len(others) + 1) * widest > self._most_tokens
                or any(self._is_alone(other) for other in (row, others[0]))
            ):
                break
            longest = max(len(other.prompt.tokens) for other in (row, *joining))
            if joining and (len(joining) + 1) * longest > PREFILL_TOKENS:
                break
            joining.append(self._waiting.popleft())
        return joining

    def _is_alone(self, row: _Row) -> bool:
        """Say whether a text gets so long that keys are chosen by pages, which begin where the cache does."""
        sparse = self._model.config.sparse_attention
        return sparse is not None and row.needed >= sparse.hierarchical_from_tokens

    def _begin(self, joining: list[_Row]) -> list[Event]:
        lengths = [len(row.prompt.tokens) for row in joining]
        tokens, padding = padded([row.prompt.tokens for row in joining], self._checkpoint.device)
        cache = self._model.new_cache()
        states = self._model.states(tokens, cache=cache, padding=padding)
        last = states[torch.arange(len(joining)), torch.tensor(lengths, device=states.device) - 1]
        events = self._choose(last, joining)
        going_on = [number for number, event in enumerate(events) if event.finished is None]
        if going_on:
            cache = cache.select(going_on, [lengths[number] for number in going_on])
            self._cache = cache if self._cache is None else self._cache.join(cache)
            self._active += [joining[number] for number in going_on]
        return events

    def _choose(self, states: Tensor, rows: list[_Row]) -> list[Event]:
        """Choose the next token of rows, whose last states are `[rows, hidden]`."""
        settings = [row.prompt.sampling for row in rows]
        chosen = choose(self._model.predict(states), settings, [row.chances for row in rows])
        return [self._event(row, token) for row, token in zip(rows, chosen, strict=True)]

    def _event(self, row: _Row, token: int) -> Event:
        if token == self._checkpoint.end_of_text:
            return Event(row.handle, None, row.stream.finish(), "end_of_text")
        row.made.append(token)
        text = row.stream.push(token)
        if not row.stream.stopped and len(row.made) < row.prompt.sampling.max_tokens:
            return Event(row.handle, token, text)
        text += row.stream.finish()
        return Event(row.handle, token, text, "stop" if row.stream.stopped else "length")

    def _keep(self, kept: list[bool]) -> None:
        """Let texts leave."""
        if all(kept):
            return
        staying = [number for number, stays in enumerate(kept) if stays]
        self._active = [self._active[number] for number in staying]
        assert self._cache is not None
        self._cache = self._cache.select(staying) if staying else None
