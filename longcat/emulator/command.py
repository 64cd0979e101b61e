"""`longcat emulate -- python train.py`: run a program with the emulated Ascend NPU."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from longcat.emulator.build import build
from longcat.emulator.hook import LIBRARIES
from longcat.emulator.wheel import Wheel, device_names, examine, find_python
from longcat.errors import DeviceError, UserError

SITE = Path(__file__).resolve().parent / "site"
MOST_DEVICES = 32
"""What torch_npu is compiled for."""
SETTINGS = {"ASCEND_EMULATED_DEVICES": "8", "ASCEND_EMULATED_SOC": "Ascend910B2", "ASCEND_EMULATED_MEMORY_MB": "65536"}
"""Default settings of the emulation; the memory is per device."""

EXPLAIN = ("python", "-m", "longcat.emulator.explain")
"""Program that says where an operator's numbers come from."""


def emulate(command: Sequence[str], python: str | None = None) -> None:
    """Replace this process by the program, with an emulated Ascend NPU; does not return.

    Raises:
        DeviceError: no environment with a fitting torch_npu, no compiler, or settings that make no sense.
        UserError: no such program.
    """
    check_settings(os.environ)
    wheel = examine(find_python(python))
    check_device_name(wheel, os.environ.get("ASCEND_EMULATED_SOC"))
    variables = environment(wheel, build(wheel), os.environ)
    program = shutil.which(command[0], path=variables["PATH"])
    if program is None:
        raise UserError(f"{command[0]}: no such program, neither in {wheel.python.parent} nor on PATH")
    print(banner(variables), file=sys.stderr, flush=True)
    os.execve(program, [command[0], *command[1:]], variables)  # nosec B606 # the program that the user names


def check_settings(variables: Mapping[str, str]) -> None:
    """Refuse settings that are not whole numbers within their range."""
    for name, most in (("ASCEND_EMULATED_DEVICES", MOST_DEVICES), ("ASCEND_EMULATED_MEMORY_MB", 1 << 20)):
        text = variables.get(name) or "1"
        if not text.isdecimal() or not 1 <= int(text) <= most:
            raise DeviceError(f"{name}={text}: a whole number from 1 to {most:,} is wanted")


def check_device_name(wheel: Wheel, name: str | None) -> None:
    """Refuse the name of a device that torch_npu does not know, with the names that it does."""
    if name in (None, "", SETTINGS["ASCEND_EMULATED_SOC"]):
        return
    known = device_names(wheel)
    if name not in known:
        raise DeviceError(f"ASCEND_EMULATED_SOC={name}: torch_npu {wheel.torch_npu_version} knows {', '.join(known)}")


def environment(wheel: Wheel, libraries: Path, variables: Mapping[str, str]) -> dict[str, str]:
    """Return the environment variables by which torch_npu finds the emulated NPU; child processes inherit them."""
    changed = {
        **SETTINGS,
        "TASK_QUEUE_ENABLE": "0",  # an operator's error is raised where it is called
        **{name: value for name, value in variables.items() if value or name not in SETTINGS},
        LIBRARIES: str(libraries),
        "LD_LIBRARY_PATH": _before(str(libraries), variables.get("LD_LIBRARY_PATH")),
        "PATH": _before(str(wheel.python.parent), variables.get("PATH")),
        "PYTHONPATH": _before(str(SITE), variables.get("PYTHONPATH")),
        "ASCEND_HOME_PATH": str(libraries),
        "ASCEND_OPP_PATH": str(libraries / "opp"),
        "VIRTUAL_ENV": str(wheel.python.parent.parent),
    }
    for name in ("TORCH_DEVICE_BACKEND_AUTOLOAD", "PYTHONHOME", "ASCEND_TOOLKIT_HOME"):
        changed.pop(name, None)  # another environment's, or an installed CANN's
    return changed


def banner(variables: Mapping[str, str]) -> str:
    """Return the line that is printed first: what is emulated, and its limits."""
    devices, name, memory = (variables[setting] for setting in SETTINGS)
    return (
        f"longcat emulate: {devices} x {name} with {int(memory) / 1024:g} GB each are emulated on the CPU; "
        "no time measured here says anything about an Ascend"
    )


def _before(first: str, others: str | None) -> str:
    return os.pathsep.join(filter(None, [first, others]))
