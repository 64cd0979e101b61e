"""Bandwidths as nccl-tests defines them, and collectives between two real processes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from longcat.benchmark.collectives import BETWEEN, INSIDE, Collective, scopes


def test_bus_bandwidth_by_hand():
    """1 GB in 0.1 s over 8 ranks: 10 GB/s, of which the link carries 7/4 or 7/8 (nccl-tests, doc/PERFORMANCE.md)."""
    for name, expected in (("all_reduce", 17.5), ("all_gather", 8.75), ("reduce_scatter", 8.75), ("all_to_all", 8.75)):
        found = Collective(name, 10**9, 8, 0.1, INSIDE)
        assert found.algorithm_bandwidth == pytest.approx(10e9)
        assert found.bus_bandwidth == pytest.approx(expected * 1e9)


@pytest.mark.parametrize(
    ("world", "local", "expected"),
    [
        (1, 1, []),
        (2, 2, [(INSIDE, [0, 1])]),
        (16, 8, [(INSIDE, list(range(8))), (BETWEEN, [0, 8])]),
        (4, 1, [(BETWEEN, [0, 1, 2, 3])]),
    ],
)
def test_groups(world, local, expected):
    assert scopes(world, local) == expected


@pytest.mark.slow
def test_two_processes(tmp_path):
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2",
        str(Path(__file__).with_name("two_processes.py")), str(tmp_path / "found.json"),
    ]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    result = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert result.returncode == 0, result.stderr[-3000:]
    found = json.loads((tmp_path / "found.json").read_text())
    assert [(one["name"], one["bytes"]) for one in found] == [
        (name, size)
        for size in (8, 40_000)  # 3 bytes hold no number for each rank, so that one each is the least
        for name in ("all_reduce", "all_gather", "reduce_scatter", "all_to_all")
    ]
    assert all(one["seconds"] > 0 and one["ranks"] == 2 for one in found)
