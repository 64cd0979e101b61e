"""Throughput from the lines that other tools print."""

import json

import pytest

from longcat.benchmark.logs import TOKENS_SEEN, LogContext, Recorded, read_log, read_metrics
from longcat.errors import DataError

MEGATRON = (
    " [2025-01-01 10:00:{n:02d}] iteration {n:8d}/ 100 | consumed samples: {samples:12d} | elapsed time per iteration (ms): "
    "{ms:.1f} | learning rate: 1.0E-05 | global batch size:    64 | lm loss: 1.0E+01 | loss scale: 1.0 |\n"
)
TORCHTITAN = "[titan] 2025-01-01 10:00:00,000 - root - INFO - \x1b[31mstep: {n:2}  \x1b[32mloss:  7.1  \x1b[34mtps: {tps:,}  \x1b[36mtflops: 1.0\n"


def read(tmp_path, text, **setting):
    file = tmp_path / "log.txt"
    file.write_text(text)
    return read_log(file, LogContext(**{"devices": 8, "sequence_length": 2048, **setting}))


def test_megatron(tmp_path):
    slow_start = [9000.0, 1000.0, 1000.0, 1100.0]
    found = read(tmp_path, "".join(MEGATRON.format(n=n, ms=ms, samples=64 * n) for n, ms in enumerate(slow_start)))
    assert found.kind == "Megatron or MindSpeed"
    assert found.tokens_per_second == pytest.approx(64 * 2048 / 1.0)
    assert found.readings == 3
    assert found.spread == pytest.approx(1 - 1 / 1.1)


RECENT = (
    "[rank7]: [2025-06-10 12:34:56.123456] iteration {n:8d}/  500 | consumed samples: {samples:12d} | elapsed time per iteration"
    " (ms): {ms:.1f} | throughput per GPU (TFLOP/s/GPU): 321.4 | learning rate: 1.0E-05 | global batch size:    64 |"
    " lm loss: 1.0E+01 | load_balancing_loss: 1.0E+00 | grad norm: 1.234 | number of skipped iterations:   0 |\n"
)
BIGSCIENCE = (
    "[default7]: iteration {n:8d}/  500 | consumed samples: {samples:12d} | consumed tokens: 20155564032 | elapsed time per"
    " iteration (s): {s:.2f} | learning rate: 5.9E-05 | global batch size:  2048 | lm loss: 2.4 | TFLOPs: 149.02 |\n"
)


def test_megatron_of_other_years(tmp_path):
    recent = "".join(RECENT.format(n=n, ms=ms, samples=64 * n) for n, ms in enumerate([9000, 500, 500]))
    arguments = "using world size: 8, data-parallel size: 8\n  seq_length ................................ 2048\n"
    restarted = 2 * (arguments + recent) + "[rank0]: a line of another process\n"
    assert read(tmp_path, restarted).tokens_per_second == 64 * 2048 / 0.5
    seconds = "".join(BIGSCIENCE.format(n=n, s=s, samples=2048 * n) for n, s in enumerate([200, 100, 100]))
    assert read(tmp_path, seconds).tokens_per_second == 2048 * 2048 / 100
    with pytest.raises(DataError, match="reports 8 devices, not 16"):
        read(tmp_path, restarted, devices=16)
    with pytest.raises(DataError, match="reports 8 and 16 devices, not 8"):
        read(tmp_path, restarted + restarted.replace("size: 8", "size: 16"))
    with pytest.raises(DataError, match="reports 2,048 tokens in a sequence, not 4,096"):
        read(tmp_path, restarted, sequence_length=4096)


def test_megatron_of_2019_says_no_batch(tmp_path):
    line = " iteration {n:8d}/  500 | elapsed time per iteration (ms): {ms:.1f} | learning rate 1.0E-04 | lm loss 7.1E+00 |\n"
    text = "".join(line.format(n=n, ms=ms) for n, ms in enumerate([9000, 500, 500]))
    assert read(tmp_path, text, batch_tokens=1000).tokens_per_second == 2000
    with pytest.raises(DataError, match="how many sequences a step has: add --batch-tokens"):
        read(tmp_path, text)
    cut = MEGATRON.format(n=1, ms=1000.0, samples=64) + line.format(
        n=2, ms=1
    )  # by another process, in the middle of a line
    assert read(tmp_path, cut).readings == 1


@pytest.mark.parametrize("time", ["0.0", "-3.5"])
def test_a_step_takes_time(tmp_path, time):
    with pytest.raises(DataError, match="a step that took -?[03]"):
        read(tmp_path, MEGATRON.format(n=1, ms=1000.0, samples=64).replace("1000.0", time))


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_as_windows_writes_it(tmp_path, encoding):
    """PowerShell redirects into UTF-16; progress bars return without a new line."""
    text = "".join(f"\x1b[32miter {n}: loss nan, time 250.00ms, mfu -100.00%\x1b[0m\r\n" for n in range(3)) + "50%\r"
    (tmp_path / "log").write_bytes(text.encode(encoding))
    found = read_log(tmp_path / "log", LogContext(8, 2048, batch_tokens=1000))
    assert (found.kind, found.tokens_per_second, found.readings) == ("nanoGPT", 4000.0, 2)


def test_torchtitan_of_2024_and_its_validation(tmp_path):
    text = "".join(f"[rank0]:step: {n}  loss: 7.1  memory: 1GiB  wps: 1,000  mfu: 9%\n" for n in range(4))
    text += "".join(f"validate step: {n}  loss: 7.1  memory: 1GiB  tps: 9,000\n" for n in range(9))
    text += "step: 11  loss: 7.1  tps: , and a line that was cut\n"
    assert read(tmp_path, text).tokens_per_second == 8000.0


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
    told = "tokens per iteration will be: 491,520\n[rank1]: " + text
    assert read(tmp_path, told).tokens_per_second == 491520 * 4
    with pytest.raises(DataError, match="reports 491,520 tokens in a step, not 1,000"):
        read(tmp_path, told, batch_tokens=1000)


def test_trainer_state(tmp_path):
    last = {"train_runtime": 20.0, "train_samples_per_second": 3.0, "train_steps_per_second": 1.5}
    state = {"log_history": [{"loss": 2.0, "step": 10}, last]}
    assert read(tmp_path, json.dumps(state)).tokens_per_second == 3.0 * 2048
    assert read(tmp_path, json.dumps(state), batch_tokens=100).tokens_per_second == 150.0
    state["log_history"][0]["num_input_tokens_seen"] = 5000
    assert read(tmp_path, json.dumps(state)).tokens_per_second == 250.0
    with pytest.raises(DataError, match="no train_runtime: the run has not ended"):
        read(tmp_path, json.dumps({"log_history": [{"loss": 2.0}]}))


def test_a_trainer_that_was_resumed_after_its_end(tmp_path):
    """Its tokens count on and each part has its own time; of two histories in one file nothing follows."""
    ends = [
        {"train_runtime": 100.0, "train_samples_per_second": 1.0, "train_steps_per_second": 0.5},
        {"train_runtime": 60.0, "train_samples_per_second": 4.0, "train_steps_per_second": 2.0},
    ]
    state = {"log_history": ends, "num_input_tokens_seen": 8000}
    found = read(tmp_path, json.dumps(state))
    assert found.tokens_per_second == 50.0
    assert "the times of its parts are added" in found.assumptions[0]
    del state["num_input_tokens_seen"]
    assert read(tmp_path, json.dumps(state), batch_tokens=100).tokens_per_second == pytest.approx(100 * 120 / 160)
    with pytest.raises(DataError, match="line 2: a second train_runtime: the file has several runs"):
        read(tmp_path, "".join(f"{end}\n" for end in ends))


def test_a_trainer_that_tells_its_clock(tmp_path):
    """transformers since 2025: every log has time and tokens, the latter counted on over a restart."""
    logs = [(10.0, 1000), (12.0, 2000), (14.0, 3000), (16.0, 4000), (5.0, 5000), (7.0, 6000), (9.0, 7000), (9.1, 7000)]
    history = [{"loss": 2.0, "train_runtime": time, TOKENS_SEEN: tokens} for time, tokens in logs]
    found = read(tmp_path, json.dumps({"log_history": history}))
    assert (found.tokens_per_second, found.readings) == (500.0, 4)


@pytest.mark.parametrize(
    "state",
    ['{"log_history": [', '{"a": {"log_history": 1}}', '["log_history", "log_history"]', '{"log_history": {"a": 1}}',
     '{"log_history": [3, {"train_runtime": "long"}]}', '{"log_history": [{"train_runtime": NaN}]}'],
)  # fmt: skip
def test_a_damaged_trainer_state(tmp_path, state):
    with pytest.raises(DataError, match=r"trainer_state\.json"):
        read(tmp_path, state)


def test_a_tracked_trainer_counts_all_devices_or_one():
    context = LogContext(8, 2048)
    old = {"train_tokens_per_second": [100.0], TOKENS_SEEN: [1.0, 2.0]}
    assert read_metrics(Recorded(old), "r", context).tokens_per_second == 800
    new = {"train_tokens_per_second": [90.0, 100.0, 100.0], TOKENS_SEEN: [1.0, 2.0, 3.0]}
    assert read_metrics(Recorded(new), "r", context).tokens_per_second == 100


def test_our_metrics(tmp_path):
    lines = [{"step": 1}, *({"step": n, "perf/tokens_per_second": 100.0 + n} for n in range(2, 5))]
    found = read(tmp_path, "\n".join(map(json.dumps, lines)))
    assert (found.kind, found.readings, found.tokens_per_second) == ("longcat", 2, 103.5)


def test_a_log_of_nothing_says_what_was_looked_for(tmp_path):
    with pytest.raises(DataError, match="no line reports") as caught:
        read(tmp_path, "loss 3\nloss 2\n")
    for kind in ("Megatron", "torchtitan", "nanoGPT", "Trainer", "longcat"):
        assert kind in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1
    with pytest.raises(DataError, match="cannot read .*gone"):
        read_log(tmp_path / "gone", LogContext(1, 1))
    with pytest.raises(DataError, match="damaged"):
        read(tmp_path, '{"perf/tokens_per_second": 1\n')


MODEL_OF_124M = LogContext(8, 1024, total_parameters=124e6, non_embedding_parameters=85e6)


@pytest.mark.parametrize(
    "line",
    [
        "number of parameters: {:.2f}M",
        "Model llama3 debug \033[32msize: {:,.0f} total parameters\033[39m",
        "Number of parameters: {:,.0f} (scaling: 1)",
    ],
)
def test_a_model_of_another_size_contradicts(tmp_path, line):
    steps = {
        "number": "tokens per iteration will be: 491,520\n"
        + "".join(f"iter {i}: loss 3.2, time 100.00ms, mfu 30.00%\n" for i in range(9)),
        "Model ": "".join(f"step: {i} loss: 3.2 memory: 1GiB tps: 3,456 tflops: 100.0 mfu: 30.0%\n" for i in range(9)),
        "Number": "Total batch size: 524,288\n"
        + "".join(
            f"step {i:05d}/00100 (1.00%) | loss: 3.2 | dt: 500.00ms | tok/sec: 1,048,576 | mfu: 45.0\n"
            for i in range(9)
        ),
    }[line[:6]]
    file = tmp_path / "train.log"
    for count in (124.4e6, 85e6):
        file.write_text(line.format(count / 1e6 if "M" in line[-1] else count) + "\n" + steps)
        assert read_log(file, MODEL_OF_124M).tokens_per_second > 0
    file.write_text(line.format(6738 if "M" in line[-1] else 6738e6) + "\n" + steps)
    with pytest.raises(
        DataError, match=r"reports a model of 6,738,000,000 parameters, and the given one has 124,000,000"
    ):
        read_log(file, MODEL_OF_124M)


@pytest.mark.parametrize(
    ("params", "said"),
    [
        ({"facts.processes": "2"}, "run r has recorded facts.processes 2, not 8 devices"),
        ({"corpus.sequence_length_tokens": "64"}, "corpus.sequence_length_tokens 64, not 1,024 sequence length"),
        ({"facts.parameters": "2696928"}, "facts.parameters 2,696,928, not 124,000,000 parameters"),
    ],
)
def test_a_tracked_run_of_ours_is_the_one_that_the_command_tells_of(params, said):
    values = {"perf/tokens_per_second": [100.0] * 5}
    right = {"facts.processes": "8", "corpus.sequence_length_tokens": "1024", "facts.parameters": "124000000"}
    assert read_metrics(Recorded(values, right), "r", MODEL_OF_124M).tokens_per_second == 100
    with pytest.raises(DataError, match=said):
        read_metrics(Recorded(values, right | params), "r", MODEL_OF_124M)
