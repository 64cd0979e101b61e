"""torch's and torch_npu's own operator tests on the emulated device."""

import os
import subprocess
import sys
from collections import Counter

import pytest
import torch

from longcat.emulator import conformance
from longcat.emulator.conformance import Outcome, base_name, select, summary

AIM = 0.95


@pytest.mark.emulator
@pytest.mark.timeout(400)
def test_the_operators_of_training_conform(capsys):
    names = select(conformance.called_in_training())
    assert {"mm", "bmm", "softmax", "nn.functional.embedding", "topk", "index_add", "cat", "sort"} <= set(names)
    outcomes = list(conformance.run(names))
    assert [outcome.name for outcome in outcomes] == names
    counts = Counter(outcome.status for outcome in outcomes)
    with capsys.disabled():  # the share is a result
        print(f"\n{summary(outcomes)}")
    assert counts["passed"] >= AIM * (len(outcomes) - counts["untested"]), summary(outcomes)


def test_an_operator_that_ends_the_process_costs_no_other(monkeypatch, tmp_path):
    """A process that dies at the second of three."""
    script = tmp_path / "python"
    script.write_text(
        f"#!{sys.executable}\n"
        "import json, os, sys\n"
        "for name in sys.argv[4:]:\n"
        "    if name == 'bad': os.abort()\n"
        "    print(json.dumps({'name': name, 'status': 'passed'}), flush=True)\n"
    )
    script.chmod(0o755)
    monkeypatch.setattr(conformance.sys, "executable", str(script))
    outcomes = list(conformance.run(["a", "bad", "c"]))
    assert [(outcome.name, outcome.status) for outcome in outcomes] == [
        ("a", "passed"), ("bad", "failed"), ("c", "passed"),
    ]  # fmt: skip
    assert outcomes[1].reason == "ended the process (-6)"


@pytest.mark.emulator
def test_a_wrong_kernel_is_found():
    """The comparison itself, with a device kernel that is off by one."""
    import torch_npu  # noqa: F401

    library = torch.library.Library("aten", "IMPL")
    device = torch.device("npu", 0)
    assert conformance.examine("sgn", device).status == "passed"
    library.impl("sgn", lambda x: x + 1, "PrivateUse1", allow_override=True)
    try:
        outcome = conformance.examine("sgn", device)
    finally:
        library._destroy()
    assert outcome.status == "failed"
    assert "not close" in outcome.reason or "not equal" in outcome.reason


def test_names_of_private_and_in_place_forms():
    assert [base_name(name) for name in ("_softmax", "add_", "silu_backward", "mm")] == ["softmax", "add", "silu", "mm"]


@pytest.mark.emulator
def test_operators_are_found_under_the_names_of_their_tests():
    assert "__getitem__" in select(["index"])
    assert select(["_softmax"]) == ["softmax"]


def test_the_summary_counts_and_names():
    text = summary([
        Outcome("add", "passed"), Outcome("sgn", "failed", "3 instead of 4"), Outcome("svd", "unsupported", "no kernel", True),
        Outcome("fft", "untested"),
    ])  # fmt: skip
    assert "3 operators tested, 1 without" in text
    assert "33.3%" in text
    assert "failed sgn: 3 instead of 4" in text
    assert "unsupported svd (torch_npu does not test it either): no kernel" in text


def test_without_the_emulator_it_says_how():
    variables = {name: value for name, value in os.environ.items() if not name.startswith("ASCEND_EMULATOR")}
    command = [sys.executable, "-m", "longcat.emulator.conformance"]
    found = subprocess.run(command, capture_output=True, text=True, env=variables, timeout=100, check=False)
    assert found.returncode == 2
    assert "longcat emulate -- python -m longcat.emulator.conformance" in found.stderr
