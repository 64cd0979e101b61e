"""Several processes, in every layout, have the gradients of one; what the table of axes promises, between real processes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

LAYOUTS = {"one": (1, 1), "data": (2, 1), "expert": (2, 2), "data x expert": (4, 2)}
CHECKS = ["timeouts", "shares", "loader", "initial", "steps", "even", "starve", "everything", "documents", "recompute"]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Runs a layout once, for all of its checks."""
    done = {}

    def of(layout):
        if layout not in done:
            processes, expert_parallel = LAYOUTS[layout]
            folder = tmp_path_factory.mktemp("layout")
            command = [
                sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}",
                str(Path(__file__).with_name("parity.py")), str(folder), str(expert_parallel),
            ]  # fmt: skip
            environment = {**os.environ, "OMP_NUM_THREADS": "1"}
            result = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
            done[layout] = folder, result
        return done[layout]

    return of


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("check", CHECKS)
def test_layout(run, layout, check):
    folder, result = run(layout)
    file = folder / "outcomes.json"
    outcomes = json.loads(file.read_text()) if file.exists() else {}
    assert outcomes.get(check, f"not run\n{result.stderr[-3000:]}") == "passed"


@pytest.mark.parametrize("layout", LAYOUTS)
def test_processes_end_well(run, layout):
    _, result = run(layout)
    assert result.returncode == 0, result.stderr[-3000:]


@pytest.mark.parametrize("layout", ["data", "expert", "data x expert"])
def test_steps_are_those_of_one_process(run, layout):
    expected, found = (json.loads((run(name)[0] / "steps.json").read_text()) for name in ("one", layout))
    assert found[:-1] == pytest.approx(expected[:-1], rel=1e-4)
    assert found[-1] == expected[-1]
