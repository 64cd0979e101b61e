"""Diagnosis of a machine: its devices and packages, and what longcat misses."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil

from longcat.environment import cann_version, driver_version

TORCH = "torch==2.13.0"
_DISK_BYTES, _MEMORY_BYTES = 2e9, 4e9


def examine(workspace: Path) -> dict[str, Any]:
    """Return facts about this machine, and `problems`, a list of sentences that each name the remedy."""
    versions, problems = check_packages([TORCH, *(metadata.requires("longcat") or ())])
    accelerator, npu, trouble = _accelerator(versions["torch"] is not None)
    cann, driver = cann_version(), driver_version()
    existing = next(path for path in (workspace, *workspace.parents) if path.exists())
    free, memory = shutil.disk_usage(existing).free, psutil.virtual_memory().total
    problems += trouble + check_triple(versions["torch"], versions.get("torch-npu"), cann, driver)
    if not os.access(existing, os.W_OK):
        problems.append(f"{existing} cannot be written: choose another --workspace")
    if free < _DISK_BYTES:
        problems.append(f"{existing} has {free / 1e9:.1f} GB left: 2 GB are needed; choose another --workspace")
    if memory < _MEMORY_BYTES:
        problems.append(f"{memory / 1e9:.1f} GB of memory: the preset tiny needs 4 GB; try --preset smoke")
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cores": os.cpu_count(),
        "memory_gb": round(memory / 1e9, 1),
        "disk_free_gb": round(free / 1e9, 1),
        "accelerator": accelerator,
        "npu": npu,
        "cann": cann,
        "driver": driver,
        "versions": versions,
        "problems": problems,
    }


def node_facts(request: str) -> dict[str, Any]:
    """Return what a node says of itself when it joins others; see `longcat.processes.agreement`.

    Args:
        request: accelerator, as the configuration asks for it.

    Raises:
        DeviceError: this node does not have it.
    """
    from longcat.accelerator import choose
    from longcat.training.launchers import own_code

    def version(package: str) -> str | None:
        try:
            return metadata.version(package)
        except metadata.PackageNotFoundError:
            return None

    chosen = choose(request)
    cores = len(os.sched_getaffinity(0))
    if given := os.environ.get("SLURM_CPUS_ON_NODE", ""):
        cores = min(cores, int(given))
    return {
        "longcat": own_code(),
        "python": ".".join(platform.python_version_tuple()[:2]),
        "torch": version("torch"),
        "torch-npu": version("torch-npu"),
        "cann": cann_version(),
        "driver": driver_version(),
        "accelerator": chosen.kind,
        "device": chosen.name,
        "devices": chosen.count,
        "memory_bytes": chosen.memory_bytes,
        "bf16": chosen.supports_bf16,
        "cores": cores,
        "threads": os.environ.get("OMP_NUM_THREADS"),
    }


def check_packages(requirements: list[str]) -> tuple[dict[str, str | None], list[str]]:
    """Return the installed versions of required packages (without the extra `dev`), and problems with them."""
    from packaging.requirements import Requirement

    versions: dict[str, str | None] = {}
    problems = []
    for requirement in map(Requirement, requirements):
        optional = requirement.marker is not None and not requirement.marker.evaluate({"extra": ""})
        if optional and not requirement.marker.evaluate({"extra": "npu"}):  # type: ignore[union-attr]
            continue
        name = requirement.name
        try:
            versions[name] = installed = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = None
            if not optional:
                problems.append(f"{name} is not installed: run make setup")
            continue
        if not requirement.specifier.contains(installed, prereleases=True):
            problems.append(f"{name} {installed} is installed, {requirement.specifier} is needed: run make setup")
    return versions, problems


def check_triple(torch: str | None, torch_npu: str | None, cann: str | None, driver: str | None) -> list[str]:
    """List mismatches among torch, torch_npu, CANN and the driver; empty without torch_npu and driver."""
    problems = []
    if torch_npu is None:
        if driver is not None:
            problems.append("an Ascend driver is installed, torch_npu is not: run make setup EXTRAS=dev,npu")
        return problems
    if torch and torch.split("+")[0].split(".")[:2] != torch_npu.split(".")[:2]:
        problems.append(
            f"torch {torch} and torch_npu {torch_npu} do not belong together: install torch_npu {torch.split('+')[0]}"
        )
    if cann is None:
        problems.append("torch_npu is installed, CANN is not set up: source the set_env.sh of CANN's toolkit")
    if driver is None:
        problems.append("torch_npu is installed, the Ascend driver is not: install it, npu-smi info then lists devices")
    return problems


def _cuda_driver() -> str | None:
    if not shutil.which("nvidia-smi"):
        return None
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        lines = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False).stdout.splitlines()
    except (OSError, subprocess.TimeoutExpired):
        return None
    return lines[0].strip() if lines else None


def _accelerator(has_torch: bool) -> tuple[dict[str, Any] | None, str, list[str]]:
    """Return facts about the device that `auto` chooses, the state of NPUs, and problems."""
    if not has_torch or importlib.util.find_spec("torch") is None:
        return None, "torch is not installed", []
    from longcat.accelerator import choose, npu_problem

    npu = npu_problem() or "usable"
    chosen = choose("auto")
    problems = []
    cuda = _cuda_driver()
    if chosen.kind == "cpu" and cuda is not None:
        problems.append(
            f"an NVIDIA driver {cuda} is installed, but this torch cannot use it: "
            "run make clean setup TORCH_INDEX_URL=... with an index of CUDA builds"
        )
    facts = {
        "kind": chosen.kind,
        "name": chosen.name,
        "processes": chosen.count,
        "bf16": chosen.supports_bf16,
        "memory_gb": round(chosen.memory_bytes / 1e9, 1),
    }
    return facts, npu, problems
