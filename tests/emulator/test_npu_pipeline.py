"""The smallest whole run on two emulated NPUs, against the same run on the CPU."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.emulator, pytest.mark.timeout(500)]
SETTINGS = "training.processes=2", "training.precision=fp32", "evaluation.precision=fp32"
SHARED = ["--preset", "smoke", *(part for setting in SETTINGS for part in ("--set", setting))]


def longcat(*arguments, workspace):
    command = [str(Path(sys.executable).with_name("longcat")), *arguments, "--workspace", str(workspace)]
    here = workspace / "here"
    here.mkdir(exist_ok=True)
    found = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False, cwd=here)
    assert not list(here.iterdir()), "nothing is left where the user stands"
    assert found.returncode == 0, found.stdout[-2000:] + found.stderr[-3000:]
    return found.stdout


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    """One for both, so that they share tokens."""
    return tmp_path_factory.mktemp("workspace")


@pytest.fixture(scope="module")
def summaries(workspace):
    runs = {
        kind: longcat("run", *SHARED, "--set", f"accelerator={kind}", "--json", workspace=workspace)
        for kind in ("cpu", "npu")
    }
    return {kind: json.loads(output) for kind, output in runs.items()}


def facts(summary, stage):
    return next(found["facts"] for found in summary["stages"] if found["stage"] == stage)


def test_the_losses_are_those_of_the_cpu(workspace, summaries):
    curves = {}
    for file in sorted((workspace / "checkpoint").glob("*/metrics.jsonl")):
        manifest = json.loads(file.with_name("manifest.json").read_text())
        curves[manifest["facts"]["device"]] = [json.loads(line) for line in file.open()]
    npu = curves.pop("Ascend910B2 (emulated)")
    (cpu,) = curves.values()
    assert len(npu) == len(cpu) >= 10
    for name in ("train/loss", "train/gradient_norm", "train/balance_loss", "moe/ffn_experts_per_token"):
        assert [row[name] for row in npu] == pytest.approx([row[name] for row in cpu], rel=1e-5)


def test_every_stage_ran_on_the_device(summaries):
    layout = {"pipeline": 1, "replicate": 1, "shard": 2, "context": 1, "tensor": 1, "expert": 2}
    trained, measured, scored = (facts(summaries["npu"], stage) for stage in ("pretrain", "benchmark", "evaluate"))
    assert (trained["processes"], trained["parallel"]) == (2, layout)
    assert measured["tokens_per_second"] > 0
    assert measured["mfu"] is None, "what an emulation takes is no Ascend's time"
    bits, expected = (
        found["scores"]["held_out"]["bits_per_byte"] for found in (scored, facts(summaries["cpu"], "evaluate"))
    )
    assert bits == pytest.approx(expected, rel=1e-5)


def test_no_operator_of_training_or_timing_is_left_to_the_cpu(workspace, summaries):
    """torch_npu says so in the first process that meets one."""
    logs = [
        *workspace.glob("checkpoint/*/logs/*/rank-*.log"),
        *workspace.glob("measurement/*/processes/logs/*/rank-*.log"),
    ]
    said = [log.read_text() for log in logs]
    assert any("NPUCachingAllocator" in text for text in said), "warnings of torch_npu land there"
    assert not [line for text in said for line in text.splitlines() if "not currently supported on the NPU" in line]
