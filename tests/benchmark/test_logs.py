"""Throughput from the lines that other tools print."""

import json

import pytest

from longcat.benchmark.logs import Setting, read_log
from longcat.errors import DataError

MEGATRON = (
    " [2025-01-01 10:00:{n:02d}] iteration {n:8d}/ 100 | consumed samples: {n:12d} | elapsed time per iteration (ms): "
    "{ms:.1f} | learning rate: 1.0E-05 | global batch size:    64 | lm loss: 1.0E+01 | loss scale: 1.0 |\n"
)
TORCHTITAN = "[titan] 2025-01-01 10:00:00,000 - root - INFO - \x1b[31mstep: {n:2}  \x1b[32mloss:  7.1  \x1b[34mtps: {tps:,}  \x1b[36mtflops: 1.0\n"


def read(tmp_path, text, **setting):
    file = tmp_path / "log.txt"
    file.write_text(text)
    return read_log(file, Setting(**{"devices": 8, "sequence_length": 2048, **setting}))


def test_megatron(tmp_path):
    slow_start = [9000.0, 1000.0, 1000.0, 1100.0]
    found = read(tmp_path, "".join(MEGATRON.format(n=n, ms=ms) for n, ms in enumerate(slow_start)))
    assert found.kind == "Megatron or MindSpeed"
    assert found.tokens_per_second == pytest.approx(64 * 2048 / 1.0)
    assert found.readings == 3
    assert found.spread == pytest.approx(1 - 1 / 1.1)


def test_torchtitan_counts_each_device(tmp_path):
    found = read(tmp_path, "".join(TORCHTITAN.format(n=n, tps=tps) for n, tps in [(1, 12), (10, 3456), (20, 3458)]))
    assert (found.kind, found.tokens_per_second) == ("torchtitan", 3457.0 * 8)


def test_nanogpt(tmp_path):
    text = "step 0: train loss 4.2, val loss 4.2\n" + "".join(
        f"iter {n}: loss 3.1, time {ms}ms, mfu 30.1%\n" for n, ms in enumerate([900.0, 250.0, 250.0])
    )
    assert read(tmp_path, text, batch_tokens=1000).tokens_per_second == 4000.0
    with pytest.raises(DataError, match="add --batch-tokens"):
        read(tmp_path, text)


def test_trainer_state(tmp_path):
    last = {"train_runtime": 20.0, "train_samples_per_second": 3.0, "train_steps_per_second": 1.5}
    state = {"log_history": [{"loss": 2.0, "step": 10}, last]}
    assert read(tmp_path, json.dumps(state)).tokens_per_second == 3.0 * 2048
    assert read(tmp_path, json.dumps(state), batch_tokens=100).tokens_per_second == 150.0
    state["log_history"][0]["num_input_tokens_seen"] = 5000
    assert read(tmp_path, json.dumps(state)).tokens_per_second == 250.0
    with pytest.raises(DataError, match="no train_runtime: the run has not ended"):
        read(tmp_path, json.dumps({"log_history": [{"loss": 2.0}]}))


def test_our_metrics(tmp_path):
    lines = [{"step": 1}, *({"step": n, "perf/tokens_per_second": 100.0 + n} for n in range(2, 5))]
    found = read(tmp_path, "\n".join(map(json.dumps, lines)))
    assert (found.kind, found.readings, found.tokens_per_second) == ("longcat", 2, 103.5)


def test_a_log_of_nothing_says_what_was_looked_for(tmp_path):
    with pytest.raises(DataError, match="no line tells") as caught:
        read(tmp_path, "loss 3\nloss 2\n")
    for kind in ("Megatron", "torchtitan", "nanoGPT", "Trainer", "longcat"):
        assert kind in str(caught.value)
    with pytest.raises(DataError, match="cannot read .*gone"):
        read_log(tmp_path / "gone", Setting(1, 1))
    with pytest.raises(DataError, match="damaged"):
        read(tmp_path, '{"perf/tokens_per_second": 1\n')
