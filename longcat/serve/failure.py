"""Answers to requests that cannot be served, in the form of OpenAI's errors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastapi.responses import JSONResponse

from longcat.redaction import redact


class ApiError(Exception):
    """What a client is told instead of an answer."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        field: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """Make the answer.

        Args:
            status: of HTTP.
            message: what was found, and what would be right; secrets are taken out.
            code: a word for programs.
            field: of the request that is wrong.
            headers: of the answer.
        """
        super().__init__(message)
        self.status, self.message = status, redact(message)
        self.code, self.field, self.headers = code, field, headers

    @property
    def body(self) -> dict[str, Any]:
        """Return the JSON of the answer."""
        kind = "server_error" if self.status >= 500 else "invalid_request_error"
        if self.status == 429:
            kind = "rate_limit_error"
        return {"error": {"message": self.message, "type": kind, "param": self.field, "code": self.code}}

    def response(self) -> JSONResponse:
        """Return the answer."""
        return JSONResponse(self.body, self.status, self.headers)


def too_busy(texts: int) -> ApiError:
    """Return the answer where the queue is full."""
    return ApiError(
        429, f"{texts} texts are being made or wait, try again later", code="queue_full", headers={"Retry-After": "1"}
    )


def stopping() -> ApiError:
    """Return the answer of a server that is about to end."""
    return ApiError(503, "the server is stopping", code="stopping", headers={"Retry-After": "5"})
