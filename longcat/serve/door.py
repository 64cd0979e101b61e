"""What every request passes before it is understood: the key, and the size of its body."""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import MutableMapping
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from longcat.serve.failure import ApiError
from longcat.serve.metrics import Metrics

BODY_S = 30.0
"""Seconds in which a body has to be here."""
_THROWN_AWAY = 16
"""Bodies' sizes that are read on of one that is too large: many clients do not listen before they have said all."""
OPEN_PATHS = ("/health",)
"""Paths that need no key."""


class Door:
    """Reads bodies as a whole, within limits, and lets in who has the key."""

    def __init__(self, app: ASGIApp, *, metrics: Metrics, paths: set[str], key: str | None, most_bytes: int) -> None:
        """Stand before an application.

        Args:
            app: the application.
            metrics: count the answers.
            paths: that answers are counted by; others are counted together.
            key: that has to be shown; None lets in everybody.
            most_bytes: of a body.
        """
        self._app, self._metrics, self._paths, self._most_bytes = app, metrics, paths, most_bytes
        self._key = None if key is None else key.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path = scope["path"] if scope["path"] in self._paths else "other"

        async def counted(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                self._metrics.requests.labels(path, str(message["status"])).inc()
            await send(message)

        try:
            self._check_key(scope)
            body = await self._read(scope, receive)
        except ApiError as error:
            await error.response()(scope, receive, counted)
            return
        if body is None:
            return
        waiting: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

        async def again() -> Message:
            return waiting.pop() if waiting else await receive()

        await self._app(scope, again, counted)

    def _check_key(self, scope: Scope) -> None:
        if self._key is None or scope["path"] in OPEN_PATHS:
            return
        shown = _header(scope, b"authorization")
        scheme, _, key = shown.partition(b" ")
        if scheme.lower() != b"bearer" or not hmac.compare_digest(key.strip(), self._key):
            raise ApiError(
                401,
                "this server wants a key: Authorization: Bearer KEY",
                code="invalid_api_key",
                headers={"WWW-Authenticate": "Bearer"},
            )

    async def _read(self, scope: Scope, receive: Receive) -> bytes | None:
        """Return the body; None if the client has gone."""
        declared = _header(scope, b"content-length")
        too_large = declared.isdigit() and len(declared) < 20 and int(declared) > self._most_bytes
        body, size = bytearray(), 0
        if not (too_large and _header(scope, b"expect")):
            try:
                async with asyncio.timeout(BODY_S):
                    more = True
                    while more and size <= _THROWN_AWAY * self._most_bytes:
                        message = await receive()
                        if message["type"] == "http.disconnect":
                            return None
                        part, more = message.get("body", b""), message.get("more_body", False)
                        size += len(part)
                        too_large = too_large or size > self._most_bytes
                        if not too_large:
                            body += part
            except TimeoutError:
                raise ApiError(408, f"the body was not here within {BODY_S:g} s", code="timeout") from None
        if too_large:
            raise ApiError(413, f"a body of more than {self._most_bytes:,} bytes is not read", code="body_too_large")
        return bytes(body)


def _header(scope: Scope, name: bytes) -> bytes:
    found: bytes = next((value for key, value in scope["headers"] if key == name), b"")
    return found
