"""What the installed torch_npu wheel registers: asked of the wheel itself, in its own environment, and remembered."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from longcat.disk import write_text
from longcat.emulator.build import build, cache_folder, cache_key
from longcat.emulator.command import environment
from longcat.emulator.hook import LIBRARIES
from longcat.emulator.wheel import examine, find_python
from longcat.errors import DeviceError

_PROBE = Path(__file__).resolve().parent / "probe.py"
_PROBE_S = 600.0
_CAPITAL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
_OF_OTHERS = set(dir(str) + dir(list) + dir(dict) + dir(set) + dir(bytes) + dir(object)) | {"cast", "mode", "cauchy"}


@dataclass(frozen=True)
class Support:
    """Operators of aten for which torch_npu has no kernel, and which of torch's functions call them."""

    version: str
    """For example `torch_npu 2.13.0`."""
    absent: frozenset[str]
    """aten operators without a kernel for the device, neither registered nor composed of others."""
    registered: frozenset[str]
    """aten operators with a kernel for the device."""
    calls: Mapping[str, tuple[str, ...]]
    """Functions of torch that call absent operators, forwards or backwards: `torch.lgamma` -> `aten::lgamma`, `aten::digamma`."""

    @property
    def source(self) -> str:
        """Return where this is read."""
        return f"{self.version}, dispatch registrations of PrivateUse1"

    def absent_in(self, full: str) -> tuple[str, ...]:
        """Return the absent operators that a function or module of torch calls, by its full name."""
        if full.startswith("torch.nn.") and full.rpartition(".")[2][:1].isupper():
            name = full.rpartition(".")[2]
            snake = _CAPITAL.sub("_", name).lower()
            for one in (snake, snake.replace("_", ""), name.lower()):
                if found := self.absent_in(f"torch.nn.functional.{one}"):
                    return found
            return ()
        if full in self.calls:
            return self.calls[full]
        parts = full.split(".")
        if parts[0] == "torch" and len(parts) == 2 and parts[1] in self.absent:
            return (f"aten::{parts[1]}",)
        if full.startswith("torch.nn.functional.") and parts[-1] in self.absent:
            return (f"aten::{parts[-1]}",)
        return ()

    def absent_in_method(self, name: str) -> tuple[str, ...]:
        """Return the absent operators that a method of tensors calls; none for names that others have, too."""
        if name in _OF_OTHERS:
            return ()
        base = name.removesuffix("_")
        return self.calls.get(f"torch.{base}") or ((f"aten::{name}",) if name in self.absent else ())

    def says(self, operator: str) -> str:
        """Return what the wheel has of an operator, such as `aten::digamma.out`, in a few words."""
        base = operator.removeprefix("aten::").partition(".")[0]
        if base in self.registered:
            return f"{self.version} registers it"
        return (
            f"{self.version} registers no kernel for it"
            if base in self.absent
            else f"{self.version} composes it of others"
        )


def read_support(python: str | None = None) -> Support:
    """Return what the wheel registers; the first time it is asked, which takes up to a minute.

    Args:
        python: of the environment with torch_npu; by default as `longcat emulate` finds it.

    Raises:
        DeviceError: there is no such environment, or its torch_npu cannot be imported.
    """
    wheel = examine(find_python(python))
    probe = _PROBE.read_bytes()
    kept = cache_folder().parent / "port" / f"{cache_key(wheel)}-{hash_of(probe)}.json"
    if not kept.is_file():
        variables = environment(wheel, build(wheel), os.environ)
        del variables["PYTHONPATH"], variables[LIBRARIES]  # the wheel as it is, without the emulator's kernels
        try:
            run = subprocess.run(
                [wheel.python, _PROBE],
                env=variables,
                capture_output=True,
                text=True,
                timeout=_PROBE_S,
                check=True,
                cwd="/",
            )
            found = json.loads(run.stdout.splitlines()[-1])
        except (OSError, subprocess.SubprocessError, ValueError, IndexError) as error:
            said = getattr(error, "stderr", None) or str(error)
            raise DeviceError(
                f"{wheel.python}: torch_npu does not say what it registers ({str(said).strip().splitlines()[-1]})"
            ) from error
        kept.parent.mkdir(parents=True, exist_ok=True)
        write_text(kept, json.dumps(found))
    found = json.loads(kept.read_text(encoding="utf-8"))
    calls = {name: tuple(operators) for name, operators in found["calls"].items()}
    return Support(
        f"torch_npu {wheel.torch_npu_version}", frozenset(found["absent"]), frozenset(found["registered"]), calls
    )


def hash_of(content: bytes) -> str:
    """Return a short hash."""
    import hashlib

    return hashlib.sha256(content).hexdigest()[:12]
