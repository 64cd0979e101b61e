"""Efficiencies from a benchmark's result."""

import json
from dataclasses import replace

import pytest

from longcat.errors import DataError
from longcat.plan.calibration import calibrated
from longcat.plan.judge import judge
from tests.plan.models import laid
from tests.plan.models import of as setting_of


def result(device, share, half):
    def speed(m, k, n):
        return device.flops * share * m / (m + half) * k / (k + half) * n / (n + half)

    shapes = [(size, size, size) for size in (512, 1024, 2048, 4096, 8192)]
    kernels = [{"name": "product", "product": list(one), "flops": 1.0, "seconds": 1 / speed(*one)} for one in shapes]
    kernels.append(
        {"name": "attention, both passes", "flops": 1.0, "seconds": 1 / (0.4 * device.flops), "product": None}
    )
    link = {"axis": "tensor", "scope": "inside a node", "link_bytes": 1e9, "seconds": 1e9 / (0.8 * device.inside)}
    return {
        "operators": {"kernels": kernels, "bandwidth": 0.7 * device.bandwidth},
        "collectives": {"measured": [link]},
        "device_name": "NVIDIA A100-SXM4-80GB",
    }


def test_the_measured_curve_is_found_again(tmp_path):
    device = setting_of().device
    (tmp_path / "result.json").write_text(json.dumps(result(device, 0.8, 256.0)))
    found = calibrated(device, tmp_path).efficiency
    assert found.products == pytest.approx(0.8, rel=0.02)
    assert found.half_size == pytest.approx(256, rel=0.5)
    assert found.attention == pytest.approx(0.4)
    assert found.memory == pytest.approx(0.7)
    assert found.inside == pytest.approx(0.8)
    assert found.spread < device.efficiency.spread


def test_a_faster_machine_makes_a_faster_plan(tmp_path):
    kind = setting_of()
    times = []
    for share in (0.5, 0.9):
        (tmp_path / "result.json").write_text(json.dumps(result(kind.device, share, 128.0)))
        times.append(judge(replace(kind, device=calibrated(kind.device, tmp_path)), laid("tensor=2")).step.seconds)
    assert times[0] > times[1]


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"operators": {"kernels": []}}', '{"operators": {"kernels": [1, 2, 3]}}']
)
def test_other_files_are_refused(tmp_path, text):
    (tmp_path / "result.json").write_text(text)
    with pytest.raises(DataError, match="--calibration"):
        calibrated(setting_of().device, tmp_path)


def test_the_calibration_of_another_device_is_refused(tmp_path):
    device = setting_of().device
    (tmp_path / "result.json").write_text(json.dumps(result(device, 0.8, 256.0) | {"device_name": "AMD EPYC"}))
    with pytest.raises(DataError, match="was measured on AMD EPYC, not on A100 SXM 80GB"):
        calibrated(device, tmp_path)


@pytest.mark.parametrize("seconds", [-1.0, 0.0, float("nan"), float("inf"), "1", None])
@pytest.mark.parametrize("of", ["operators", "collectives"])
def test_times_that_cannot_be_are_refused(tmp_path, seconds, of):
    device = setting_of().device
    measured = result(device, 0.8, 256.0)
    for one in measured[of]["kernels" if of == "operators" else "measured"]:
        one["seconds"] = seconds
    (tmp_path / "result.json").write_text(json.dumps(measured))
    with pytest.raises(DataError, match="not the result of longcat benchmark"):
        calibrated(device, tmp_path)


@pytest.mark.parametrize("part", ["products", "attention", "bandwidth"])
def test_what_is_faster_than_the_device_is_not_its_calibration(tmp_path, part):
    device = setting_of().device
    measured = result(device, 1.2 if part == "products" else 0.8, 16.0)
    if part == "attention":
        measured["operators"]["kernels"][-1]["seconds"] /= 3
    if part == "bandwidth":
        measured["operators"]["bandwidth"] *= 2
    (tmp_path / "result.json").write_text(json.dumps(measured))
    with pytest.raises(DataError, match="and A100 SXM 80GB has 312"):
        calibrated(device, tmp_path)


def test_a_curve_never_goes_beyond_the_peak(tmp_path):
    """Small products that do well say nothing of large ones but that these are no faster than the peak."""
    device = setting_of().device
    measured = result(device, 0.8, 256.0)
    measured["operators"]["kernels"] = [
        {"name": "product", "product": [size] * 3, "flops": 1.0, "seconds": 1 / (share * device.flops)}
        for size, share in ((512, 0.1), (1024, 0.6), (2048, 0.6))
    ]
    (tmp_path / "result.json").write_text(json.dumps(measured))
    assert calibrated(device, tmp_path).efficiency.products <= 1
