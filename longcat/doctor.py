"""What this machine can do for longcat, and what is missing."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil

_PACKAGES = ("torch", "torch_npu", "prefect", "fastapi", "mlflow", "datasets", "tokenizers", "transformers", "lm_eval")
_CANN_HOMES = ("ASCEND_TOOLKIT_HOME", "ASCEND_HOME_PATH")


def examine(workspace: Path) -> dict[str, Any]:
    """Facts about this machine, and `problems`: a list of sentences, each with the remedy."""
    versions: dict[str, str | None] = {}
    for package in _PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = None
    problems = [
        f"{name} is not installed: run make setup"
        for name, found in versions.items()
        if found is None and name != "torch_npu"
    ]
    accelerator: dict[str, Any] | None = None
    npu = "torch_npu is not installed"
    if importlib.util.find_spec("torch") is not None:
        from longcat.accelerator import choose, npu_problem

        npu = npu_problem() or "usable"
        chosen = choose("auto")
        accelerator = {
            "kind": chosen.kind,
            "name": chosen.name,
            "processes": chosen.count,
            "bf16": chosen.supports_bf16,
            "memory_gb": round(chosen.memory_bytes / 1e9, 1),
        }
    torch, torch_npu = versions["torch"], versions["torch_npu"]
    if torch and torch_npu and torch.split("+")[0].split(".")[:2] != torch_npu.split(".")[:2]:
        problems.append(
            f"torch {torch} and torch_npu {torch_npu} do not belong together: install torch_npu {torch.split('+')[0]}"
        )
    home = next((os.environ[name] for name in _CANN_HOMES if os.environ.get(name)), None)
    if torch_npu and not home:
        problems.append("torch_npu is installed but CANN is not set up: source its set_env.sh")
    existing = next(path for path in (workspace, *workspace.parents) if path.exists())
    free = shutil.disk_usage(existing).free
    if free < 2e9:
        problems.append(f"{existing} has {free / 1e9:.1f} GB left: 2 GB are needed; choose another --workspace")
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cores": os.cpu_count(),
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "disk_free_gb": round(free / 1e9, 1),
        "accelerator": accelerator,
        "npu": npu,
        "cann": home or "not set up",
        "driver": "npu-smi found" if shutil.which("npu-smi") else "npu-smi not found",
        "versions": versions,
        "problems": problems,
    }
