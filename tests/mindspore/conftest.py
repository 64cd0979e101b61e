"""MindSpore has an environment of its own, and runs in processes there. `make test-mindspore`; `make test` leaves this folder out."""

import os
import subprocess
from pathlib import Path

import pytest

from longcat.provenance import ROOT
from tests.training.conftest import mesh  # noqa: F401  (a group of one process)

PROGRAMS = Path(__file__).parent
LIMIT_S = 900


@pytest.fixture(scope="session")
def mindspore():
    """Runs a program in the environment of `make mindspore`, or of LONGCAT_MINDSPORE_PYTHON."""
    python = Path(os.environ.get("LONGCAT_MINDSPORE_PYTHON", ROOT / ".venv-mindspore/bin/python"))
    if not python.exists():
        pytest.skip(f"no environment with MindSpore in {python.parents[1]}: make mindspore")

    def run(program, *arguments, environment=(), fails=False):
        clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        done = subprocess.run(
            [str(python), str(program), *map(str, arguments)],
            env=clean | {"GLOG_v": "3"} | dict(environment),
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
            check=False,
        )
        assert (done.returncode != 0) == fails, done.stdout + done.stderr
        return done

    return run
