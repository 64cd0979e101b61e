"""What the machine of a run is busy with, under the names of MLflow's system metrics, so that their page shows it.

It is looked at in a thread of the process that starts the training: processor, memory, disk, network, and the accelerators
as the tools of their drivers see them. In a run over several nodes it is this node's.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil

PREFIX = "system/"
FIRST_S, LONGEST_S = 5.0, 60.0
"""Pause between the first two looks, and the longest one."""
SHARE = 0.01
"""Pause as a share of the time since the first look, so that long runs have no more than some thousands of points."""
TOOL_S = 10.0
"""Longest wait for the answer of a driver's tool."""
_NVIDIA = ("nvidia-smi", "--query-gpu=index,utilization.gpu,memory.used,memory.total,power.draw", "--format=csv,noheader,nounits")  # fmt: skip
_ASCEND = ("npu-smi", "info")
_CHIP = re.compile(
    r"^\|\s*\d+\s+(?:\d+\s*)?\|\s*[0-9A-Fa-f]{4}:\S+\s*\|\s*(?P<core>\d+)\s+(?P<pairs>(?:\d+\s*/\s*\d+\s*)+)\|"
)
"""The second line of a chip in the table of `npu-smi info`: use of the AI cores, then pairs of used and all MB."""

Points = list[list[Any]]
"""Name, value, Unix time in milliseconds and step of each."""


@contextmanager
def watched(log: Callable[[Points], object], folder: Path, steps: Iterator[int]) -> Iterator[None]:
    """Look at the machine from time to time, and once more when the context ends.

    Args:
        log: gets the points of each look.
        folder: on the disk that is looked at.
        steps: gives each look its number.
    """
    machine, ended = Machine(folder), threading.Event()

    def watch() -> None:
        began, pause = time.monotonic(), 0.0
        while True:
            last = ended.wait(pause)
            step = next(steps)
            now = int(time.time() * 1000)
            figures = machine.figures()
            log([[PREFIX + name, value, now, step] for name, value in figures.items()])
            if last:
                return
            pause = min(LONGEST_S, max(FIRST_S, SHARE * (time.monotonic() - began)))

    thread = threading.Thread(target=watch, daemon=True, name="machine")
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join(TOOL_S)


class Machine:
    """A machine, seen from the time of construction on."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._tools = {tool: read for tool, read in ((_NVIDIA, nvidia), (_ASCEND, ascend)) if shutil.which(tool[0])}
        self._network = _network()
        psutil.cpu_percent()  # what it returns is since the last call

    def figures(self) -> dict[str, float]:
        """Return what can be seen now."""
        memory = psutil.virtual_memory()
        figures = {
            "cpu_utilization_percentage": psutil.cpu_percent(),
            "system_memory_usage_megabytes": memory.used / 1e6,
            "system_memory_usage_percentage": 100 * memory.used / memory.total,
        }
        with suppress(OSError):
            disk = psutil.disk_usage(str(self._folder))
            figures |= {
                "disk_usage_percentage": disk.percent,
                "disk_usage_megabytes": disk.used / 1e6,
                "disk_available_megabytes": disk.free / 1e6,
            }
        for name, count in _network().items():
            figures[f"network_{name}_megabytes"] = (count - self._network.get(name, 0)) / 1e6
        for tool, read in self._tools.items():
            with suppress(OSError, subprocess.SubprocessError, ValueError):
                answer = subprocess.run(tool, capture_output=True, text=True, timeout=TOOL_S, check=True)
                figures |= read(answer.stdout)
        return {name: round(value, 1) for name, value in figures.items()}


def nvidia(answer: str) -> dict[str, float]:
    """Read what nvidia-smi says of each GPU; what a GPU does not tell is left out."""
    figures: dict[str, float] = {}
    for line in answer.splitlines():
        number, *values = (part.strip() for part in line.split(","))
        known = {
            name: float(value)
            for name, value in zip(("use", "used", "all", "power"), values, strict=True)
            if re.fullmatch(r"[\d.]+", value)
        }
        figures |= _accelerator(number, known.get("use"), known.get("used"), known.get("all"))
        if "power" in known:
            figures[f"gpu_{number}_power_usage_watts"] = known["power"]
    return figures


def ascend(answer: str) -> dict[str, float]:
    """Read what npu-smi says of each chip, numbered in its order; of several kinds of memory the last one is HBM."""
    figures: dict[str, float] = {}
    chips = [found for line in answer.splitlines() if (found := _CHIP.match(line.strip()))]
    for number, chip in enumerate(chips):
        pairs = [(float(used), float(all_)) for used, all_ in re.findall(r"(\d+)\s*/\s*(\d+)", chip["pairs"])]
        used, all_ = next((pair for pair in reversed(pairs) if pair[1]), (None, None))
        figures |= _accelerator(str(number), float(chip["core"]), used, all_)
    return figures


def _accelerator(number: str, percent: float | None, used_mib: float | None, all_mib: float | None) -> dict[str, float]:
    """Name the figures of an accelerator as MLflow does those of a GPU."""
    figures = {} if percent is None else {f"gpu_{number}_utilization_percentage": percent}
    if used_mib is not None and all_mib:
        figures[f"gpu_{number}_memory_usage_megabytes"] = used_mib * 1.048576
        figures[f"gpu_{number}_memory_usage_percentage"] = 100 * used_mib / all_mib
    return figures


def _network() -> dict[str, int]:
    counted = psutil.net_io_counters()
    return {} if counted is None else {"receive": counted.bytes_recv, "transmit": counted.bytes_sent}
