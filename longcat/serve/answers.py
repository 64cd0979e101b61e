"""Answers in the form of OpenAI's, whole and as events of a stream."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from longcat.inference.requests import Reason

DONE = b"data: [DONE]\n\n"
ALIVE = b": waiting\n\n"
"""A comment, which tells proxies that the stream is alive."""

Json = dict[str, Any]


def event(content: Json) -> bytes:
    """Return one event of a stream."""
    return b"data: " + json.dumps(content, ensure_ascii=False).encode() + b"\n\n"


def finish_reason(reason: Reason | None) -> str | None:
    """Return OpenAI's word for why a text ended: it makes no difference between a stop string and the end of a text."""
    return "length" if reason == "length" else "stop" if reason else None


@dataclass
class Text:
    """A text as far as it is made."""

    shown: str = ""
    finished: Reason | None = None


@dataclass
class Answer:
    """One answer, whose texts grow."""

    model: str
    chat: bool
    prompt_tokens: int
    prefixes: Sequence[str]
    """What each text begins with, before anything is made."""
    made_tokens: int = 0
    _id: str = field(default_factory=lambda: uuid.uuid4().hex)
    _created: int = field(default_factory=lambda: int(time.time()))

    @property
    def usage(self) -> Json:
        """Return the number of tokens."""
        total = self.prompt_tokens + self.made_tokens
        return {"prompt_tokens": self.prompt_tokens, "completion_tokens": self.made_tokens, "total_tokens": total}

    def whole(self, texts: Sequence[Text]) -> Json:
        """Return the answer that is no stream."""
        choices = [
            self._choice(index, finish_reason(text.finished))
            | (
                {"message": {"role": "assistant", "content": text.shown, "refusal": None}}
                if self.chat
                else {"text": self.prefixes[index] + text.shown}
            )
            for index, text in enumerate(texts)
        ]
        return self._head("chat.completion" if self.chat else "text_completion", choices) | {"usage": self.usage}

    def first(self, index: int) -> Json | None:
        """Return what a stream begins a text with; None if with nothing."""
        if self.chat:
            return self._delta(index, {"delta": {"role": "assistant", "content": ""}}, None)
        return self._delta(index, {"text": self.prefixes[index]}, None) if self.prefixes[index] else None

    def piece(self, index: int, text: str, finished: Reason | None) -> Json:
        """Return what a stream tells of a text's next piece."""
        content: Json = {"text": text}
        if self.chat:
            content = {"delta": {"content": text} if text else {}}
        return self._delta(index, content, finished)

    def last(self) -> Json:
        """Return the number of tokens as an event of a stream."""
        return self._head(self._kind, []) | {"usage": self.usage}

    @property
    def _kind(self) -> str:
        return "chat.completion.chunk" if self.chat else "text_completion"

    def _delta(self, index: int, content: Json, finished: Reason | None) -> Json:
        return self._head(self._kind, [self._choice(index, finish_reason(finished)) | content])

    def _choice(self, index: int, reason: str | None) -> Json:
        return {"index": index, "logprobs": None, "finish_reason": reason}

    def _head(self, kind: str, choices: list[Json]) -> Json:
        name = f"{'chatcmpl' if self.chat else 'cmpl'}-{self._id}"
        return {"id": name, "object": kind, "created": self._created, "model": self.model, "choices": choices}
