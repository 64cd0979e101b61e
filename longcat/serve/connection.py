"""One client's connection, which costs nothing for long if the client hangs."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

ASK_S = 30.0
"""Seconds after which a connection ends that has asked nothing since the last time this was looked at."""
READ_S = 60.0
"""Seconds in which a client has to read on."""


class Connection(H11Protocol):
    """uvicorn's connection, with time limits on a client that sends no whole request, and on one that does not read."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._seen: object = None
        self._looking: asyncio.TimerHandle | None = None
        self._stalled: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin."""
        super().connection_made(transport)
        self._looking = self.loop.call_later(ASK_S, self._look)

    def connection_lost(self, exc: Exception | None) -> None:
        """End."""
        for timer in (self._looking, self._stalled):
            if timer is not None:
                timer.cancel()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """Hear that the client does not read as fast as it is written."""
        super().pause_writing()
        self._stalled = self.loop.call_later(READ_S, self.transport.abort)

    def resume_writing(self) -> None:
        """Hear that the client has read on."""
        super().resume_writing()
        if self._stalled is not None:
            self._stalled.cancel()
            self._stalled = None

    def _look(self) -> None:
        idle = self.cycle is None or self.cycle.response_complete
        if idle and self.cycle is self._seen:
            self.transport.abort()
            return
        self._seen = self.cycle
        self._looking = self.loop.call_later(ASK_S, self._look)
