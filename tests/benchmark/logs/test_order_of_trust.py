"""Where the tokens of a log are taken from, and when that allows no verdict."""

import json
import re

import pytest

from longcat.benchmark.logs import LogContext, read_log
from longcat.errors import DataError

FSDP2 = (
    "INFO [2026-01-05 10:00:{n:02d}] >>  iteration {n:8d}/    2000 | consumed samples: {samples:10d} | consumed tokens: "
    "{tokens:10d} | elapsed time per iteration (ms): {ms:.2f} |{more} learning rate: 1.7E-07 | global batch size:     8 | lm "
    "loss: 3.300000E+00 | grad norm: 71.000 |\n"
)
TUNING = [(570, 7900.0), (1370, 1340.0), (2130, 990.0)]


def fsdp2(counts, more=""):
    return "".join(
        FSDP2.format(n=n, samples=8 * n, tokens=tokens, ms=ms, more=more)
        for n, (tokens, ms) in enumerate(counts, start=1)
    )


@pytest.fixture
def read(tmp_path):
    def run(text, name="train.log", **context):
        file = tmp_path / name
        file.write_text(text if isinstance(text, str) else json.dumps(text))
        return read_log(file, LogContext(**{"devices": 8, "sequence_length": 4096, **context}))

    return run


def test_the_counter_of_tokens_goes_before_the_batch(read):
    found = read(fsdp2(TUNING))
    assert found.tokens_per_second == pytest.approx((800 / 1.34 + 760 / 0.99) / 2)
    assert found.tokens_from == "the log's counter of tokens"
    assert "not 8 x 4,096" in found.assumptions[0]
    assert found.fine_tuning


def test_one_line_counts_the_mean_since_the_start(read):
    found = read(FSDP2.format(n=40, samples=320, tokens=30000, ms=1000.0, more=""))
    assert found.tokens_per_second == pytest.approx(750)


def test_a_batch_given_by_hand_gives_way_to_the_counter(read):
    found = read(fsdp2(TUNING), batch_tokens=32768)
    assert found.tokens_per_second < 800
    assert any("not --batch-tokens 32,768" in text for text in found.assumptions)


def test_packed_sequences_are_counted_alike(read):
    found = read(fsdp2([(32768 * n, 1800.0) for n in range(1, 6)]))
    assert found.tokens_per_second == pytest.approx(32768 / 1.8)
    assert (found.assumptions, found.doubts, found.fine_tuning) == ((), (), False)


@pytest.mark.parametrize("length", [2048, 8192])
def test_a_counter_tells_another_length(read, length):
    with pytest.raises(DataError, match=f"32,768 tokens in 8 sequences, 4,096 each, not --sequence-length {length:,}"):
        read(fsdp2([(32768 * n, 1800.0) for n in range(1, 6)]), sequence_length=length)


def test_a_log_that_contradicts_itself(read):
    with pytest.raises(DataError, match=r"contradicts itself: it counts [5-7]\d\d tokens/s and tells 24,000"):
        read(fsdp2(TUNING, " tokens/s: 24000.00 | mfu: 51.00 |"))
    right = read(fsdp2([(32768 * n, 2000.0) for n in range(1, 5)], " tokens/s: 16384.00 | mfu: 31.00 |"))
    assert right.told.mfu == pytest.approx(0.31)
    twice = fsdp2([(32768 * n, 2000.0) for n in range(1, 5)]).replace("batch size:     8", "batch size:    16")
    with pytest.raises(DataError, match="counter of sequences grows by 8 a step, its global batch is 16"):
        read(twice)


MEGATRON = (
    " iteration {n:8d}/  500 | consumed samples: {samples:12d} | elapsed time per iteration (ms): {ms:.1f} | throughput per GPU "
    "(TFLOP/s/GPU): 233.0 | learning rate: 1.0E-05 | global batch size:   128 | lm loss: 1.0E+01 |\n"
)


def megatron(first=1, last=5, ms=5600.0):
    return "".join(MEGATRON.format(n=n, samples=128 * n, ms=ms) for n in range(first, last))


def test_what_the_log_tells_of_its_speed_is_kept(read):
    found = read(megatron(), devices=16)
    assert found.told.tflops_per_device == 233.0
    assert "megatron" in found.told.conventions
    assert found.assumptions == ("every sequence has --sequence-length 4,096 tokens",)
    assert not found.doubts
    alone = "elapsed time per iteration (ms): 5600.0 | throughput per GPU (TFLOP/s/GPU): 233.0 | global batch size:   128 |\n"
    assert read(alone, devices=16).told.tflops_per_device == 233.0


def test_a_given_batch_has_to_fit_the_log(read):
    assert read(megatron(), batch_tokens=128 * 4096).tokens_per_second == pytest.approx(128 * 4096 / 5.6)
    with pytest.raises(DataError, match="128 sequences of 4,096 tokens in a step, not --batch-tokens 1,000"):
        read(megatron(), batch_tokens=1000)


def test_the_header_of_megatron_shows_fine_tuning(read):
    header = "  is_instruction_dataset .......................... True\n  seq_length ...................................... 4096\n"
    found = read(header + megatron())
    assert found.fine_tuning
    assert "shorter or padded" in found.doubts[0]
    given = read(header + megatron(), batch_tokens=100_000)
    assert given.tokens_per_second == pytest.approx(100_000 / 5.6)
    assert not given.doubts
    with pytest.raises(DataError, match="not --batch-tokens 9,999,999"):
        read(header + megatron(), batch_tokens=9_999_999)


def test_a_growing_batch(read):
    lines = [MEGATRON.format(n=n, samples=0, ms=1000.0 * n) for n in range(1, 9)]
    text = "".join(line.replace("size:   128", f"size: {16 * n}") for n, line in enumerate(lines, start=1))
    text = re.sub(r" consumed samples: +0 \|", "", text)
    assert read(text, sequence_length=1000).tokens_per_second == pytest.approx(16000)
    assert read(text, sequence_length=1000, batch_tokens=128000).tokens_per_second == pytest.approx(16000)


ALPACA = {"log_history": [{"total_flos": 7.7e17, "train_runtime": 11500.0, "train_samples_per_second": 68.0}]}


def test_a_trainer_that_counts_no_tokens(read):
    found = read(ALPACA, sequence_length=512)
    assert found.tokens_per_second == pytest.approx(68 * 512)
    assert "shorter or padded" in found.doubts[0]
    estimate = read(ALPACA, sequence_length=512, non_embedding_parameters=6.6e9)
    assert estimate.tokens_per_second == pytest.approx(7.7e17 / 6 / 6.6e9 / 11500)
    assert "sharded" in estimate.doubts[0]
    assert "13,527 tokens/s" in estimate.doubts[0]


def test_total_flos_are_the_tokens_of_one_device(read):
    state = {"log_history": [{"total_flos": 757432320, "train_runtime": 2.0, "train_samples_per_second": 20.0}]}
    found = read(state, devices=1, sequence_length=2048, non_embedding_parameters=98624)
    assert found.tokens_per_second == pytest.approx(640)
    assert "an estimate" in found.tokens_from
    assert not found.doubts


def test_adapters_are_recognised(read):
    line = "trainable params: 20,971,520 || all params: 7,262,703,616 || trainable%: 0.2888\n"
    log = (
        line
        + "{'train_runtime': 100.0, 'train_samples_per_second': 4.0, 'train_steps_per_second': 0.5, 'epoch': 1.0}\n"
    )
    found = read(log)
    assert found.trainable_parameters == 20971520
    assert found.fine_tuning
    assert found.doubts
    for trained, found in ((7_262_703_616, None), (7_262_703_616 // 8, None), (20_971_520, 20_971_520)):
        text = log.replace(line, f"  Number of trainable parameters = {trained:,}\n")
        assert read(text, non_embedding_parameters=7.1e9).trainable_parameters == found
        assert read(text, non_embedding_parameters=7.1e9).fine_tuning == bool(found)
    unknown = log.replace(line, "finetuning_type: lora\n")
    assert "give --trainable-parameters" in read(unknown, batch_tokens=1000).doubts[0]
    assert not read(unknown, batch_tokens=1000, trainable_parameters=2e7).doubts


def test_devices_follow_from_the_log_itself(read):
    line = "completed step: {n}, seconds: 6.0, TFLOP/s/device: 451.2, Tokens/s/device: 8192.0, total_weights: {weights}, loss: 6.7\n"
    text = "".join(line.format(n=n, weights=8 * 49152) for n in range(4))
    assert read(text).tokens_per_second == 8 * 8192
    with pytest.raises(DataError, match="that are 8 devices"):
        read(text, devices=4)
    assert "8 devices" in read(text, devices=16).doubts[0]
    padded = read("".join(line.format(n=n, weights=int(7.2 * 49152)) for n in range(4)))
    assert padded.assumptions == ("10% of the tokens are padding, which is counted",)
    pair = {"throughput/tokens_per_sec": 16000.0, "throughput/device/tokens_per_sec": 1000.0}
    with pytest.raises(DataError, match="reports 16 devices, not 8"):
        read(pair)
    assert read(pair, devices=16).tokens_per_second == 16000


def test_internevo_counts_tokens_too(read):
    line = "2023-07-07 12:29:{n:02d},636\tINFO -- tflops=189.8,step={n},loss=11.6,tgs (tokens/gpu/second)=4274.45,lr=6e-07,num_consumed_tokens={c},fwd_bwd_time=3.5\n"
    text = "".join(line.format(n=n, c=131072 * (n + 1)) for n in range(5))
    found = read(text)
    assert found.tokens_per_second == pytest.approx(8 * 4274.45)
    assert found.told.recomputation


def test_torchtitan_may_divide_by_another_peak(read):
    text = "Peak FLOPS used for computing MFU: 9.890e+14\nstep: 1 loss: 7 tps: 2,000 tflops: 98.9 mfu: 10.00%\n"
    found = read(text)
    assert (found.told.peak_tflops, found.told.mfu, found.told.tflops_per_device) == (
        989.0,
        pytest.approx(0.1),
        pytest.approx(98.9),
    )
