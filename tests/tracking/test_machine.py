"""What drivers' tools say of accelerators is read, whatever they leave out."""

import itertools
import time

from longcat.tracking import machine
from longcat.tracking.machine import ascend, nvidia, watched

NPU_SMI = """
+-------------------------------------------------------------------------------------------+
| npu-smi 24.1.rc2                 Version: 24.1.rc2                                        |
+----------------------+---------------+----------------------------------------------------+
| NPU   Name           | Health        | Power(W)    Temp(C)           Hugepages-Usage(page)|
| Chip                 | Bus-Id        | AICore(%)   Memory-Usage(MB)  HBM-Usage(MB)        |
+======================+===============+====================================================+
| 0     910B2          | OK            | 93.1        45                0    / 0             |
| 0                    | 0000:C1:00.0  | 87          0    / 0          32768/ 65536         |
+======================+===============+====================================================+
| 1     910B2          | OK            | 90.0        44                0    / 0             |
| 0                    | 0000:01:00.0  | 0           0    / 0          3161 / 65536         |
+======================+===============+====================================================+
| NPU     Chip         | Process id    | Process name             | Process memory(MB)      |
| 0       0            | 1234          | python                   | 29607                   |
+======================+===============+====================================================+
"""


def test_chips_of_ascend():
    figures = ascend(NPU_SMI)
    assert figures["gpu_0_utilization_percentage"] == 87
    assert figures["gpu_0_memory_usage_percentage"] == 50
    assert round(figures["gpu_1_memory_usage_megabytes"]) == round(3161 * 2**20 / 1e6)
    assert len(figures) == 6
    assert ascend("no device") == ascend("") == {}


def test_gpus_of_nvidia():
    figures = nvidia("0, 97, 40000, 80000, 612.5\n1, [N/A], 100, 80000, [Not Supported]\n")
    assert figures["gpu_0_utilization_percentage"] == 97 and figures["gpu_0_power_usage_watts"] == 612.5
    assert figures["gpu_0_memory_usage_percentage"] == 50
    assert "gpu_1_utilization_percentage" not in figures and "gpu_1_memory_usage_percentage" in figures
    assert nvidia("") == {}


def test_a_tool_that_fails_costs_its_figures_only(tmp_path, monkeypatch):
    for name, answer in (("nvidia-smi", "exit 9"), ("npu-smi", "echo rubbish")):
        tool = tmp_path / name
        tool.write_text(f"#!/bin/sh\n{answer}\n")
        tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    figures = machine.Machine(tmp_path).figures()
    assert "cpu_utilization_percentage" in figures and not [name for name in figures if name.startswith("gpu")]


def test_looks_are_numbered_and_the_last_one_is_at_the_end(tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "FIRST_S", 0.01)
    monkeypatch.setattr(machine, "SHARE", 0.0)
    looks, end = [], time.monotonic() + 60
    with watched(looks.append, tmp_path, itertools.count()):
        while len(looks) < 3:
            assert time.monotonic() < end
            time.sleep(0.01)
    steps = [{point[3] for point in points} for points in looks]
    assert steps == [{number} for number in range(len(looks))]
    count = len(looks)
    time.sleep(0.05)
    assert len(looks) == count
