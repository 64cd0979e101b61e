"""The log's own utilisation beside ours."""

import pytest

from longcat.benchmark.cross_check import cross_check
from longcat.benchmark.logs.throughput import Throughput, Told
from longcat.costs.conventions import side_by_side
from longcat.costs.families import from_config

LLAMA = from_config(
    {
        "model_type": "llama", "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32,
        "num_attention_heads": 32, "vocab_size": 32000,
    }
)  # fmt: skip
LENGTH = 4096


def check(factor=1.0, told=None, convention="megatron", tokens_from="sequences of --sequence-length", **options):
    """A run of 8 devices that tells what is true of `convention`, read as `factor` times as many tokens."""
    rate = 8 * 100e12 / side_by_side(LLAMA, LENGTH)[convention]
    told = told or Told(tflops_per_device=100.0, conventions=("megatron", "megatron_2021"))
    logged = Throughput(factor * rate, 0.0, 9, "Megatron", tokens_from=tokens_from, told=told)
    given = {"devices": 8, "sequence_length": LENGTH, "peak_flops": 312e12, "recomputation": "none"}
    return cross_check(LLAMA, logged, **(given | options))


@pytest.mark.parametrize("convention", ["megatron", "megatron_2021"])
def test_what_the_log_tells_agrees_by_its_own_convention(convention):
    found = check(convention=convention)
    assert found.agrees
    assert found.convention == convention
    assert found.ratio == pytest.approx(1)
    assert found.cause is None


def test_a_wrong_length_is_named():
    at_2048 = side_by_side(LLAMA, 2048)["megatron"]
    logged = Throughput(
        2 * 8 * 100e12 / at_2048, 0.0, 9, "Megatron", tokens_from="batch x --sequence-length",
        told=Told(tflops_per_device=100.0, conventions=("megatron",)),
    )  # fmt: skip
    found = cross_check(LLAMA, logged, devices=8, sequence_length=4096, peak_flops=312e12, recomputation="none")
    assert not found.agrees
    assert "the log tells 100 TFLOP/s a device" in found.doubt
    assert (
        "--sequence-length 4096 is probably wrong, 2048 would agree, and so would 16 --devices instead of 8"
        in found.doubt
    )


@pytest.mark.parametrize(
    ("factor", "said"),
    [
        (2.0, "--devices 8 is probably wrong, 16 would agree"),
        (0.5, "4 would agree"),
        (1.4, "one of --model, --devices"),
    ],
)
def test_other_inputs_are_named_where_tokens_are_counted(factor, said):
    found = check(factor, tokens_from="the log's consumed tokens")
    assert not found.agrees
    assert said in found.doubt
    of_one = check(factor, tokens_from="the tokens/s of one device that the log tells")
    assert of_one.doubt.endswith("times as much: --model is probably wrong"), "devices change nothing"


@pytest.mark.parametrize(("factor", "agrees"), [(1.24, True), (1.26, False), (0.81, True), (0.79, False)])
def test_a_gap_above_a_quarter_is_a_doubt(factor, agrees):
    assert check(factor, told=Told(tflops_per_device=100.0, conventions=("megatron",))).agrees == agrees


def test_an_mfu_is_of_its_tools_peak():
    assert check(told=Told(mfu=100 / 312, conventions=("megatron",))).agrees
    assert check(told=Told(mfu=100 / 989, peak_tflops=989.0, conventions=("megatron",)), peak_flops=None).agrees
    assert check(told=Told(mfu=0.3, conventions=("megatron",)), peak_flops=None) is None


def test_a_tool_may_count_recomputation_as_work():
    told = Told(tflops_per_device=100 * 4 / 3, conventions=("megatron",), recomputation=True)
    assert not check(told=told, recomputation="none").agrees
    assert check(told=told, recomputation="full").ratio == pytest.approx(1, rel=0.01)


def test_a_log_that_tells_nothing_is_not_checked():
    logged = Throughput(1000.0, 0.0, 9, "Megatron")
    assert cross_check(LLAMA, logged, devices=8, sequence_length=2, peak_flops=1e12, recomputation="none") is None


def test_other_devices_are_found_in_whichever_convention():
    """Of too many devices the largest convention comes nearest, which is not the one that the log was counted in."""
    told = Told(tflops_per_device=100.0, conventions=("megatron", "palm"))
    found = check(0.5, told=told, tokens_from="the log's consumed tokens")
    assert found.convention == "palm"
    assert "--devices 8 is probably wrong, 4 would agree" in found.doubt
