"""Speed of the link between two nodes: one sends for a moment, the other counts."""

from __future__ import annotations

import secrets
import socket
import threading
import time

LASTS_S = 1.0
"""Seconds that one sends."""
_WAIT_S = 20.0
_PIECE = bytes(1 << 20)


def listen(address: str) -> dict[str, object]:
    """Wait in the background for one node that sends; returns the port, and the word that it has to say first.

    Args:
        address: of this node, as others reach it.
    """
    word = secrets.token_hex(16)
    listening = socket.create_server((address, 0))
    listening.settimeout(_WAIT_S)

    def receive() -> None:
        try:
            with listening, listening.accept()[0] as connection:
                connection.settimeout(_WAIT_S)
                if connection.recv(len(word), socket.MSG_WAITALL) != word.encode():
                    return
                received = 0
                while part := connection.recv(len(_PIECE)):
                    received += len(part)
                connection.sendall(f"{received}\n".encode())
        except OSError:
            return

    threading.Thread(target=receive, daemon=True).start()
    return {"port": listening.getsockname()[1], "say": word}


def send(host: str, port: int, word: str) -> float:
    """Send to a node that listens; returns bytes per second.

    Raises:
        OSError: the node cannot be reached.
    """
    with socket.create_connection((host, port), timeout=_WAIT_S) as connection:
        connection.sendall(word.encode())
        began = time.perf_counter()
        while time.perf_counter() - began < LASTS_S:
            connection.sendall(_PIECE)
        connection.shutdown(socket.SHUT_WR)
        text = b""
        while part := connection.recv(64):
            text += part
        seconds = time.perf_counter() - began
    return int(text or b"0") / seconds
