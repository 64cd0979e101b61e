"""Continuous batching: texts are continued side by side, and each joins and leaves between two tokens of the others."""

from __future__ import annotations

import logging
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

_log = logging.getLogger(__name__)

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
    error: str | None = None
    """Why the model cannot go on with the text, which ends here."""


@dataclass
class _Row:
    handle: int
    prompt: Prompt
    stream: TextStream
    chances: random.Random
    made: list[int] = field(default_factory=list)
    failed: bool = False
    """Whether a step over this and other texts failed; it then goes on alone, so that the one at fault is found."""

    @property
    def tokens(self) -> list[int]:
        """Return all tokens so far."""
        return [*self.prompt.tokens, *self.made]

    @property
    def needed(self) -> int:
        """Return the most columns that it may come to take."""
        return len(self.prompt.tokens) + self.prompt.sampling.max_tokens


class Decoder:
    """Continues any number of texts, some of them at a time, in the order in which they came.

    What becomes of a text depends on no other one, but for rounding.
    """

    def __init__(
        self,
        checkpoint: OpenCheckpoint,
        *,
        rows: int = 32,
        tokens: int = 65_536,
        together: int = 1,
        survives: bool = False,
    ) -> None:
        """Make a decoder without texts.

        Args:
            checkpoint: the model.
            rows: most texts at a time.
            tokens: most tokens that the cache holds, with padding; no fewer than the model reads of one text.
            together: texts that wait until so many can begin, while others are continued: a pass over prompts costs as much
                as a step over all rows, so that more than 1 gives more tokens in all, and a later beginning to each.
            survives: an error in a step, as of memory that is full, is not raised. Its texts go on one at a time from where
                they are, and one that fails again ends with an event that has the error.
        """
        self._survives, self._together = survives, together
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
        rows, cache = self._active, self._cache
        assert cache is not None
        try:
            last = torch.tensor([[row.made[-1]] for row in rows], device=self._checkpoint.device)
            events = self._choose(self._model.states(last, cache=cache)[:, -1], rows)
        except Exception as error:
            self._active, self._cache = [], None
            return self._set_back(rows, error)
        self._keep([event.finished is None for event in events])
        return events

    def _set_back(self, rows: list[_Row], error: Exception) -> list[Event]:
        """Let texts begin again where they are, each alone; one that is alone already ends.

        Raises:
            Exception: the error, where the decoder is not to survive any.
        """
        if not self._survives:
            raise error
        _log.warning("a step over %d texts failed", len(rows), exc_info=error)
        if len(rows) > 1:
            self._begin_again(rows)
            return []
        reason = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
        return [Event(rows[0].handle, None, rows[0].stream.finish(), error=reason)]

    def _begin_again(self, rows: list[_Row]) -> None:
        for row in rows:
            row.failed = True
            row.chances = draws(row.prompt.sampling.seed)
            for _ in row.made if row.prompt.sampling.temperature > 0 else ():
                row.chances.random()
        self._waiting.extendleft(reversed(rows))

    def _admit(self) -> list[_Row]:
        """Take texts from the queue for which there is room, as long as their prompts are computed together."""
        joining: list[_Row] = []
        if self._active and self._most_rows - len(self._active) < min(self._together, len(self._waiting)):
            return joining
        while self._waiting and len(self._active) + len(joining) < self._most_rows:
            row, others = self._waiting[0], [*self._active, *joining]
            widest = max([row.needed, *(other.needed for other in others)])
            if others and (
                (len(others) + 1) * widest > self._most_tokens
                or any(self._is_alone(other) for other in (row, others[0]))
            ):
                break
            longest = max(len(other.tokens) for other in (row, *joining))
            if joining and (len(joining) + 1) * longest > PREFILL_TOKENS:
                break
            joining.append(self._waiting.popleft())
        return joining

    def _is_alone(self, row: _Row) -> bool:
        """Say whether a text shares no step: keys of long ones are chosen by pages, which begin where the cache does."""
        sparse = self._model.config.sparse_attention
        return row.failed or (sparse is not None and row.needed >= sparse.hierarchical_from_tokens)

    def _begin(self, joining: list[_Row]) -> list[Event]:
        lengths = [len(row.tokens) for row in joining]
        try:
            tokens, padding = padded([row.tokens for row in joining], self._checkpoint.device)
            cache = self._model.new_cache()
            states = self._model.states(tokens, cache=cache, padding=padding)
            last = states[torch.arange(len(joining)), torch.tensor(lengths, device=states.device) - 1]
            events = self._choose(last, joining)
        except Exception as error:
            return self._set_back(joining, error)
        going_on = [number for number, event in enumerate(events) if event.finished is None]
        if going_on:
            rows = [joining[number] for number in going_on]
            try:
                cache = cache.select(going_on, [lengths[number] for number in going_on])
                self._cache = cache if self._cache is None else self._cache.join(cache)
            except Exception as error:
                return events + self._set_back(rows, error)
            self._active = [*self._active, *rows]
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
        cache, rows = self._cache, [self._active[number] for number in staying]
        assert cache is not None
        self._active, self._cache = rows, None
        if not staying:
            return
        try:
            self._cache = cache.select(staying)
        except Exception:
            if not self._survives:
                raise
            self._active = []
            self._begin_again(rows)
