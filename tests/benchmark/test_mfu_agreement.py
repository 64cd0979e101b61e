"""The benchmark script that sets `longcat mfu` beside other counts."""

import json
import runpy
import subprocess
import sys

import pytest

from longcat.provenance import ROOT

SCRIPT = ROOT / "benchmarks/mfu_agreement.py"


def test_figures_and_logs_agree():
    found = subprocess.run(
        [sys.executable, SCRIPT, "--json", "--parts", "figures", "logs"], capture_output=True, text=True, timeout=120
    )
    assert found.returncode == 0, found.stderr
    parts = json.loads(found.stdout)
    assert parts["off"] == 0
    assert parts["figures"]["checked"] >= 40
    assert parts["figures"]["figures"]["sources"] >= 12
    assert parts["logs"]["checked"] >= 30


@pytest.mark.parametrize(("ours", "off"), [(100.9, 0), (101.1, 1), (98.9, 1), (100, 0)])
def test_a_difference_above_the_tolerance_is_off(ours, off):
    part = runpy.run_path(str(SCRIPT))["Part"]()
    part.compare("a run", ours, 100.0, 0.01)
    assert (part.checked, len(part.off)) == (1, off)
