"""Diagnosis of a machine: its devices and packages, and what longcat misses."""

from __future__ import annotations

import importlib.util
import os
import platform
import re
import shutil
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

from longcat.distribution import install_command, requirements
from longcat.doctor.host import examine_disk, examine_machine
from longcat.doctor.network import examine_network, interfaces
from longcat.doctor.versions import judge
from longcat.environment import cann_version, driver_version

TORCH = "torch==2.13.0"
_FIRMWARE = Path("/usr/local/Ascend/firmware/version.info")


def examine(workspace: Path) -> dict[str, Any]:
    """Examine this machine.

    Returns:
        Sections of facts (`environment` with `packages`, `accelerator`, `machine`, `workspace`, `network`), `conclusion` (what
        runs here, in a sentence), `problems` and `notes`: sentences that each name the remedy, or what something means.
    """
    versions, problems = check_packages([TORCH, *requirements()])
    accelerator, npu, trouble = _accelerator(versions["torch"] is not None)
    cann, driver = cann_version(), driver_version()
    triple = versions["torch"], versions.get("torch-npu"), cann
    problems += trouble + check_triple(*triple, driver)
    disk, *of_disk = examine_disk(workspace)
    machine, *of_machine = examine_machine()
    network, of_network = examine_network(os.environ, interfaces())
    problems += of_disk[0] + of_machine[0] + of_network
    return {
        "environment": {
            "python": platform.python_version(),
            "platform": platform.platform(),
            "torch": triple[0],
            "torch_npu": triple[1],
            "cann": cann,
            "driver": driver,
            "firmware": _version_in(_FIRMWARE),
            "npu_smi": _npu_smi(),
            "pairing": judge(*triple)[0],
            "packages": versions,
        },
        "accelerator": {"npu": npu} | (accelerator or {}),
        "machine": machine,
        "workspace": disk,
        "network": network,
        "conclusion": _conclusion(accelerator, npu),
        "notes": of_disk[1] + of_machine[1],
        "problems": problems,
    }


def _conclusion(accelerator: dict[str, Any] | None, npu: str) -> str:
    """Say what runs on this machine."""
    if accelerator is None:
        return f"nothing can be trained here: torch is not installed ({install_command()})"
    what = f"{accelerator['processes']} x {accelerator['name']}"
    if accelerator["kind"] == "npu":
        return f"runs use Ascend: {what}"
    if accelerator["kind"] == "cuda":
        return f"no Ascend NPU ({npu}); runs use CUDA: {what}"
    return (
        f"no Ascend NPU ({npu}) and no CUDA device: runs use the CPU, which is enough for the presets smoke and tiny; its "
        f"MFU cannot be compared with A100s. On a machine with NPUs: {install_command('npu')}. To try Ascend's programs "
        f"here, without its speed: {install_command('emulator')}, then longcat emulate"
    )


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
                problems.append(f"{name} is not installed: {install_command()}")
            continue
        if not requirement.specifier.contains(installed, prereleases=True):
            problems.append(f"{name} {installed} is installed, {requirement.specifier} is needed: {install_command()}")
    return versions, problems


def check_triple(torch: str | None, torch_npu: str | None, cann: str | None, driver: str | None) -> list[str]:
    """List mismatches among torch, torch_npu, CANN and the driver; empty without torch_npu and driver."""
    problems = []
    if torch_npu is None:
        if driver is not None:
            problems.append(f"an Ascend driver is installed, torch_npu is not: {install_command('npu')}")
        return problems
    if problem := judge(torch, torch_npu, cann)[1]:
        problems.append(problem)
    if cann is None:
        problems.append("torch_npu is installed, CANN is not set up: source the set_env.sh of CANN's toolkit")
    if driver is None:
        problems.append("torch_npu is installed, the Ascend driver is not: install it, npu-smi info then lists devices")
    return problems


def _version_in(file: Path) -> str | None:
    """Return the version that a file of Ascend's driver or firmware says, if it is there."""
    try:
        match = re.search(r"^Version=(\S+)", file.read_text(errors="replace"), re.MULTILINE)
    except OSError:
        return None
    return match[1] if match else None


def _npu_smi() -> str | None:
    """Return the version of npu-smi, or why it gives none; None without it."""
    if not shutil.which("npu-smi"):
        return None
    lines = _output(["npu-smi", "info"])
    match = re.search(r"Version:?\s*(\S+)", "\n".join(lines))
    return match[1] if match else f"does not answer: {lines[0].strip() if lines else 'nothing is printed'}"


def _cuda_driver() -> str | None:
    if not shutil.which("nvidia-smi"):
        return None
    lines = _output(["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"])
    return lines[0].strip() if lines else None


def _output(command: list[str]) -> list[str]:
    """Return the lines that a program prints; none if it fails to start or to end."""
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=20, check=False).stdout.splitlines()
    except (OSError, subprocess.TimeoutExpired):
        return []


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
