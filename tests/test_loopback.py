"""Servers listen on loopback unless somebody asks for more."""

import ast
import sys
import time

import psutil
import pytest

from longcat import ui
from longcat.processes.child import free_port, supervised
from longcat.processes.environment import server_environment
from longcat.provenance import ROOT


def is_address(pair):
    """Whether a tuple may be one of host and port, and is no pair of texts."""
    return len(pair.elts) == 2 and not (isinstance(pair.elts[1], ast.Constant) and isinstance(pair.elts[1].value, str))


def test_no_file_names_all_addresses_but_the_one_for_several_nodes():
    found = set()
    for folder in ("longcat", "tasks", "flows"):
        for path in (ROOT / folder).rglob("*.py"):
            tree = ast.parse(path.read_text(encoding="utf-8"))
            arguments = [argument for node in ast.walk(tree) if isinstance(node, ast.Call) for argument in node.args]
            everywhere = any(
                ast.unparse(argument.elts[0]) in ("''", "'0.0.0.0'")
                for argument in arguments
                if isinstance(argument, ast.Tuple) and is_address(argument)
            )
            named = any(isinstance(node, ast.Constant) and node.value == "0.0.0.0" for node in ast.walk(tree))
            if everywhere or named:
                found.add(path.relative_to(ROOT).as_posix())
    assert found <= {"longcat/training/members.py"}


def test_addresses_of_the_pages(tmp_path, monkeypatch):
    for name in ("HOST", "MLFLOW_HOST", "PREFECT_SERVER_API_HOST"):
        monkeypatch.setenv(name, "0.0.0.0")  # of another server on this machine
    mlflow, prefect = ui._servers(tmp_path, {"MLflow": 1, "Prefect": 2})
    assert mlflow.arguments[mlflow.arguments.index("--host") + 1] == "127.0.0.1"
    assert prefect.environment["PREFECT_SERVER_API_HOST"] == "127.0.0.1"
    assert server_environment(str(tmp_path), 1)["PREFECT_SERVER_API_HOST"] == "127.0.0.1"


def listening(pid):
    """Addresses on which a process and its children listen."""
    found = set()
    for process in (root := psutil.Process(pid), *root.children(recursive=True)):
        try:
            connections = process.net_connections("inet")
        except psutil.Error:
            continue
        found |= {one.laddr.ip for one in connections if one.status == psutil.CONN_LISTEN}
    return found


@pytest.mark.slow
@pytest.mark.parametrize("name", ["MLflow", "Prefect"])
def test_pages_are_served_on_loopback_only(name, tmp_path):
    servers = {server.name: server for server in ui._servers(tmp_path, {"MLflow": free_port(), "Prefect": free_port()})}
    server = servers[name]
    with supervised(
        [sys.executable, *server.arguments], log=tmp_path / "log", environment=server.environment
    ) as process:
        end = time.monotonic() + 400
        while not server.answers():
            assert process.poll() is None and time.monotonic() < end, (tmp_path / "log").read_text()[-2000:]
            time.sleep(0.5)
        assert listening(process.pid) and listening(process.pid) <= {"127.0.0.1", "::1"}
