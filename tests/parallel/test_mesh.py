"""Joining and leaving the groups."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from longcat.parallel import mesh


def torchrun(script, *arguments, processes=2):
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}", str(script),
        *arguments,
    ]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


@pytest.mark.slow
@pytest.mark.parametrize("code", [0, 3])
def test_a_process_ends_with_its_code_whatever_its_threads_do(code):
    """Returning from `__main__` instead ends with -6, "terminate called without an active exception"."""
    result = torchrun(Path(__file__).with_name("late_thread.py"), "end_process", str(code))
    assert "written before the end" in result.stdout
    if code:
        assert f"exitcode  : {code} " in result.stderr
    assert result.returncode == (1 if code else 0), result.stderr[-3000:]


def test_programs_that_leave_a_group_end_as_they_should():
    root = Path(__file__).parents[2]
    joining = [
        path
        for folder in ("longcat", "benchmarks")
        for path in (root / folder).rglob("*.py")
        if re.search(r"mesh import .*\bleave\b", path.read_text())
    ]
    assert len(joining) > 5
    assert [path.name for path in joining if "end_process(" not in path.read_text()] == []


@pytest.mark.parametrize("trouble", [OSError(28, "No space left on device"), BrokenPipeError(), ValueError("closed")])
def test_output_that_cannot_be_written_does_not_change_how_a_process_ends(monkeypatch, trouble):
    class Stream:
        def flush(self):
            raise trouble

    codes = []
    monkeypatch.setattr(sys, "stdout", Stream())
    monkeypatch.setattr(mesh.os, "_exit", codes.append)
    mesh.end_process(3)
    assert codes == [3]


def test_another_number_of_processes_is_refused(monkeypatch):
    from longcat.accelerator import choose
    from longcat.errors import ConfigError
    from longcat.parallel.axes import Degrees
    from longcat.parallel.mesh import join, leave
    from longcat.processes.child import free_port

    variables = {"RANK": 0, "LOCAL_RANK": 0, "WORLD_SIZE": 1, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
    for name, value in variables.items():
        monkeypatch.setenv(name, str(value))
    try:
        with pytest.raises(ConfigError, match="training.processes=2, but torchrun started 1"):
            join(choose("cpu"), Degrees(2), timeout_s=30)
    finally:
        leave()
