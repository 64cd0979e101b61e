"""The environment with the torch_npu wheel: its Python, and the folders of torch and torch_npu."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from longcat.distribution import install_command
from longcat.errors import DeviceError

BESIDE = Path(__file__).resolve().parents[2] / ".venv-emulator" / "bin" / "python"
"""Environment that `make emulator` creates."""

_PROBE = """
import importlib.util, json
from importlib import metadata
facts = {}
for name in ("torch", "torch_npu"):
    spec = importlib.util.find_spec(name)
    if spec is not None and spec.origin:
        facts[name] = (spec.origin, metadata.version(name))
print(json.dumps(facts))
"""


@dataclass(frozen=True)
class Wheel:
    """Installation of torch and torch_npu in one environment."""

    python: Path
    torch: Path
    """Folder of the package torch."""
    torch_version: str
    torch_npu: Path
    torch_npu_version: str


def find_python(given: str | None = None) -> Path:
    """Find the Python of the emulator's environment: as given, ASCEND_EMULATOR_PYTHON, this one, or .venv-emulator's.

    Raises:
        DeviceError: no such Python exists.
    """
    chosen = given or os.environ.get("ASCEND_EMULATOR_PYTHON")
    if chosen:
        path = Path(chosen).expanduser()
        if not path.is_file():
            raise DeviceError(f"{'--python' if given else 'ASCEND_EMULATOR_PYTHON'} {chosen}: no such file")
        return path.absolute()  # not resolved: a link is what makes it an environment's
    if importlib.util.find_spec("torch_npu") is not None:
        return Path(sys.executable)
    if BESIDE.is_file():
        return BESIDE
    raise DeviceError(
        f"no environment with torch_npu: `{install_command('emulator')}` makes one; "
        "--python or ASCEND_EMULATOR_PYTHON names the Python of another"
    )


def examine(python: Path) -> Wheel:
    """Find torch and torch_npu in an environment, without importing them.

    Raises:
        DeviceError: torch or torch_npu is missing, or they do not belong together.
    """
    try:
        run = subprocess.run([python, "-c", _PROBE], capture_output=True, text=True, timeout=60, check=True, cwd="/")
        facts = json.loads(run.stdout.splitlines()[-1])
    except (OSError, subprocess.SubprocessError, ValueError, IndexError) as error:
        raise DeviceError(f"{python} does not run as a Python ({error})") from error
    for name in ("torch", "torch_npu"):
        if name not in facts:
            raise DeviceError(f"{python} has no {name}: `{install_command('emulator')}` makes an environment that has")
    (torch, torch_version), (npu, npu_version) = facts["torch"], facts["torch_npu"]
    if torch_version.split("+")[0].split(".")[:2] != npu_version.split(".")[:2]:
        raise DeviceError(
            f"{python}: torch {torch_version} and torch_npu {npu_version} do not belong together: "
            f"install torch {'.'.join(npu_version.split('.')[:3])}"
        )
    return Wheel(python, Path(torch).parent, torch_version, Path(npu).parent, npu_version)


def device_names(wheel: Wheel) -> list[str]:
    """List the names of devices that this torch_npu knows, as they stand in its library."""
    library = (wheel.torch_npu / "lib" / "libtorch_npu.so").read_bytes()
    return sorted(name.decode() for name in set(re.findall(rb"(?<=\0)Ascend\d{3}[\w-]*(?=\0)", library)))
