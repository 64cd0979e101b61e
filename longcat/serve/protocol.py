"""What clients may ask, in the form of OpenAI's completions and chat completions; and of dispatch, which is our own.

A field that is not here is refused, as one that is ignored in silence would answer another question. So are values that
ask for what is not done.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from longcat.serve.accepting import accepts, accepts_forms, null_is, whole

MOST_CHOICES = 128
MOST_STOPS = 16
_LONGEST_STOP = 1000

Text = Annotated[str, AfterValidator(whole)]
Name = Annotated[Text, accepts("a text")]
StopString = Annotated[str, Field(min_length=1, max_length=_LONGEST_STOP), AfterValidator(whole)]
Token = Annotated[int, Field(ge=0, strict=True)]
Count = Annotated[Annotated[int, Field(ge=1)] | None, accepts("a whole number of at least 1")]
Flag = Annotated[bool, accepts("true or false"), null_is(False)]
Word = Annotated[str | None, accepts("a text")]
Zero = Annotated[Annotated[float, Field(ge=0, le=0)] | None, accepts("0, as there are no penalties")]
NoList = Annotated[Annotated[list[Any], Field(max_length=0)] | None, accepts("an empty list, as no tools are called")]
NotDone = Annotated[None, accepts("null, as it is not done here")]


class _Form(BaseModel):
    model_config = ConfigDict(extra="forbid")


class StreamOptions(_Form):
    """What a stream tells besides the text."""

    include_usage: Flag = False
    include_obfuscation: Flag = False
    """Padding against observers of lengths: none is added."""


class _Request(_Form):
    model: Word = None
    """Name of the model; only the one that is served."""
    n: Annotated[int, Field(ge=1, le=MOST_CHOICES), accepts(f"a whole number from 1 to {MOST_CHOICES}"), null_is(1)] = 1
    """Texts for each prompt; the seed of each is one more than that of the text before."""
    temperature: Annotated[float, Field(ge=0, le=2), accepts("a number from 0 to 2"), null_is(1.0)] = 1.0
    top_p: Annotated[float, Field(ge=0, le=1), accepts("a number from 0 to 1"), null_is(1.0)] = 1.0
    top_k: Count = None
    """Not in OpenAI's form, but in that of other servers."""
    seed: Annotated[
        Annotated[int, Field(ge=-(2**63), lt=2**63)] | None, accepts("a whole number from -2^63 to 2^63 - 1")
    ] = None
    """With one, the same request has the same answer, but for rounding."""
    stop: Annotated[
        StopString | Annotated[list[StopString], Field(max_length=MOST_STOPS)] | None,
        accepts(f"a text of 1 to {_LONGEST_STOP:,} characters, or a list of at most {MOST_STOPS} such texts"),
    ] = None
    stream: Flag = False
    stream_options: Annotated[StreamOptions | None, accepts_forms("an object")] = None

    # accepted because they change no text
    user: Word = None
    metadata: Annotated[dict[str, Any] | None, accepts("an object")] = None
    store: Flag = False
    service_tier: Word = None
    safety_identifier: Word = None
    prompt_cache_key: Word = None
    prompt_cache_retention: Word = None

    # accepted with the values that ask for nothing
    frequency_penalty: Zero = None
    presence_penalty: Zero = None
    logit_bias: Annotated[
        Annotated[dict[str, Any], Field(max_length=0)] | None, accepts("an empty object, as no token is favoured")
    ] = None

    @property
    def stops(self) -> tuple[str, ...]:
        """Return the strings that end a text."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())


class CompletionRequest(_Request):
    """Texts to continue."""

    prompt: Annotated[
        Text | list[Token] | list[Text] | list[list[Token]],
        accepts("a text, a list of texts, a list of tokens (whole numbers of at least 0) or a list of such lists"),
    ]
    """One text or several, in words or in tokens."""
    max_tokens: Annotated[Annotated[int, Field(ge=0)] | None, accepts("a whole number of at least 0")] = None
    """0 makes no text, which is of use with `echo` alone."""
    echo: Flag = False
    """Begin the text with the prompt."""
    best_of: Annotated[Literal[1] | None, accepts("1, as all texts that are made are shown")] = None
    suffix: Annotated[Literal[""] | None, accepts("an empty text, as texts are continued at their end alone")] = None
    logprobs: NotDone = None

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

    role: Name
    content: Annotated[
        Text | list[TextPart], accepts('a text or a list of parts {"type": "text", "text": "..."}, the only ones read')
    ]
    name: Annotated[Text | None, accepts("a text")] = None

    # accepted with the values that say nothing, as answers have them
    refusal: NotDone = None
    audio: NotDone = None
    function_call: NotDone = None
    tool_calls: NoList = None
    annotations: NoList = None

    @property
    def plain(self) -> dict[str, str]:
        """Return it as chat templates read it."""
        text = self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)
        return {"role": self.role, "content": text} | ({} if self.name is None else {"name": self.name})


class DispatchQuery(_Form):
    """What a dispatch is asked besides its orders, in the address."""

    language: Annotated[Literal["zh", "en"], accepts("zh or en")] = "zh"
    """In which the model is asked."""


class TextFormat(_Form):
    """The one form of answers."""

    type: Literal["text"]


class ChatRequest(_Request):
    """A conversation to answer."""

    messages: Annotated[
        list[Annotated[Message, accepts_forms("an object with role and content")]],
        Field(min_length=1),
        accepts_forms("a list of at least one message"),
    ]
    max_tokens: Count = None
    max_completion_tokens: Count = None
    """The newer name of `max_tokens`."""

    # accepted with the values that ask for nothing
    response_format: Annotated[TextFormat | None, accepts('{"type": "text"}, the only form of answers')] = None
    modalities: Annotated[list[Literal["text"]] | None, accepts('["text"], as answers are nothing else')] = None
    tools: NoList = None
    tool_choice: Annotated[Literal["none", "auto"] | None, accepts('"none" or "auto", as there are no tools')] = None
    parallel_tool_calls: Annotated[bool | None, accepts("true or false")] = None
    functions: NoList = None
    function_call: Annotated[Literal["none", "auto"] | None, accepts('"none" or "auto", as there are no functions')] = (
        None
    )
    logprobs: Annotated[Literal[False] | None, accepts("false, as no likelihoods are told")] = None
    top_logprobs: Annotated[Literal[0] | None, accepts("0, as no likelihoods are told")] = None
    audio: NotDone = None
    prediction: NotDone = None
    reasoning_effort: NotDone = None
    verbosity: NotDone = None
    web_search_options: NotDone = None
