"""From what a client asks to what the model is asked."""

from __future__ import annotations

import secrets
from collections.abc import Sequence

from longcat.errors import ConfigError
from longcat.inference.chat import render, with_special_tokens
from longcat.inference.opening import OpenCheckpoint
from longcat.inference.requests import Prompt
from longcat.inference.sampling import Sampling
from longcat.printable import counted
from longcat.serve.failure import ApiError
from longcat.serve.protocol import ChatRequest, CompletionRequest

COMPLETION_TOKENS = 16
"""New tokens of a completion that names no number, as of OpenAI."""


class Asker:
    """Makes prompts of requests. Its methods take as long as it takes to cut a text into tokens."""

    def __init__(self, checkpoint: OpenCheckpoint, *, name: str, window: int, chat_tokens: int) -> None:
        """Make it for a model.

        Args:
            checkpoint: the model.
            name: by which clients know it.
            window: most tokens of a prompt and its continuation.
            chat_tokens: most new tokens of an answer whose request names no number.
        """
        self._checkpoint, self.name, self._window, self._chat_tokens = checkpoint, name, window, chat_tokens
        self._chat_tokenizer = with_special_tokens(checkpoint.tokenizer)

    def completion(self, asked: CompletionRequest) -> list[Prompt]:
        """Return the `n` texts of each prompt, one prompt after the other.

        Raises:
            ApiError: another model, no prompt, one that is too long, or a token that the model does not have.
        """
        self._check_model(asked.model)
        if not asked.prompts:
            raise ApiError(400, "prompt is an empty list", field="prompt")
        rows = [self._tokens(prompt) for prompt in asked.prompts]
        return [one for row in rows for one in self._prompts(row, asked, asked.max_tokens, COMPLETION_TOKENS, "prompt")]

    def chat(self, asked: ChatRequest) -> list[Prompt]:
        """Return the `n` answers to a conversation.

        Raises:
            ApiError: another model, one without a chat template, messages that it refuses or that are too long.
        """
        self._check_model(asked.model)
        if self._checkpoint.chat_template is None:
            raise ApiError(
                400,
                f"{self.name} has no chat template, as it is no chat model: ask /v1/completions",
                code="no_chat_template",
                field="messages",
            )
        try:
            text = render(self._checkpoint, [message.plain for message in asked.messages])
        except ConfigError as error:
            reason = str(error).rpartition("refuses the messages: ")[2]
            raise ApiError(400, f"the chat template refuses the messages: {reason}", field="messages") from None
        row = self._chat_tokenizer.encode(text, add_special_tokens=False).ids
        wanted = asked.max_completion_tokens or asked.max_tokens
        return self._prompts(row, asked, wanted, self._chat_tokens, "messages")

    def text(self, prompt: str | Sequence[int]) -> str:
        """Return a prompt in words."""
        if isinstance(prompt, str):
            return prompt
        text: str = self._checkpoint.tokenizer.decode(list(prompt), skip_special_tokens=False)
        return text

    def _check_model(self, model: str | None) -> None:
        if model not in (None, self.name):
            raise ApiError(
                404, f"there is no model {model!r}, only {self.name!r}", code="model_not_found", field="model"
            )

    def _tokens(self, prompt: str | Sequence[int]) -> list[int]:
        if isinstance(prompt, str):
            return self._checkpoint.encode(prompt)
        vocabulary = self._checkpoint.model.config.vocabulary
        if (largest := max(prompt, default=0)) >= vocabulary:
            raise ApiError(400, f"the model has no token {largest}, only {vocabulary}", field="prompt")
        return list(prompt)

    def _prompts(
        self, row: list[int], asked: CompletionRequest | ChatRequest, wanted: int | None, default: int, field: str
    ) -> list[Prompt]:
        length = max(1, len(row))  # of nothing, the token that ends the text before
        count = min(default, self._window - length) if wanted is None else wanted
        if (count < 1 and wanted != 0) or length + count > self._window:
            new = "and a new one" if wanted in (None, 1) else f"and {wanted} new ones"
            raise ApiError(
                400,
                f"{counted(length, 'token')} of prompt {new} are more than the {self._window} positions",
                code="context_length_exceeded",
                field=field,
            )
        first = secrets.randbits(62) if asked.seed is None else asked.seed
        most = max(1, count)  # 0 is not asked of the model
        return [
            Prompt(row, Sampling(most, asked.temperature, asked.top_k, asked.top_p, first + choice), asked.stops)
            for choice in range(asked.n)
        ]
