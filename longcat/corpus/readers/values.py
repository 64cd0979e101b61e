"""Text in values of JSON and Arrow: where it is nested, and what lists and conversations become."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from longcat.corpus.readers.encoding import decode
from longcat.corpus.readers.format import Labelled, Record, Unreadable

MISSING: Final = object()
"""What `find` returns where there is no such field; null is a value."""
_ROLES = (("role", "content"), ("from", "value"))
"""How the messages of a conversation name who speaks and what is said (OpenAI's names, ShareGPT's names)."""


def find(value: Any, field: str) -> Any:
    """Look a field up: its name, or names joined by dots; in a list, the field of every item.

    A key that has dots itself is preferred to a path.
    """
    if isinstance(value, list):
        found = [find(item, field) for item in value]
        return MISSING if any(item is MISSING for item in found) else found
    if not isinstance(value, Mapping):
        return MISSING
    if field in value:
        return value[field]
    head, rest = field, ""
    while "." in head:
        head, _, last = head.rpartition(".")
        rest = f"{last}.{rest}" if rest else last
        if head in value and (found := find(value[head], rest)) is not MISSING:
            return found
    return MISSING


def as_text(value: object, place: str, encodings: Sequence[str]) -> Record:
    """Take a value for text: a string, bytes in one of the encodings, a list of lines, or a conversation.

    A list of strings becomes one text, an item a line. A list of messages becomes `ROLE: CONTENT`, with an empty line
    between messages. Lone surrogates are no text.
    """
    if isinstance(value, bytes):
        return decode(value, place, encodings)
    if isinstance(value, list):
        return _of_items(value, place, encodings)
    if not isinstance(value, str):
        kind = "null" if value is None else type(value).__name__
        return Unreadable(place, f"the text is {kind}, not a string")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        return Unreadable(place, f"not Unicode text: lone surrogate at character {error.start}")
    return value


def labelled(text: Record, row: Any) -> Record:
    """Add the `id` and the `url` of a row, if it has them, to the text taken from it."""
    if not isinstance(text, str) or not isinstance(row, Mapping) or not ("id" in row or "url" in row):
        return text
    return Labelled.of(text, row.get("id"), row.get("url"))


def _of_items(items: list[Any], place: str, encodings: Sequence[str]) -> Record:
    names = next((names for names in _ROLES if items and all(_is_message(item, names) for item in items)), None)
    texts: list[str] = []
    for number, item in enumerate(items, start=1):
        if names is None and isinstance(item, list):  # which `find` makes of a list of conversations; what is one text?
            return Unreadable(place, "the text is list in a list, not a list of strings")
        text = as_text(_said(item[names[1]]) if names else item, place, encodings)
        if not isinstance(text, str):
            reason = text.reason if isinstance(text, Unreadable) else "too long"
            return Unreadable(place, f"item {number} of the text's list: {reason}")
        texts.append(f"{item[names[0]]}: {text}" if names else text)
    return ("\n\n" if names else "\n").join(texts)


def _is_message(item: Any, names: tuple[str, str]) -> bool:
    return isinstance(item, Mapping) and isinstance(item.get(names[0]), str) and names[1] in item


def _said(content: Any) -> Any:
    """Take the text from a message's content, which may be a list of typed parts."""
    if isinstance(content, list) and content and all(isinstance(part, Mapping) for part in content):
        return [part.get("text") for part in content]
    return content
