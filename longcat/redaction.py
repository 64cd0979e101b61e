"""Secrets in text: passwords in addresses, tokens, and values of environment variables that hold either.

Whatever is written for people or kept with results goes through `redact`: errors of longcat when they are made, log
records, and what is sent to MLflow.
"""

from __future__ import annotations

import logging
import os
import re
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from urllib.parse import quote, unquote

HIDDEN = "***"

_SECRET_VARIABLE = re.compile(
    r"(TOKEN|PASSWORD|PASSWD|PASSPHRASE|SECRET|API_?KEY|(?:ACCESS|PRIVATE|SECRET)_?KEY|AUTH_STRING|AUTHORIZATION)S?$",
    re.I,
)
"""Names of environment variables whose values are secrets."""
_SHORTEST = 6
"""Characters of the shortest value that is hidden wherever it stands; shorter ones are parts of words."""

_SECRET_NAME = (
    r"(?:[\w-]*(?:password|passwd|passphrase|secret|api[_-]?key|access[_-]?key|private[_-]?key|credentials?|auth[_-]?string)"
    r"|pwd|(?:[\w-]+[_-])?(?:access|auth|api|hf|hub|bearer|refresh|session|tracking|private|identity)[_-]?token|(?-i:[A-Z_]+_TOKEN))"
)
_VALUE = r"(?:'[^'\n]*'|\"[^\"\n]*\"|(?!\*\*\*)[^\s'\",;&<>()\[\]{}]+)"

_ADDRESS = re.compile(
    r"(\b[a-z][a-z0-9+.-]*://)((?:[^\s/'\"<>?#]+|[^\s/:@'\"<>]+:(?!\d+/)[^\s@'\"<>]*)@)(?=[\w\[.%-])", re.I
)
"""The second form is that of a password with a slash in it, which is no port and path."""
_SHAPES = re.compile(
    r"\b(?:hf_[A-Za-z0-9]{20,}"
    r"|(?:gh[pousr]_|github_pat_|glpat-|pnu_|pnb_|npm_|pypi-|dapi|xox[abeprs]-)[A-Za-z0-9_-]{20,}"
    r"|sk-[A-Za-z0-9_-]{24,}"
    r"|(?:AKIA|ASIA)[A-Z0-9]{16}"
    r"|eyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]*)"
)
_NAMED = (
    re.compile(r"(\b(?:proxy-)?authorization['\"]?\s*[:=]\s*['\"]?(?:(?:bearer|basic|token)\s+)?)([^\s'\",;]+)", re.I),
    re.compile(r"(\b(?:bearer|basic)\s+)([A-Za-z0-9+/_.~-]{12,}=*)", re.I),
    re.compile(r"([?&](?:[\w-]*(?:token|key|secret|password|signature|credential)|sig)=)([^\s&#'\"<>]+)", re.I),
    re.compile(rf"(\b{_SECRET_NAME}\s*=\s*)({_VALUE})", re.I),
    re.compile(rf"(['\"]{_SECRET_NAME}['\"]\s*:\s*)({_VALUE})", re.I),
    re.compile(r"(--[\w-]*(?:password|token|secret|api-key)(?:\s+|=))([^\s'\"-][^\s'\"]*)", re.I),
)


def redact(text: str) -> str:
    """Return a text with `***` in place of each secret that is recognised.

    Recognised are users and passwords in addresses, secrets in their queries, headers and assignments that say that
    they hold one, tokens of known shapes, and the values of environment variables that are named like a secret.
    """
    for secret in _secrets_of_environment():
        if secret in text:
            text = re.sub(rf"(?<!\w){re.escape(secret)}(?!\w)", HIDDEN, text)
    if "@" in text:
        text = _ADDRESS.sub(rf"\1{HIDDEN}@", text)
    text = _SHAPES.sub(HIDDEN, text)
    for pattern in _NAMED:
        text = pattern.sub(_keep_name, text)
    return text


def redact_tree(value: Any) -> Any:
    """Return JSON-like values with every text redacted; keys stay."""
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, Mapping):
        return {key: redact_tree(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [redact_tree(item) for item in value]
    return value


def secret_places(tree: Any) -> list[str]:
    """Return where in JSON-like values a secret stands, as dotted names."""
    found: list[str] = []
    seen: set[int] = set()  # YAML's references can make a small file a tree without end

    def walk(value: Any, name: str) -> None:
        if isinstance(value, str):
            leaf = name.rsplit(".", 1)[-1]
            if redact(value) != value or (value and redact(f"'{leaf}': {value!r}") != f"'{leaf}': {value!r}"):
                found.append(name)
        elif isinstance(value, Mapping | list | tuple) and id(value) not in seen:
            seen.add(id(value))
            items = value.items() if isinstance(value, Mapping) else enumerate(value)
            for key, item in items:
                walk(item, f"{name}.{key}" if name else str(key))

    walk(tree, "")
    return found


def redact_error(error: BaseException) -> None:
    """Take secrets out of an exception and of those that it was caused by."""
    seen: set[int] = set()
    waiting: list[BaseException | None] = [error]
    while waiting:
        one = waiting.pop()
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        waiting += [one.__cause__, one.__context__]
        text = str(one)
        if redact(text) == text:
            continue
        for name in ("filename", "filename2"):  # of an OSError; None is not the same as never set
            if isinstance(getattr(one, name, None), str):
                setattr(one, name, redact(getattr(one, name)))
        one.args = tuple(redact(argument) if isinstance(argument, str) else argument for argument in one.args)
        if redact(str(one)) != str(one):
            one.args = (redact(text),)


@contextmanager
def redacted_records() -> Iterator[None]:
    """Redact all log records that are made while the context is open, whichever handler gets them."""
    make = logging.getLogRecordFactory()

    def redacted(*arguments: Any, **named: Any) -> logging.LogRecord:
        record = make(*arguments, **named)
        try:
            text = record.getMessage()
        except Exception:  # logging tells of a format that does not fit its arguments
            return record
        if (clean := redact(text)) != text:
            record.msg, record.args = clean, None
        if record.exc_info and record.exc_info[0] is not None:
            record.exc_text = redact("".join(traceback.format_exception(*record.exc_info))).rstrip("\n")
        return record

    logging.setLogRecordFactory(redacted)
    try:
        yield
    finally:
        logging.setLogRecordFactory(make)


def _secrets_of_environment() -> list[str]:
    """Return the values that environment variables say are secret, and passwords in their addresses; longest first."""
    secrets = set()
    for name, value in os.environ.items():
        if _SECRET_VARIABLE.search(name):
            secrets.add(value)
        elif "://" in value and "@" in value:
            for match in _ADDRESS.finditer(value):
                user, _, password = match[2].removesuffix("@").partition(":")
                secrets.add(password or user)
    secrets |= {form for secret in secrets for form in (unquote(secret), quote(secret, safe=""))}
    return sorted((secret for secret in secrets if len(secret) >= _SHORTEST), key=len, reverse=True)


def _keep_name(match: re.Match[str]) -> str:
    quoted = match[2][:1] if match[2][:1] in "'\"" else ""
    return f"{match[1]}{quoted}{HIDDEN}{quoted}"
