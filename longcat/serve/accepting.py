"""What is accepted in a field, said in one sentence however many ways there are to miss it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from pydantic import BeforeValidator, ValidationError, ValidatorFunctionWrapHandler, WrapValidator
from pydantic_core import PydanticCustomError

from longcat.printable import printable

_MOST_SHOWN = 80
"""Characters of a value that a sentence shows."""
_MOST_ITEMS = 8


def accepts(what: str) -> WrapValidator:
    """Return a validator that refuses whatever the annotation before it does, by saying what is accepted and what was found."""

    def check(value: Any, validate: ValidatorFunctionWrapHandler) -> Any:
        try:
            return validate(value)
        except ValidationError:
            raise _refusal(what, value) from None

    return WrapValidator(check)


def accepts_forms(what: str) -> WrapValidator:
    """Return a validator for an object or a list of objects, whose fields have sentences of their own."""

    def check(value: Any, validate: ValidatorFunctionWrapHandler) -> Any:
        try:
            return validate(value)
        except ValidationError as error:
            if all(one["loc"] for one in error.errors(include_url=False, include_context=False, include_input=False)):
                raise
            raise _refusal(what, value) from None

    return WrapValidator(check)


def null_is(default: Any) -> BeforeValidator:
    """Return a validator that takes null for the default, as OpenAI does."""
    return BeforeValidator(lambda value: default if value is None else value)


def sentence(place: Sequence[int | str], kind: str, message: str) -> str:
    """Return what is said of a mistake.

    Args:
        place: names of fields and numbers of items that lead to it.
        kind: type of pydantic's error.
        message: its text, which is ours but for fields that are missing or unknown.
    """
    name = ""
    for part in place:
        name += f"[{part}]" if isinstance(part, int) else f".{shown_name(part)}" if name else shown_name(part)
    return f"{name} " + {"missing": "is missing", "extra_forbidden": "is not known here"}.get(kind, message)


def shown_name(name: object) -> str:
    """Return the name of a field as it is shown; an unknown one may be any text."""
    text = printable(" ".join(str(name).split()))
    return text if len(text) <= _MOST_SHOWN else f"{text[:_MOST_SHOWN]}…"


def whole(text: str) -> str:
    """Return a text that has only whole characters.

    Raises:
        ValueError: JSON can name half of one, which no tokenizer takes.
    """
    if _holds_half(text):
        raise ValueError("holds half a character, which is no Unicode")
    return text


def _holds_half(value: Any) -> bool:
    if isinstance(value, list):
        return any(isinstance(item, str | dict) and _holds_half(item) for item in value)
    if isinstance(value, dict):
        return any(isinstance(item, str) and _holds_half(item) for pair in value.items() for item in pair)
    return isinstance(value, str) and any("\ud800" <= letter <= "\udfff" for letter in value)


def _refusal(what: str, value: Any) -> PydanticCustomError:
    if _holds_half(value):
        return PydanticCustomError("refused", "holds half a character, which is no Unicode")
    return PydanticCustomError("refused", "has to be {what}, not {found}", {"what": what, "found": _shown(value)})


def _shown(value: Any) -> str:
    inner = list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else []
    if len(inner) > _MOST_ITEMS or any(isinstance(item, dict | list) for item in inner):
        return f"{'an object' if isinstance(value, dict) else 'a list'} of {len(inner):,}"
    text = json.dumps(value)
    return text if len(text) <= _MOST_SHOWN else f"{text[:_MOST_SHOWN]}…"
