"""The server: it listens, and ends in order."""

from __future__ import annotations

import asyncio
import socket
import time
from types import FrameType

import uvicorn
from starlette.types import ASGIApp

from longcat.errors import UserError
from longcat.serve.connection import Connection
from longcat.serve.engine import Engine

_LAST_ANSWERS_S = 5
"""Seconds in which answers that are made have to be sent when the server ends."""
_BACKLOG = 128


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens.

    Raises:
        UserError: the address is unknown, or the port is taken.
    """
    try:
        [family, *_], *_ = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        return socket.create_server((host, port), family=family, backlog=_BACKLOG)
    except OSError as error:
        raise UserError(f"cannot listen at {host} port {port}: {error.strerror or error}") from None


def serve(app: ASGIApp, engine: Engine, listening: socket.socket, grace_s: float) -> None:
    """Serve until SIGTERM or SIGINT.

    New requests are refused from then on, and those that are there have `grace_s` seconds to finish. A second signal ends
    at once.
    """
    settings = uvicorn.Config(
        app,
        http=Connection,
        ws="none",
        lifespan="off",
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=_LAST_ANSWERS_S,
    )
    engine.start()
    try:
        _Server(settings, engine, grace_s).run([listening])
    finally:
        engine.end()
        listening.close()


class _Server(uvicorn.Server):
    """uvicorn's server, which goes on listening while it finishes what it has begun, to say that it takes no more."""

    def __init__(self, settings: uvicorn.Config, engine: Engine, grace_s: float) -> None:
        super().__init__(settings)
        self._engine, self._grace_s = engine, grace_s
        self._asked = False
        self._until: float | None = None

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Hear a signal."""
        self.should_exit = self.force_exit = self._asked
        self._asked = True

    async def on_tick(self, counter: int) -> bool:
        """Look, ten times a second, whether it is time to end."""
        if await super().on_tick(counter):
            return True
        if not self._asked:
            return False
        if self._until is None:
            self._engine.refuse()
            self._until = time.monotonic() + self._grace_s
        if self._engine.unfinished and time.monotonic() < self._until:
            return False
        await asyncio.to_thread(self._engine.end)
        return True
