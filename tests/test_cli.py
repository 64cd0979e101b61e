"""The command line: one clear line and the right exit code for every mistake."""

import json
import os
import subprocess
import sys

import pytest


def longcat(*arguments, timeout=60, **environment):
    return subprocess.run(
        [sys.executable, "-m", "longcat.cli", *arguments],
        capture_output=True, text=True, timeout=timeout, check=False, env={**os.environ, **environment},
    )  # fmt: skip


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["run", "--preset", "tinny"], "unknown preset 'tinny'; did you mean 'tiny'?"),
        (["run", "--set", "training.step=3"], "unknown key 'training.step'; did you mean 'training.steps'?"),
        (["run", "--set", "training.steps"], "expected KEY=VALUE"),
        (["run", "--set", "training.steps=many"], "training.steps: Input should be a valid integer"),
        (["run", "--config", "nowhere.yaml"], "cannot read configuration nowhere.yaml"),
        (["preprocess", "--sett", "a=b"], "No such option: --sett"),
    ],
)
def test_mistakes_are_told_at_once(tmp_path, arguments, message):
    result = longcat(*arguments, "--workspace", str(tmp_path / "w"))
    assert result.returncode == 2
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "w").exists()


def test_presets_and_doctor_speak_json():
    rows = json.loads(longcat("presets", "--json").stdout)
    assert {row["name"] for row in rows} >= {"smoke", "tiny", "small"}
    assert all(0 < row["activated_parameters"] < row["total_parameters"] for row in rows)
    shown = json.loads(longcat("presets", "--show", "smoke", "--json").stdout)
    assert shown["model"]["vocab_size"] == shown["corpus"]["vocabulary_size"]
    facts = json.loads(longcat("doctor", "--json").stdout)
    assert facts["versions"]["torch"]
    assert facts["accelerator"]["kind"] in ("cpu", "cuda", "npu")


def test_light_commands_stay_light():
    code = (
        "import sys, longcat.config, longcat.cli, longcat.benchmark.flops, longcat.benchmark.references\n"
        "print([m for m in ('torch', 'torch_npu', 'mlflow', 'prefect', 'transformers') if m in sys.modules])"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"


@pytest.mark.slow
def test_missing_file_and_busy_workspace_end_with_two(tmp_path):
    from longcat.artifact import Workspace

    missing = longcat(
        "preprocess", "--preset", "smoke", "--set", "corpus.sources=/no/such.jsonl", "--workspace", str(tmp_path)
    )
    assert missing.returncode == 2, missing.stderr
    assert "/no/such.jsonl" in missing.stderr
    assert "Traceback" not in missing.stderr
    with Workspace(tmp_path).lease():
        busy = longcat("run", "--preset", "smoke", "--workspace", str(tmp_path))
    assert busy.returncode == 2
    assert f"is in use by process {os.getpid()}" in busy.stderr
