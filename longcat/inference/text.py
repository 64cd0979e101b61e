"""The text of tokens that come one after the other: whole characters only, up to a stop string."""

from __future__ import annotations

from collections.abc import Sequence

from tokenizers import Tokenizer

_UNKNOWN = "\ufffd"
_LONGEST = 16
"""Tokens after which bytes that still make no character are shown as what they are; a character has four bytes at most."""


class TextStream:
    """Turns tokens into text.

    What is shown is final: a character whose last bytes are still to come is held back, and so is what may be the beginning
    of a stop string.
    """

    def __init__(self, tokenizer: Tokenizer, stops: Sequence[str] = ()) -> None:
        self._tokenizer = tokenizer
        self._stops = [stop for stop in stops if stop]
        self._before: list[int] = []
        """Tokens of text that is decoded, for decoders that strip what comes first."""
        self._pending: list[int] = []
        """Tokens after them."""
        self._decoded = 0
        """Characters of the pending tokens' text that are decoded already."""
        self._held = ""
        """Decoded text that may be the beginning of a stop string."""
        self.text = ""
        """All that has been shown."""
        self.stopped = False
        """Whether a stop string has come; it is no part of the text."""

    def push(self, token: int) -> str:
        """Add a token; returns the text that can be shown now."""
        self._pending.append(token)
        text = self._pending_text()
        whole = not text.endswith(_UNKNOWN) or len(self._pending) >= _LONGEST
        found = (text if whole else text.rstrip(_UNKNOWN))[self._decoded :]
        self._decoded += len(found)
        if whole and text:
            self._before, self._pending, self._decoded = self._pending, [], 0
        return self._show(found, last=False)

    def finish(self) -> str:
        """End the text; returns what was held back."""
        if self.stopped:
            return ""
        found = self._pending_text()[self._decoded :]
        self._decoded += len(found)
        return self._show(found, last=True)

    def _pending_text(self) -> str:
        before: str = self._tokenizer.decode(self._before) if self._before else ""
        text: str = self._tokenizer.decode(self._before + self._pending)
        return text[len(before) :]

    def _show(self, found: str, *, last: bool) -> str:
        text = self._held + found
        places = [place for stop in self._stops if (place := text.find(stop)) >= 0]
        if places:
            self.stopped, held = True, len(text) - min(places)
        else:
            held = 0 if last else self._possible_stop(text)
        shown = text[: len(text) - held]
        self._held = text[len(text) - held :]
        self.text += shown
        return shown

    def _possible_stop(self, text: str) -> int:
        """Return how many of the last characters may be the beginning of a stop string."""
        longest = max(map(len, self._stops), default=1) - 1
        return next(
            (
                size
                for size in range(min(longest, len(text)), 0, -1)
                if any(stop.startswith(text[-size:]) for stop in self._stops)
            ),
            0,
        )
