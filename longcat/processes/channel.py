"""Messages between a launcher and a node: JSON objects, one a line, over a connection on which both have proved themselves.

Each side shows that it has the key that the launcher has put into the workspace, without sending it. Whoever can read the
workspace may command its nodes, and nobody else; that the node has the key says as well that it sees the same folder.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import json
import os
import secrets
import socket
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

KEY = ".nodes.key"
"""File in the workspace."""
_LONGEST_BYTES = 1 << 20
Message = dict[str, Any]


class Closed(Exception):  # noqa: N818  (an event, not always an error)
    """The other side has gone; the message says how."""


class Channel:
    """One side of a connection. `receive` belongs to one thread, `send` to any."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self._sending = threading.Lock()
        self._rest = b""

    def send(self, **message: Any) -> None:
        """Send a message.

        Raises:
            Closed: the connection has ended.
        """
        line = json.dumps(message).encode() + b"\n"
        try:
            with self._sending:
                self.connection.sendall(line)
        except OSError as error:
            raise Closed(error.strerror or str(error)) from error

    def receive(self, timeout_s: float) -> Message:
        """Wait for a message.

        Raises:
            Closed: the connection has ended, nothing has come for `timeout_s` seconds, or what has come is no message.
        """
        try:
            self.connection.settimeout(timeout_s)
            while b"\n" not in self._rest:
                part = self.connection.recv(65536)
                if not part:
                    raise Closed("it has closed the connection")
                self._rest += part
                if len(self._rest) > _LONGEST_BYTES:
                    raise Closed("it sends what is no message")
        except TimeoutError:
            raise Closed(f"nothing has been heard of it for {timeout_s:g} s") from None
        except OSError as error:
            raise Closed(error.strerror or str(error)) from error
        line, self._rest = self._rest.split(b"\n", 1)
        try:
            message = json.loads(line)
        except (ValueError, RecursionError):
            raise Closed("it sends what is no message") from None
        if not isinstance(message, dict):
            raise Closed("it sends what is no message")
        return message

    def finish(self) -> None:
        """Send nothing more; closing at once could lose the last word."""
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """End the connection, for both sides and for a thread that waits in `receive`."""
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)
        self.connection.close()


def write_key(workspace: Path) -> bytes:
    """Put a new key into a workspace, readable for its user only, and return it."""
    key = secrets.token_hex(32)
    path = workspace / KEY
    path.unlink(missing_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as stream:
        stream.write(key)
        stream.flush()
        os.fsync(stream.fileno())
    return key.encode()


def proof(key: bytes, side: str, nonce: str) -> str:
    """Return what only a side that has the key can answer to a nonce."""
    return hmac.new(key, f"{side} {nonce}".encode(), hashlib.sha256).hexdigest()


def proves(key: bytes, side: str, nonce: str, message: Mapping[str, Any]) -> bool:
    """Say whether a message has the proof of that side."""
    shown = str(message.get("proof", "")).encode(errors="replace")  # strings are compared only if they are ASCII
    return hmac.compare_digest(proof(key, side, nonce).encode(), shown)


def new_nonce() -> str:
    """Return a number that is used once."""
    return secrets.token_hex(16)
