"""Connections of clients that hang end by themselves."""

import asyncio
import socket
import threading

import pytest
import uvicorn

from longcat.serve import connection
from tests.waiting import LIMIT_S, wait_until


async def endless(scope, receive, send):
    """Sends more than any buffer holds, until its client has gone."""
    await send({"type": "http.response.start", "status": 200, "headers": []})
    gone = asyncio.ensure_future(receive())
    while not gone.done() or gone.result()["type"] != "http.disconnect":
        if gone.done():
            gone = asyncio.ensure_future(receive())
        await send({"type": "http.response.body", "body": b"x" * 65536, "more_body": True})
        await asyncio.sleep(0)
    LEFT.set()


LEFT = threading.Event()


@pytest.fixture
def port(monkeypatch):
    """Of a server with short limits."""
    monkeypatch.setattr(connection, "ASK_S", 0.2)
    monkeypatch.setattr(connection, "READ_S", 0.2)
    LEFT.clear()
    settings = uvicorn.Config(endless, http=connection.Connection, ws="none", lifespan="off", log_level="error")
    server = uvicorn.Server(settings)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=server.run, args=([listening],), daemon=True)
        thread.start()
        wait_until(lambda: server.started)
        yield listening.getsockname()[1]
        server.should_exit = True
        thread.join(LIMIT_S)


@pytest.mark.parametrize("said", [b"", b"GET / HTTP/1.1\r\nHo"])
def test_a_client_that_asks_nothing(port, said):
    with socket.create_connection(("127.0.0.1", port), timeout=LIMIT_S) as client:
        client.sendall(said)
        try:
            assert client.recv(1) == b""
        except ConnectionResetError:
            pass


def test_a_client_that_does_not_read(port):
    with socket.create_connection(("127.0.0.1", port), timeout=LIMIT_S) as client:
        client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert LEFT.wait(LIMIT_S)
