"""The peak of a CPU, which runs of a workspace share."""

import pytest

from longcat import peak as peaks
from longcat.accelerator import Accelerator
from longcat.peak import PEAKS, largest_seen, peak

CPU = Accelerator("cpu", "some CPU", count=1, memory_bytes=1, supports_bf16=True)


def test_a_measurement_on_a_busy_machine_lowers_no_peak(tmp_path, monkeypatch):
    for measured, expected in ((404e9, 404e9), (126e9, 404e9), (500e9, 500e9), (1e9, 500e9)):
        monkeypatch.setattr(peaks, "measured_gemm_flops", lambda dtype, found=measured: found)
        assert peak(CPU, "fp32", tmp_path).flops == expected


def test_each_machine_and_type_has_a_peak_of_its_own(tmp_path):
    assert largest_seen(tmp_path, "one, fp32", 400e9) == 400e9
    assert largest_seen(tmp_path, "one, bf16", 90e9) == 90e9
    assert largest_seen(tmp_path, "other, fp32", 100e9) == 100e9
    assert largest_seen(tmp_path, "one, fp32", 100e9) == 400e9


@pytest.mark.parametrize("content", ["{", "[]", '{"one": null}', '{"one": "fast"}'])
def test_a_damaged_file_is_measured_anew(tmp_path, content):
    (tmp_path / PEAKS).write_text(content)
    assert largest_seen(tmp_path, "one", 2e9) == 2e9
    assert largest_seen(tmp_path, "one", 1e9) == 2e9
