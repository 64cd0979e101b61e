"""The largest product that was seen, wherever it was seen."""

from dataclasses import replace

import pytest

from longcat.benchmark.measurement import Measurement
from longcat.benchmark.products import largest_products
from longcat.benchmark.stage import summarise
from longcat.config import load_config
from longcat.costs.workload import longcat_workload

T = 1e12


def measurement(between, kernels=None, together=None, processes=2, kind="cpu"):
    operators = None
    if kernels is not None:
        operators = {"bandwidth": 1e9, "kernels": [
            {"name": name, "shape": "4 x 5 x 6", "flops_per_second": flops} for name, flops in kernels.items()
        ]} | ({} if together is None else {"together": together})  # fmt: skip
    return Measurement(
        window_seconds=[1.0, 1.0, 2.0], window_steps=2, window_peak_flops=between, batch_tokens=512,
        processes=processes, parallel={"expert": 1}, sequence_length=64, precision="fp32", ffn_experts_per_token=2.0,
        peak_memory_bytes=1, memory={}, breakdown=None, operators=operators, collectives=None, micro_batches=1, phase="sparse", device_memory_bytes=10**12, device_kind=kind,
        device_name="a CPU",
    )  # fmt: skip


def test_the_models_own_product_counts_beside_the_squares():
    found = largest_products([measurement([0.15 * T, 0.14 * T], {"GEMM 512": 0.067 * T, "head": 0.359 * T}, 0.2 * T)])
    assert found.alone == found.machine == found.per_process == 0.359 * T
    assert found.together == 0.2 * T
    assert found.machine_source == "head (4 x 5 x 6) by one process alone"
    assert "one process alone reached 0.359 TFLOP/s, of all 2 at once each 0.1" in found.disagreement


def test_all_processes_at_once_are_a_machine():
    found = largest_products([measurement([3.0 * T, 3.2 * T, 3.1 * T], {"GEMM 1024": 1.5 * T}, 2.9 * T)])
    assert (found.machine, found.per_process) == (3.2 * T, 1.6 * T)
    assert found.machine_source == "by its 2 processes at once"
    assert found.disagreement is None


def test_moments_that_differ_are_told():
    found = largest_products([measurement([1.0 * T, 3.2 * T], {"GEMM 1024": 1.5 * T}, 2.9 * T)])
    assert "the same product of all processes reached 1 and 3.2 TFLOP/s at different moments" in found.disagreement
    assert "one process alone" not in found.disagreement


def test_a_setting_of_the_sweep_counts_too():
    run, setting = measurement([1.0 * T], {"head": 0.5 * T}, 1.0 * T), measurement([1.8 * T], processes=4)
    found = largest_products([run, setting])
    assert (found.machine, found.processes) == (1.8 * T, 4)
    assert found.per_process == 0.5 * T


def test_an_accelerator_has_its_kernels_only():
    found = largest_products([measurement([], {"GEMM 8192": 280 * T, "head": 290 * T}, kind="npu")])
    assert found.per_process == 290 * T
    assert found.together is found.disagreement is None
    assert largest_products([measurement([], kind="npu")]).per_process is None


@pytest.mark.parametrize("between", [[0.2 * T, 0.1 * T], [0.1 * T, 0.5 * T]])
def test_no_product_on_the_page_is_above_the_peak(between):
    workload = longcat_workload(load_config("smoke").model, 2.0)
    timed = measurement(between, {"GEMM 512": 0.067 * T, "head": 0.359 * T}, 0.3 * T)
    speed, work, _, peak = summarise(workload, timed, "none")
    assert peak.flops == speed.peak_flops == max(0.359 * T, *between)
    assert "the largest fp32 product measured on this machine" in peak.source
    assert work.mfu == pytest.approx(work.tflops_per_device * 2 * T / peak.flops)
    # a setting of the sweep is counted by the same peak, though it measured no kernels
    swept = summarise(workload, replace(timed, operators=None), "none", largest_products([timed]))
    assert swept[3] == peak
