"""What the answer makes of a run: peaks, frozen weights, doubts and remarks."""

from dataclasses import replace

import pytest

from longcat.benchmark.logs.throughput import Throughput, Told
from longcat.benchmark.mfu_answer import Run, answer
from longcat.costs.decoder import sized_workload
from longcat.errors import DataError

DENSE = sized_workload(7e9, layers=32, hidden_size=4096, vocabulary=32000)
MIXTURE = sized_workload(3e9, layers=48, hidden_size=2048, vocabulary=150000, total_parameters=30e9)
A100 = Run("a100-80gb", 8, 2048)


def logged(rate, **facts):
    return Throughput(rate, 0.1, 9, "Megatron or MindSpeed", **facts)


def test_every_peak_of_an_npu_has_its_verdict():
    found = answer(DENSE, Run("Ascend910B2", 8, 4096), 37e3)
    first, *others = found["comparison"]["verdicts"]
    assert first["peak_flops"] == found["peak_flops"] == 353.8944e12
    assert 376e12 in [one["peak_flops"] for one in others]
    for one in others:
        assert one["mfu"] == pytest.approx(found["mfu"] * 353.8944e12 / one["peak_flops"])
    assert len(answer(DENSE, Run("Ascend910B2", 8, 4096, peak_tflops=376), 37e3)["comparison"]["verdicts"]) == 1


def test_frozen_weights_cost_less_and_are_no_pre_training():
    whole, adapters = (
        answer(DENSE, A100, 20e3),
        answer(DENSE, Run("a100-80gb", 8, 2048, trainable_parameters=2e7), 20e3),
    )
    assert 4 / 6 < adapters["mfu"] / whole["mfu"] < 0.72
    assert adapters["fine_tuning"]
    assert "frozen: 4 FLOP each" in adapters["assumptions"][-1]
    assert {row["task"] for row in adapters["comparison"]["matches"]} == {"fine-tuning"}
    assert adapters["comparison"]["word"] == "none"
    told = answer(DENSE, A100, 20e3, logged=logged(20e3, trainable_parameters=2e7))
    assert told["mfu"] == adapters["mfu"]
    assert answer(DENSE, A100, 20e3, logged=logged(20e3, fine_tuning=True))["comparison"]["word"] == "none"


def test_what_is_trained_is_asked_for():
    """A tool that mostly tunes models, and a log that does not show whether it did: a third of the FLOP may be missing."""
    unknown = logged(20e3, says_what_is_trained=False)
    found = answer(DENSE, A100, 20e3, logged=unknown)
    assert found["comparison"]["word"] == "none"
    assert "give --pre-training, --fine-tuning or --trainable-parameters" in found["comparison"]["verdict"]
    whole = answer(DENSE, A100, 20e3)["comparison"]
    assert answer(DENSE, replace(A100, fine_tuning=False), 20e3, logged=unknown)["comparison"] == whole
    for said in ({"fine_tuning": True}, {"trainable_parameters": 2e7}):
        assert answer(DENSE, replace(A100, **said), 20e3, logged=unknown)["doubts"] == []
    with pytest.raises(DataError, match="only 20,000,000 parameters are trained, which is no --pre-training"):
        answer(DENSE, replace(A100, fine_tuning=False), 20e3, logged=logged(20e3, trainable_parameters=2e7))


def test_scores_are_counted_for_the_sequences_that_were_seen():
    """Whatever the longest that was allowed: the scores of 32768 would be half of the FLOP."""
    short = answer(DENSE, A100, 20e3, logged=logged(20e3, mean_length=500.2))
    long = answer(DENSE, replace(A100, sequence_length=32768), 20e3, logged=logged(20e3, mean_length=500.2))
    assert short["mfu"] == long["mfu"] == answer(DENSE, replace(A100, sequence_length=500), 20e3)["mfu"]
    assert (short["sequence_length"], short["comparison"]["fair"]) == (500, long["comparison"]["fair"])


def test_an_impossible_mfu_says_where_the_tokens_are_from():
    with pytest.raises(DataError, match=r"an MFU of \d+ % is impossible.*; the tokens are from 64 sequences"):
        answer(DENSE, A100, 20e5, logged=logged(20e5, tokens_from="64 sequences a step x --sequence-length 2,048"))


def test_doubts_and_gaps_allow_no_verdict():
    fine = answer(DENSE, A100, 20e3, logged=logged(20e3))
    assert fine["comparison"]["word"] != "none"
    doubtful = answer(DENSE, A100, 20e3, logged=logged(20e3, doubts=("tokens are samples x length",)))
    assert doubtful["comparison"]["verdict"].startswith("no verdict, as an input is too uncertain: tokens are samples")
    agrees = Told(tflops_per_device=fine["tflops_per_device"], conventions=("megatron",))
    told = answer(DENSE, A100, 20e3, logged=logged(20e3, told=agrees))
    assert told["cross_check"]["ratio"] == pytest.approx(1)
    assert told["comparison"]["word"] == fine["comparison"]["word"]
    half = Told(tflops_per_device=fine["tflops_per_device"] / 2, conventions=("megatron",))
    gap = answer(DENSE, A100, 20e3, logged=logged(20e3, told=half))
    assert gap["comparison"]["word"] == "none"
    assert "--devices 8 is probably wrong, 16 would agree" in gap["comparison"]["verdict"]


def test_what_deserves_a_second_look_is_said():
    (die, high) = answer(MIXTURE, Run("Ascend910_9392", 16, 4096), 16 * 12e3)["remarks"]
    assert "one of the 2 dies of a package" in die
    assert "more than any published mixture" in high
    assert answer(MIXTURE, A100, 8e3)["remarks"] == []


def test_more_nodes_than_usual():
    run = Run("a100-80gb", 8, 2048, nodes=2)
    assert answer(DENSE, run, 20e3)["several_nodes"] is True
