"""A flow runs in a workspace of any name, on a machine without a network whose own name nobody knows."""

import json
import os
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ALONE = ["unshare", "--net", "--uts", "--"]
"""No network, and a host name of its own."""
SET_UP = """
import fcntl, os, socket, struct, sys
with socket.socket() as any_socket:
    up_and_running = struct.pack("16sh", b"lo", 0x41)
    fcntl.ioctl(any_socket, 0x8914, up_and_running)  # SIOCSIFFLAGS
socket.sethostname("nodeless-42")
os.execv(sys.executable, [sys.executable, "-m", "longcat.cli", *sys.argv[1:]])
"""


def alone():
    if shutil.which("unshare") is None:
        return False
    return subprocess.run([*ALONE, "true"], capture_output=True, check=False).returncode == 0


def test_any_path_and_no_network(corpus_file, tmp_path):
    if not alone():
        pytest.skip("a process may not have a network of its own here")
    name = "a b#ü%3F?q=1&'\"x%"
    workspace = tmp_path / name / ("l" * 200)
    workspace.parent.mkdir()
    done = subprocess.run(
        [*ALONE, sys.executable, "-c", SET_UP, "preprocess", "--preset", "smoke", "--workspace", str(workspace),
         "--set", f"corpus.sources={corpus_file}", "--json"],
        capture_output=True, text=True, timeout=500, check=False, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "warning" not in done.stderr
    summary = json.loads(done.stdout)
    assert summary["mlflow"]["warning"] is None
    assert summary["stages"][0]["mlflow_run_id"]
    with sqlite3.connect(workspace / "prefect" / "prefect.db") as database:
        assert database.execute("SELECT state_type FROM flow_run").fetchall() == [("COMPLETED",)]
    assert [path.name for path in Path(tmp_path).iterdir() if path.is_dir()] == [
        name
    ]  # nor a folder of another spelling

    from longcat.tracking.store import read_run

    figures = read_run(summary["mlflow"]["tracking_uri"], summary["stages"][0]["mlflow_run_id"], ["train_tokens"])
    assert figures.metrics["train_tokens"] == [summary["stages"][0]["facts"]["train_tokens"]]
