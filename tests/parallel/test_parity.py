"""Two processes, in every layout, have the gradients of one."""

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize("processes, expert_parallel", [(1, 1), (2, 1), (2, 2)])
@pytest.mark.parametrize("load", ["even", "starve", "everything", "documents", "recompute"])
def test_gradients_equal_one_process(processes, expert_parallel, load):
    if processes == 1 and load in ("starve", "recompute"):
        pytest.skip("nothing to compare")
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}",
        str(Path(__file__).with_name("parity.py")), str(expert_parallel), load,
    ]  # fmt: skip
    result = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert result.returncode == 0, result.stderr[-3000:]
