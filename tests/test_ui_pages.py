"""Links lead to the pages of the workspace that they are of."""

import json
import socket
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from longcat import ui_pages
from longcat.errors import UserError
from longcat.ui import serve
from longcat.ui_pages import (
    CHOSEN,
    PORTS,
    choose_ports,
    chosen_ports,
    is_free,
    pages_of_mlflow,
    ui_address,
    workspace_at,
)


@contextmanager
def mlflow_of(*locations):
    """A server that says, as MLflow's does, where the files of its experiments are."""

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self):
            body = json.dumps({"experiments": [{"artifact_location": one} for one in locations]}).encode()
            self.send_response(200)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()


def test_a_workspace_keeps_the_first_ports_that_were_free(tmp_path, monkeypatch):
    taken = {5010, 4211}
    monkeypatch.setattr(ui_pages, "is_free", lambda port: port not in taken)
    assert choose_ports(tmp_path) == {"MLflow": 5012, "Prefect": 4212}
    taken.clear()
    assert choose_ports(tmp_path) == {"MLflow": 5012, "Prefect": 4212}
    assert ui_address("Prefect", tmp_path) == "http://127.0.0.1:4212"
    other = tmp_path / "other"
    other.mkdir()
    assert choose_ports(other) == PORTS


def test_ports_that_are_asked_for_are_those_of_later_links(tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    choose_ports(tmp_path, {"MLflow": 6001, "Prefect": 6002})
    assert choose_ports(tmp_path, {"MLflow": 6003, "Prefect": None}) == {"MLflow": 6003, "Prefect": 6002}
    assert pages_of_mlflow(tmp_path) == "http://127.0.0.1:6003"


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"MLflow": "x", "Prefect": 1}'])
def test_a_damaged_file_gives_no_ports(tmp_path, content):
    (tmp_path / CHOSEN).write_text(content)
    assert chosen_ports(tmp_path) is None
    assert choose_ports(tmp_path).keys() == PORTS.keys()


def test_who_is_at_a_port_is_told(tmp_path):
    with mlflow_of("mlflow-artifacts:/0", "file:///home/a%20b/w/mlartifacts") as port:
        assert not is_free(port)
        assert workspace_at(port) == "/home/a b/w"
        (tmp_path / "prefect").mkdir()
        with pytest.raises(
            UserError, match=f"port {port} is taken: the pages of the workspace /home/a b/w are served there"
        ):
            serve(tmp_path, port, None)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        taken = silent.getsockname()[1]
        with pytest.raises(UserError, match=f"port {taken} is taken; choose another with --prefect-port"):
            serve(tmp_path, None, taken)
    assert chosen_ports(tmp_path) is None
