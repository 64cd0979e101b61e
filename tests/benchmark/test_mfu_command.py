"""`longcat mfu` as a user meets it."""

import json
import os
import subprocess
import sys

import pytest

LLAMA = {
    "model_type": "llama", "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32,
    "num_attention_heads": 32, "vocab_size": 32000, "tie_word_embeddings": False,
}  # fmt: skip


@pytest.fixture
def mfu(tmp_path):
    config = tmp_path / "config.json"
    config.write_text(json.dumps(LLAMA))

    def run(*arguments, model=config):
        command = [sys.executable, "-m", "longcat.cli", "mfu", "--model", str(model), "--sequence-length", "2048"]
        return subprocess.run(
            [*command, *arguments],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            env={**os.environ, "COLUMNS": "100"},
        )

    return run


A100 = ("--device", "a100-80gb", "--devices", "8")


def test_the_figures(mfu):
    found = json.loads(mfu(*A100, "--tokens-per-second", "21000", "--json").stdout)
    layers = 32 * (4 * 4096**2 + 3 * 4096 * 11008) + 4096 * 32000
    flops = 6 * layers + 12 * 32 * 4096 * 1024  # half the square of scores
    assert sum(found["flops_per_token"].values()) == pytest.approx(flops)
    assert found["mfu"] == pytest.approx(21000 * flops / (8 * 312e12)) == pytest.approx(found["hfu"])
    assert found["mfu_full_attention"] > found["mfu"]
    assert found["peak_flops"] == 312e12
    assert "A100 SXM 80GB" in found["peak_source"]
    assert found["mfu_by_convention"]["six_n"] == pytest.approx(
        21000 * 6 * layers / (8 * 312e12), rel=1e-3
    )  # norms too
    assert len(found["nearest"]) == 5


def test_for_people(mfu):
    found = mfu(*A100, "--step-time", "2", "--batch-tokens", "42000", "--recompute", "full")
    assert found.returncode == 0
    assert "34.7%, causal attention" in found.stdout
    assert "recomputation full" in found.stdout
    assert "Verdict: outside 15 %" in found.stdout


def test_from_a_log(mfu, tmp_path):
    log = tmp_path / "train.log"
    log.write_text("step: 1 loss: 7 tps: 2,000\nstep: 2 loss: 7 tps: 2,625\n")
    found = json.loads(mfu(*A100, "--log", str(log), "--json").stdout)
    assert found["log"]["kind"] == "torchtitan"
    assert found["tokens_per_second"] == 8 * 2312.5


def test_presets_and_measured_experts(mfu):
    few, many = (
        json.loads(
            mfu(*A100, "--tokens-per-second", "9", "--ffn-experts", number, "--json", model="longcat-flash").stdout
        )
        for number in ("6", "9")
    )
    assert few["mfu"] < many["mfu"]
    assert few["family"] == "longcat"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--device", "a100-80", "--tokens-per-second", "3"), "did you mean a100-80gb"),
        ((*A100, "--tokens-per-second", "-3"), "tokens per second must be above 0, found -3"),
        ((*A100, "--tokens-per-second", "1e9"), "is impossible"),
        ((*A100, "--step-time", "0", "--batch-tokens", "3"), "--step-time must be above 0, found 0"),
        ((*A100, "--step-time", "1"), "--step-time needs --batch-tokens"),
        (("--device", "h20", "--devices", "0", "--tokens-per-second", "3"), "devices must be above 0, found 0"),
        (A100, "one of --tokens-per-second, --step-time and --log tells the speed"),
        ((*A100, "--tokens-per-second", "3", "--recompute", "some"), "there are none, selective and full"),
    ],
)
def test_mistakes(mfu, arguments, message):
    found = mfu(*arguments)
    assert (found.returncode, found.stdout) == (2, "")
    assert message in found.stderr


def test_a_model_that_is_none(mfu, tmp_path):
    found = mfu(*A100, "--tokens-per-second", "3", model="lama")
    assert found.returncode == 2
    assert "neither a file nor a preset; presets are longcat-2.0" in found.stderr
    broken = tmp_path / "broken.json"
    broken.write_text(json.dumps({key: value for key, value in LLAMA.items() if key != "hidden_size"}))
    assert "no hidden_size" in mfu(*A100, "--tokens-per-second", "3", model=broken).stderr


def test_torch_is_not_loaded(mfu):
    code = (
        "import sys; from longcat.cli import app; "
        "app(['mfu', '--model', 'tiny', '--device', 'h20', '--tokens-per-second', '9', '--sequence-length', '99'],"
        " standalone_mode=False); print(*sorted({'torch', 'prefect', 'mlflow'} & set(sys.modules)), 'none of them')"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert found.stdout.splitlines()[-1].strip() == "none of them"
