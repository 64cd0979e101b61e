"""Hardware by exact name, published rows worked out again, verdicts, and the report."""

import pytest

from longcat.accelerator import Accelerator
from longcat.benchmark.comparison import nearest, verdict
from longcat.benchmark.hardware import find_hardware, hardware_table, measured_gemm_flops, peak
from longcat.benchmark.mfu import utilisation
from longcat.benchmark.references import references
from longcat.benchmark.report import html, markdown, plot
from longcat.benchmark.workload import longcat_workload
from longcat.config import load_config
from longcat.errors import DataError


def device(kind, name):
    return Accelerator(kind, name, count=8, memory_bytes=1, supports_bf16=True)


def test_names_match_exactly_or_not_at_all():
    assert find_hardware("NVIDIA H200").bf16_flops == 989e12
    assert find_hardware("NVIDIA H20").bf16_flops == 148e12
    assert find_hardware("nvidia a100-sxm4-80gb").bf16_flops == 312e12
    assert find_hardware("Ascend910B4").bf16_flops == 245.76e12
    assert find_hardware("H20 something") is None
    assert peak(device("cuda", "NVIDIA Unheard-Of"), "bf16") is None
    names = [name.lower() for row in hardware_table() for name in (row.name, *row.aliases)]
    assert len(names) == len(set(names))


def test_a_cpus_peak_is_measured_and_said_so():
    found = peak(device("cpu", "some CPU"), "fp32")
    assert found.measured
    assert "measured" in found.source
    assert found.flops == measured_gemm_flops("fp32") > 1e9


def test_published_rows_can_be_worked_out_again():
    rows = references()
    assert len(rows) > 100
    off = [(row.model, row.mfu, row.rederived_mfu) for row in rows if abs(row.mfu - row.rederived_mfu) > 0.02]
    assert off == []


def test_nearest_rows_are_near():
    rows = nearest(13e9, 64, 2048, 4)
    assert len(rows) == 4
    assert all(5e9 < row.activated_parameters < 40e9 for row in rows)


def test_verdicts():
    rows = nearest(13e9, 64, 2048, 4)
    middle = sorted(row.mfu for row in rows)[2]
    assert verdict("npu", middle, rows)[0].startswith("within 15 %")
    assert verdict("npu", 0.1, rows)[0].startswith("outside 15 %")
    assert verdict("cpu", 0.5, rows)[0].startswith("not an accelerator")
    assert verdict("npu", None, rows)[1] is None


def use(**changes):
    values = {"tokens_per_second": 1e4, "devices": 2, "sequence_length": 256, "peak_flops": 4e11}
    return utilisation(longcat_workload(load_config("tiny").model, 2.0), **(values | changes))


def test_utilisation_scales_and_refuses_the_impossible():
    one, double = use(), use(tokens_per_second=2e4)
    assert double.mfu == pytest.approx(2 * one.mfu)
    assert one.mfu_full_attention > one.mfu
    assert use(peak_flops=None).mfu is None
    with pytest.raises(DataError, match="impossible"):
        use(tokens_per_second=1e9)


def test_recomputation_counts_for_the_hardware_only():
    none, selective, full = (use(recomputation=kind) for kind in ("none", "selective", "full"))
    assert none.mfu == selective.mfu == full.mfu == none.hfu
    parts = none.flops_per_token
    total = sum(parts.values())
    assert selective.hfu / none.mfu == pytest.approx(1 + parts["attention_scores"] / 3 / total)
    assert full.hfu / none.mfu == pytest.approx(1 + (total - parts["lm_head"]) / 3 / total)


def test_report_stands_alone():
    rows = [vars(row) for row in references()]
    result = {
        **vars(use()), "nearest": rows[:3], "verdict": "not an accelerator", "peak_flops": 4e11, "peak_source": "measured",
        "activated_parameters": 2e6, "device_kind": "cpu", "device_name": "a <CPU>", "processes": 2, "precision": "bf16",
        "sequence_length": 256, "batch_tokens": 2048, "window_seconds": [1.0, 1.1], "window_steps": 4, "spread": 0.1,
        "ffn_experts_per_token": 2.0, "peak_memory_bytes": 5e8,
    }  # fmt: skip
    page = html(result, plot(result, rows))
    assert "data:image/png;base64," in page
    assert "http" not in page.replace("http-equiv", "")
    assert rows[0]["model"] in page
    assert "| **this run** |" in markdown(result)
