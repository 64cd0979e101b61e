"""What clients may ask, in the form of OpenAI's completions and chat completions; and of dispatch, which is our own.

A field that is not here is refused, as one that is ignored in silence would answer another question. So are values that
ask for what is not done.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

MOST_CHOICES = 128
MOST_STOPS = 16


def whole(text: str) -> str:
    """Return a text that has only whole characters.

    Raises:
        ValueError: JSON can name half of one, which no tokenizer takes.
    """
    if any("\ud800" <= letter <= "\udfff" for letter in text):
        raise ValueError("holds half a character, which is no Unicode")
    return text


Text = Annotated[str, AfterValidator(whole)]
StopString = Annotated[str, Field(min_length=1, max_length=1000)]
Token = Annotated[int, Field(ge=0, strict=True)]


class _Form(BaseModel):
    model_config = ConfigDict(extra="forbid")


class StreamOptions(_Form):
    """What a stream tells besides the text."""

    include_usage: bool = False
    include_obfuscation: bool = False
    """Padding against observers of lengths: none is added."""


class _Request(_Form):
    model: str | None = None
    """Name of the model; only the one that is served."""
    n: int = Field(default=1, ge=1, le=MOST_CHOICES)
    """Texts for each prompt; the seed of each is one more than that of the text before."""
    temperature: float | None = Field(default=1.0, ge=0, le=2)
    top_p: float | None = Field(default=1.0, ge=0, le=1)
    top_k: int | None = Field(default=None, ge=1)
    """Not in OpenAI's form, but in that of other servers."""
    seed: int | None = Field(default=None, ge=-(2**63), lt=2**63)
    """With one, the same request has the same answer, but for rounding."""
    stop: StopString | Annotated[list[StopString], Field(max_length=MOST_STOPS)] | None = None
    stream: bool | None = False
    stream_options: StreamOptions | None = None

    # accepted because they change no text
    user: str | None = None
    metadata: dict[str, Any] | None = None
    store: bool | None = None
    service_tier: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None

    # accepted with the values that ask for nothing
    frequency_penalty: Literal[0] | None = None
    presence_penalty: Literal[0] | None = None
    logit_bias: Annotated[dict[str, float], Field(max_length=0)] | None = None

    @property
    def stops(self) -> tuple[str, ...]:
        """Return the strings that end a text."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())


class CompletionRequest(_Request):
    """Texts to continue."""

    prompt: Text | list[Token] | list[Text] | list[list[Token]]
    """One text or several, in words or in tokens."""
    max_tokens: int | None = Field(default=None, ge=1)
    echo: bool | None = False
    """Begin the text with the prompt."""
    best_of: Literal[1] | None = None
    suffix: Literal[""] | None = None
    logprobs: None = None

    @property
    def prompts(self) -> list[str] | list[list[int]]:
        """Return the prompts."""
        if isinstance(self.prompt, str):
            return [self.prompt]
        if self.prompt and isinstance(self.prompt[0], int):
            return [self.prompt]
        return self.prompt  # type: ignore[return-value]


class TextPart(_Form):
    """A part of a message."""

    type: Literal["text"]
    text: Text


class Message(_Form):
    """One message of a conversation."""

    role: Text
    content: Text | list[TextPart]
    name: Text | None = None

    @property
    def plain(self) -> dict[str, str]:
        """Return it as chat templates read it."""
        text = self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)
        return {"role": self.role, "content": text} | ({} if self.name is None else {"name": self.name})


class DispatchQuery(_Form):
    """What a dispatch is asked besides its orders, in the address."""

    language: Literal["zh", "en"] = "zh"
    """In which the model is asked."""


class TextFormat(_Form):
    """The one form of answers."""

    type: Literal["text"]


class ChatRequest(_Request):
    """A conversation to answer."""

    messages: list[Message] = Field(min_length=1)
    max_tokens: int | None = Field(default=None, ge=1)
    max_completion_tokens: int | None = Field(default=None, ge=1)
    """The newer name of `max_tokens`."""
    response_format: TextFormat | None = None
    tools: Annotated[list[Any], Field(max_length=0)] | None = None
    tool_choice: Literal["none"] | None = None
    logprobs: Literal[False] | None = None
    top_logprobs: Literal[0] | None = None
