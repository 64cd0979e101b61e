"""Shapes of lines and records beside those of the samples: other versions, other names."""

import json

import pytest

from longcat.benchmark.logs import LogContext, read_log
from longcat.benchmark.logs.keys import meaning, seconds_of
from longcat.errors import DataError


@pytest.fixture
def read(tmp_path):
    def reading(text, devices=8, length=2048, batch=None, name="log", **other):
        (tmp_path / name).write_text(text if isinstance(text, str) else json.dumps(text))
        return read_log(tmp_path / name, LogContext(devices, length, batch, **other))

    return reading


@pytest.mark.parametrize(
    ("line", "devices", "rate", "kind"),
    [
        ("step 00006/20000 (0.03%) | loss: 8.900000 | dt: 1000.00ms | tok/sec: 524,288 | mfu: 73.35", 8, 524288, "nanochat"),
        ("\rstep 00010 (0.0%) | loss: 8.900000 | lrm: 1.00 | dt: 500ms | tok/sec: 4,288 | mfu: 73.3% | epoch: 1", 1, 4288, "nanochat"),
        ("-- tflops=180.4 step=19 loss=0.005 tgs (tokens/gpu/second)=4200.00 tgs/last_tgs_1=4200.0 grad_norm={'0_default': 0.01} num_consumed_tokens=10485760", 8, 33600, "InternEvo"),
        ("Epoch 1 Step 3/10 data_time: 0.01 lr: 1e-5 time: 0.0520 text_tokens: 4000.0 tgs: 76923.1 e2e_tgs: 9.0", 2, 153846.15, "XTuner"),
        ("[Train] (Epoch 1) Step 5/80  lr: 0.000020  loss: 1.2  max_memory: 31.2GB  text_tokens: 16384  tgs: 4096  data_time: 0.01s  time: 4.0s", 8, 32768, "XTuner"),
        ("2024/05/11 - mmengine - INFO - Epoch(train) [1][  10/1060]  lr: 2e-05  time: 2.0  data_time: 0.1  tokens_per_sec: 4096.0", 8, 32768, "XTuner"),
        ("completed step: 7, seconds: 6.0, TFLOP/s/device: 451.2, Tokens/s/device: 8192.0, loss: 6.7", 8, 65536, "MaxText"),
        ("Epoch 0: : 100%|███| 100/100 [10:48<00:00, reduced_train_loss=0.0172, global_step=99.00, consumed_samples=25600.0, train_step_timing in s=2.000]", 8, 128 * 2048, "NeMo"),
        ("Epoch 0: 100%|██| 2000/2000 [43:24:54<00:00, reduced_train_loss=0.139, global_step=2e+3, consumed_samples=2.56e+5, train_step_timing in s=64.0, val_loss=0.2]", 8, 4096, "NeMo"),
        ("Training epoch 0, iteration 2/249 | lr: 5.8e-06 | global_batch_size: 8 | global_step: 2 | reduced_train_loss: 1.278 | train_step_timing in s: 2.000", 8, 8192, "NeMo"),
        ("[09/19 14:39:40 lb.utils.events]:  eta: 22:07:15  iteration: 87/18660  consumed_samples: 704  total_loss: 10.36  time: 4.2893 s/iter  data_time: 0.0105 s/iter total_throughput: 2.00 samples/s lr: 6.99e-07", 8, 4096, "LiBai"),
        ("Train throughput/tokens_per_sec: 10016.4385   Train memory/peak_reserved_mem: 21.5820", 8, 10016.4385, "llm-foundry"),
        ("[batch=20/40] Train throughput/device/tokens_per_sec: 1000.0", 8, 8000, "llm-foundry"),
        ("Step 12 | loss:1.2345 lr:2e-05 tokens_per_second_per_gpu:1000.5 peak_memory_active:12.3", 4, 4002, "unknown tool"),
        ("44, loss: 6.516855716705322, dt: 360.79ms, tok/sec: 2838.19", 1, 2838.19, "unknown tool"),
        ("iter 10/100 loss=3.2 throughput=12.5k tokens/s", 1, None, ""),
        ("    throughput/device/TPS=2,730", 8, 21840, "unknown tool"),
        ("epoch 1 step 40: loss 3.1, 81,920 tokens/s", 8, 81920, "unknown tool"),
        ("iteration 13 / 118 | consumed samples: 37440 | elapsed time per iteration(ms): 1000.0 | learning rate: 7.3 | global batch size: 2880 | lm loss: 6.2E-01", 8, 2880 * 2048, "Megatron or MindSpeed"),
        (" iteration 5/ 10 | consumed samples: 1280 | elapsed time per iteration (ms): 1000.0/1003.2 | throughput per GPU (TFLOP/s/GPU): 400.1/398.2 | tokens per GPU (tokens/s/GPU): 4096.0/4090.1 | global batch size:    16 |", 8, 32768, "Megatron or MindSpeed"),
        (" iteration 5/ 10 | elapsed time per iteration (ms): 2000.0 | memory(GiB): 40.84 | elapsed time: 2m 19s | remaining time: 1h 2m 3s | throughput per GPU (TFLOP/s/GPU): 181.0 | global batch size:    16 |", 8, 16384, "Megatron or MindSpeed"),
        ("[INFO] [timer.py:260:stop] epoch=0/micro_step=199/global_step=199, RunningAvgSamplesPerSec=58.73, CurrSamplesPerSec=4.0, MemAllocated=6.01GB", 8, 8192, "DeepSpeed"),
    ],
)  # fmt: skip
def test_lines(read, line, devices, rate, kind):
    if rate is None:
        with pytest.raises(DataError, match="no line reports"):
            read(line + "\n", devices)
        return
    found = read(line + "\n", devices)
    assert (found.kind, found.tokens_per_second) == (kind, pytest.approx(rate, rel=1e-3))


def test_batch_tokens_are_asked_for_only_where_the_log_tells_steps(read):
    line = "epoch=0/micro_step=9/global_step=9, RunningAvgSamplesPerSec=4.0, CurrSamplesPerSec=4.0, MemAllocated=6GB\n"
    (without,), (ended,) = (
        read(text).doubts
        for text in (line, "{'train_runtime': 9.0, 'train_samples_per_second': 4.0, 'train_steps_per_second': 0.5}")
    )
    assert "cannot settle it" in without and "--batch-tokens with the mean tokens of a step would settle it" in ended
    assert read(line, batch=4096).doubts == (without,)


RECORDS = [
    ({"train_runtime": 100.0, "train_tokens_per_second": 500.0, "train_samples_per_second": 3.0, "epoch": 1.0}, 4000),
    ({"train_runtime": "100.0", "train_samples_per_second": "3.0", "num_input_tokens_seen": "5000"}, 50),
    ({"epoch": 1.0, "effective_tokens_per_sec": 812.5, "train_runtime": 60.0, "train_samples_per_second": 3.0}, 6500),
    ({"train/loss": 1.0, "throughput/tokens_per_sec": 1e5, "_wandb": {"runtime": 5}}, 1e5),
    ({"train": {"tokens_per_second_per_gpu": 100.0}, "_step": 3}, 800),
    ({"tok_per_sec": 12345.0}, 12345),
    ({"perf/tokens_per_second": 12345.0, "loss/total": 2.0}, 12345),
    ({"train_step_timing in s": 2.0, "global_batch_size": 16, "tflops_per_sec_per_gpu": 200.0}, 16384),
    ({"step": 4, "step_time": 0.5, "batch_tokens": 1000}, 2000),
    ({"runtime_info/tgs": 500.0, "time/step_time": 2.0, "runtime_info/text_tokens": 1000}, 4000),
    (
        {"perf/step_time_seconds": 2.0, "perf/per_device_tokens_per_sec": 100.0, "perf/per_device_tflops_per_sec": 9.0},
        800,
    ),
]


@pytest.mark.parametrize(("record", "rate"), RECORDS)
@pytest.mark.parametrize("form", ["indented", "one line", "two lines", "printed"])
def test_records(read, record, rate, form):
    text = {
        "indented": json.dumps(record, indent=2),
        "one line": json.dumps(record),
        "two lines": json.dumps(record) + "\n" + json.dumps({"epoch": 2}) + "\n",
        "printed": f"  0%|  | 0/1 [00:00<?, ?it/s]\r{record}\n",
    }[form]
    assert read(text).tokens_per_second == pytest.approx(rate)


def test_the_sums_that_examples_print(read):
    text = (
        "***** train metrics *****\n  epoch                    =        3.0\n  total_flos               =  7724302GF\n"
        "  train_runtime            = 0:01:40.00\n  train_samples_per_second =      4.0\n  train_steps_per_second   =      0.5\n"
    )
    assert read(text, batch=1000).tokens_per_second == 500
    assert read(text, devices=1, non_embedding_parameters=2e9).tokens_per_second == pytest.approx(
        7724302e9 / 12e9 / 100
    )
    assert read(text).doubts


def test_a_bar_is_the_clock_of_what_counts_tokens(read):
    lines = [
        f"{n}%|# | {n}/90 [{n // 6:02d}:{n % 6}0<9:59,  9.9s/it]{{'loss': '2.1', 'num_input_tokens_seen': {n * 3000}}}"
        for n in range(10, 90, 10)
    ]
    assert read("\r".join(lines)).tokens_per_second == pytest.approx(300)


@pytest.mark.parametrize("ended", [False, True])
def test_a_clock_of_whole_seconds_is_read_over_longer_spans(read, ended):
    """Steps of 0.4 s, each logged: the bar shows the same second twice or thrice."""
    lines = ["  Total optimization steps = 400"]
    for n in range(1, 401):
        at = int(n * 0.4)
        lines.append(f"  1%|# | {n}/400 [{at // 60:02d}:{at % 60:02d}<9:59,  2.5it/s]{{'loss': 2.1, 'epoch': 0.1}}")
        if n % 100 == 0:
            lines += [f"  50%|# | {k}/900 [00:{k:02d}<00:05,  1.0it/s]" for k in range(5)] + [
                "{'eval_loss': 2.0, 'eval_runtime': 5.0}"
            ]
    if ended:
        lines.append("{'train_runtime': 900.0, 'train_samples_per_second': 1.0, 'train_steps_per_second': 0.44}")
    assert read("\r".join(lines), batch=1000).tokens_per_second == pytest.approx(2500, rel=0.03)
    assert read("\r".join(lines[:20]), batch=1000).tokens_per_second == pytest.approx(2500, rel=0.2)


def test_every_rank_writes_the_same_file(read):
    rows = [
        {"step": n, "rank": rank, "metrics": {"throughput(tps)": 1000 + rank}} for n in range(1, 9) for rank in range(4)
    ]
    found = read("\n".join(map(json.dumps, rows)))
    assert (found.kind, found.readings, found.tokens_per_second) == ("torchtitan", 7, 8000)


def test_headers_state_length_and_batch(read):
    titan = "Trainer is initialized with local batch size 8, global batch size 64, gradient accumulation steps 1, sequence length 8192, total steps 9.\nstep: 1 loss: 7 tps: 10\n"
    with pytest.raises(DataError, match="reports 8,192 tokens in a sequence, not 2,048"):
        read(titan)
    chat = "Tokens / micro-batch / rank: 32 x 2048 = 65,536\nTokens / micro-batch: 524,288\nstep 00001/9 (1%) | loss: 1 | dt: 1.0ms | tok/sec: 9\n"
    with pytest.raises(DataError, match="reports 8 devices, not 4"):
        read(chat, devices=4)
    two = "".join(f"tokens per iteration will be: {n}\niter 1: loss 3, time 9.00ms, mfu 3%\n" for n in (1000, 2000))
    with pytest.raises(
        DataError, match=r"reports 1,000 and 2,000 tokens in a step, keep the lines of one run \(line 1, 3\)"
    ):
        read(two)
    total = "Total batch size 524,288 => gradient accumulation steps: 1\nstep 00001/9 (1%) | loss: 1 | dt: 1.0ms | tok/sec: 9\n"
    with pytest.raises(DataError, match="reports 524,288 tokens in a step, not 1,000"):
        read(total, batch=1000)


def test_columns_of_a_table(read):
    rows = "step;step_time_ms;tokens\n" + "".join(f"{n};{500 + n % 2};1000\n" for n in range(9))
    assert read(rows).tokens_per_second == pytest.approx(1000 / 0.5005, rel=0.002)
    clock = [10.0, 12.0, 14.0, 16.0, 1.0, 3.0, 5.0, 7.0]  # the process was started again
    rows = "step,time,tokens\n" + "".join(f"{n},{at},{n * 4000}\n" for n, at in enumerate(clock))
    assert read(rows).tokens_per_second == 2000
    rows = "step,time,tokens\n1,1.0,4000\n2,1.1,4000\n3,1.2,4000\n"
    assert read(rows).tokens_per_second == pytest.approx(4000 / 1.15, rel=0.01)
    rows = "iter\ttime\ttokens_per_second\n" + "".join(f"{n}\t{n * 3.5}\t700\n" for n in range(1, 9))
    assert read(rows).tokens_per_second == 700
    rows = "step,seconds\n" + "".join(f"{n},2.0\n" for n in range(9))
    assert read(rows, batch=1000).tokens_per_second == 500
    with pytest.raises(DataError, match="add --batch-tokens"):
        read(rows)


@pytest.mark.parametrize(
    ("name", "role"),
    [
        ("tokens_per_sec", "rate"), ("train/tokens_per_second", "rate"), ("tok/s", "rate"), ("Tokens/sec", "rate"),
        ("throughput/device/tokens_per_sec", "device_rate"), ("tokens/sec/gpu", "device_rate"), ("tokens/s/p", "device_rate"),
        ("tokens_per_gpu_per_second", "device_rate"), ("train|device|tokens_per_sec", "device_rate"), ("tgs", "device_rate"),
        ("brisk-lake-3 - train/tok_per_sec", "rate"), ("eval/tokens_per_sec", None), ("val_tokens_per_sec", None),
        ("iteration-time/tokens_per_sec_per_replica", None), ("batch-size vs samples", None), ("brisk - tok_per_sec__MIN", None),
        ("perf/per_device_tflops", "of a step"), ("perf/per_device_tflops_per_sec", "tflops"), ("mfu(%)", "mfu"), ("perf/mfu", "mfu"), ("throughput(TFLOP/s/GPU)", "tflops"), ("time/token", "consumed"),
        ("throughput_tps_", "device_rate"), ("train_step_timing_in_s", "seconds"), ("mfu___", "mfu"),
        ("train|device|items_per_sec", "device_rate"), ("global/items_per_sec", "rate"),
        ("prompt_tokens", None), ("tokens", "amount"), ("tokens_per_expert", None), ("loss", None), ("learning_rate", None),
    ],
)  # fmt: skip
def test_what_names_mean(name, role):
    assert (meaning(name) or (None,))[0] == role


def test_a_number_that_was_not_logged_is_none(read):
    """Exports of histories write NaN where a step has no value."""
    lines = [{"_step": n, "tokens_per_second": 700.0 if n % 2 else float("nan")} for n in range(9)]
    assert read("".join(json.dumps(line) + "\n" for line in lines)).tokens_per_second == 700
    assert read("step,tokens_per_second\n1,700\n2,nan\n3,NaN\n4,700\n").tokens_per_second == 700


def test_whose_tokens_they_are_is_said(read):
    every = read("step 1 loss 3 tokens/s: 800\n")
    assert every.assumptions == ("the tokens/s are taken as those of all devices, by their name",)
    assert not every.doubts
    assert "tps is taken as tokens/s of one device" in read({"step": 1, "tps": 100.0}).doubts[0]
    assert not read({"step": 1, "tps": 100.0}, devices=1).doubts


def test_tokens_told_of_a_device_fit_the_batch(read):
    line = " iteration {n}/ 10 | elapsed time per iteration (ms): 1000.0 | tokens per GPU (tokens/s/GPU): 4096.0 | global batch size:    16 |\n"
    text = "".join(line.format(n=n) for n in range(1, 5))
    assert read(text).tokens_per_second == 32768
    for other in ({"devices": 16}, {"length": 4096}):
        with pytest.raises(
            DataError,
            match=r"tells \d\d,\d+ tokens/s, its sequences of .* --devices (8|16) or --sequence-length is wrong",
        ):
            read(text, **other)


def test_sequences_a_second_and_a_given_batch(read):
    line = " iteration: {n}/100  consumed_samples: {c}  total_loss: 1  time: 2.0 s/iter  data_time: 0.1 s/iter total_throughput: 4.0 samples/s lr: 1\n"
    text = "".join(line.format(n=n, c=8 * (n + 1)) for n in range(6))
    assert read(text).tokens_per_second == 4 * 2048
    assert read(text, batch=8000).tokens_per_second == 4000


def test_durations():
    assert seconds_of("1 day, 1:00:02") == 90002
    assert seconds_of("2m 19s") == 139
    assert seconds_of("0:01:40.50") == 100.5
    assert seconds_of(3) == 3
    assert seconds_of("soon") is None
