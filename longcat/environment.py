"""What a run's bytes depend on besides its configuration, code and input: packages, interpreter and machine."""

from __future__ import annotations

import os
import platform
import re
import shutil
import sys
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any

from longcat.accelerator import EMULATED, choose, cpu_facts
from longcat.artifact import write_json
from longcat.distribution import NAME
from longcat.errors import DeviceError

_ROOTS = (NAME, "torch", "torch-npu")
_VECTORS = re.compile(r"(avx|amx|fma|f16c|sse4|sve|asimd|bf16|i8mm|vsx)")
"""Beginnings of the flags of a CPU that products of matrices are chosen by."""
_CANN_HOMES = ("ASCEND_TOOLKIT_HOME", "ASCEND_HOME_PATH")
_DRIVER = Path("/usr/local/Ascend/driver/version.info")


def environment(accelerator: str) -> dict[str, Any]:
    """Describe this process' surroundings, as JSON values.

    Args:
        accelerator: the one that the configuration asks for; it is described if this process computes, that is, has torch.

    Returns:
        `python`, `libc`, `packages` (versions by name) and `machine`.
    """
    name, flags = cpu_facts()
    return {
        "python": platform.python_version(),
        "libc": " ".join(platform.libc_ver()).strip(),
        "packages": packages(),
        "machine": {
            "architecture": platform.machine(),
            "processor": name,
            "vector_flags": sorted(flag for flag in flags if _VECTORS.match(flag)),
            "cores": os.cpu_count(),
            "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS"),
            "accelerator": _accelerator(accelerator),
            "cann": cann_version(),
            "driver": driver_version(),
        },
    }


def write_environment(journal: Path, accelerator: str) -> Path:
    """Describe this process' surroundings in a file beside a journal; returns its path."""
    path = journal.with_suffix(".environment.json")
    write_json(path, environment(accelerator))
    return path


@lru_cache(maxsize=1)
def packages() -> dict[str, str]:
    """Return the versions of the installed packages that longcat needs, directly or indirectly, extras left out."""
    from packaging.requirements import InvalidRequirement, Requirement
    from packaging.utils import canonicalize_name

    found: dict[str, str] = {}
    waiting, seen = list(_ROOTS), set(_ROOTS)
    for name in waiting:
        try:
            distribution = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            continue
        if name != NAME:
            found[name] = distribution.version
        for text in distribution.requires or ():
            try:
                needed = Requirement(text)
            except InvalidRequirement:
                continue
            called = canonicalize_name(needed.name)
            if called not in seen and (needed.marker is None or needed.marker.evaluate({"extra": ""})):
                seen.add(called)
                waiting.append(called)
    return dict(sorted(found.items()))


def cann_version() -> str | None:
    """Return the version of the CANN toolkit in the environment, its folder if the version is unreadable, or None."""
    home = next((os.environ[name] for name in _CANN_HOMES if os.environ.get(name)), None)
    if home is None:
        return None
    candidates = [*sorted(Path(home).glob("*/ascend_toolkit_install.info")), Path(home, "version.cfg")]
    for file in candidates:
        if file.is_file() and (match := re.search(r"version=\[?([\w.]+)", file.read_text(errors="replace"))):
            return match[1]
    return home


def driver_version() -> str | None:
    """Return the version of the Ascend driver; None without one."""
    if EMULATED in os.environ:
        return "emulated: longcat emulate"
    if _DRIVER.is_file() and (match := re.search(r"Version=(\S+)", _DRIVER.read_text(errors="replace"))):
        return f"Ascend {match[1]}"
    if shutil.which("npu-smi"):
        return "Ascend, version unknown"
    return None


def _accelerator(request: str) -> dict[str, Any] | None:
    if "torch" not in sys.modules:
        return None
    try:
        chosen = choose(request)
    except DeviceError:
        return None
    return {"kind": chosen.kind, "name": chosen.name, "count": chosen.count, "bf16": chosen.supports_bf16}
