"""The device: Ascend NPU, CUDA GPU or CPU. The only file that names a device API or a collective backend.

An accelerator is chosen once per process (`choose`), asked for its facts, and passed down.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import platform
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal, cast

from longcat.distribution import install_command
from longcat.errors import DeviceError
from longcat.memory_limit import memory_bytes

if TYPE_CHECKING:
    import torch

Kind = Literal["npu", "cuda", "cpu"]

BACKENDS: dict[Kind, str] = {"npu": "hccl", "cuda": "nccl", "cpu": "gloo"}
"""Backends of torch.distributed by device kind; names of their collectives in a trace begin with the backend's name."""
HOST_BACKEND = "gloo"
"""Backend for what lies in the host's memory, whatever the device."""
EMULATED = "ASCEND_EMULATOR_LIBRARIES"
"""Environment variable that is set under `longcat emulate`."""
NO_TORCH_NPU = "torch_npu is not installed"
_CPU_BF16_FLAGS = {"avx512_bf16", "amx_bf16", "bf16"}


@dataclass(frozen=True)
class Accelerator:
    """Properties of the device that training runs on, and the calls that differ between device kinds."""

    kind: Kind
    name: str
    """Model name as the driver reports it, for example `NVIDIA A100-SXM4-80GB` or `Ascend910B2`."""
    count: int
    """Devices on this machine; for a CPU the number of training processes to start (its cores, at most 2)."""
    memory_bytes: int
    """Memory of one device; for a CPU the memory of the machine."""
    supports_bf16: bool
    """Whether bf16 matrix products run in hardware."""

    @property
    def repeats_bits(self) -> bool:
        """Return whether the same computation gives the same bits each time.

        On CUDA the gradient of torch's fastest attention, cuDNN's, is added up in any order, which no switch changes (PyTorch's
        notes on randomness).
        """
        return self.kind != "cuda"

    @property
    def backend(self) -> str:
        """Return the torch.distributed backend for collectives."""
        return BACKENDS[self.kind]

    def device(self, local_rank: int = 0) -> torch.device:
        """Return the torch device of the process with this local rank."""
        import torch

        return torch.device("cpu") if self.kind == "cpu" else torch.device(self.kind, local_rank)

    def activate(self, local_rank: int = 0) -> torch.device:
        """Make the device of this process current and return it."""
        if self.kind != "cpu":
            _runtime(self.kind).set_device(local_rank)
        return self.device(local_rank)

    def compute_repeatably(self) -> None:
        """Let an NPU's operators compute the same bits each time, in the whole process; others do so already, or cannot."""
        if self.kind == "npu":
            import torch

            torch.use_deterministic_algorithms(True, warn_only=True)
            torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]

    def synchronize(self) -> None:
        """Wait until the device has finished all queued work."""
        if self.kind != "cpu":
            _runtime(self.kind).synchronize()

    def stream(self) -> AbstractContextManager[Any]:
        """Return a context whose work is queued on a second stream, beside the main one; no effect on a CPU."""
        if self.kind == "cpu":
            return nullcontext()
        runtime = _runtime(self.kind)
        return cast(AbstractContextManager[Any], runtime.stream(runtime.Stream()))

    def mark(self) -> Any:
        """Record a point in the device's queue without waiting for it; see `seconds`."""
        if self.kind == "cpu":
            return time.perf_counter()
        event = _runtime(self.kind).Event(enable_timing=True)
        event.record()
        return event

    def seconds(self, begin: Any, end: Any) -> float:
        """Return the device time in seconds between two marks; waits until the second one is reached."""
        if self.kind == "cpu":
            return float(end - begin)
        end.synchronize()
        return float(begin.elapsed_time(end)) / 1e3

    def autocast(self, dtype: torch.dtype) -> AbstractContextManager[Any]:
        """Return a context in which matrix products are computed in `dtype`."""
        import torch

        return torch.autocast(self.kind, dtype=dtype)

    def profiler(self) -> Any:
        """Return a profiler of host and device, to be used as a context; torch's, or torch_npu's own on an NPU."""
        import torch

        if self.kind == "npu":
            npu = importlib.import_module("torch_npu").profiler
            kinds = npu.ProfilerActivity
            return npu.profile(activities=[kinds.CPU, kinds.NPU])
        activities = [torch.profiler.ProfilerActivity.CPU]
        if self.kind == "cuda":
            activities.append(torch.profiler.ProfilerActivity.CUDA)
        return torch.profiler.profile(activities=activities)

    def peak_memory_bytes(self) -> int:
        """Return the peak memory of this process: allocated on a device, resident on a CPU."""
        if self.kind != "cpu":
            return int(_runtime(self.kind).max_memory_allocated())
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def choose(request: str = "auto") -> Accelerator:
    """Choose the accelerator of this machine for `request`: auto, npu, cuda or cpu.

    `auto` takes an NPU before a CUDA device before the CPU.

    Raises:
        DeviceError: the requested kind is not usable here; says what is missing.
    """
    if request not in ("auto", "npu", "cuda", "cpu"):
        raise DeviceError(f"unknown accelerator {request!r}; there are auto, npu, cuda and cpu")
    if request in ("auto", "npu"):
        problem = npu_problem()
        if problem is None:
            return _device("npu")
        if request == "npu":
            remedy = f"{install_command('npu')}; " if problem == NO_TORCH_NPU else ""
            raise DeviceError(f"accelerator npu: {problem}; {remedy}`longcat doctor` says more")
    if request in ("auto", "cuda"):
        if _cuda_available():
            return _device("cuda")
        if request == "cuda":
            raise DeviceError("accelerator cuda: this torch sees no CUDA device; `longcat doctor` says more")
    return _cpu()


@lru_cache(maxsize=1)
def npu_problem() -> str | None:
    """Return why no Ascend NPU can be used on this machine; None if one can."""
    if importlib.util.find_spec("torch_npu") is None:
        return NO_TORCH_NPU
    try:
        runtime = _runtime("npu")
    except (ImportError, OSError, RuntimeError) as error:
        return f"torch_npu cannot be imported, CANN or the driver may be missing ({error})"
    return None if runtime.is_available() else "torch_npu finds no device (npu-smi info lists what the driver sees)"


def npu_operator(name: str) -> Callable[..., Any]:
    """Return one of torch_npu's fused operators, such as `npu_rms_norm`; who has a tensor on an NPU has torch_npu."""
    import torch

    operator: Callable[..., Any] = getattr(torch.ops.npu, name)
    return operator


def compiler(kind: str) -> Any:
    """Return the backend of torch.compile for this kind of device: torch's own, and torchair's graph engine for an NPU."""
    if kind != "npu":
        return "inductor"
    import torch

    unconverted = {torch.ops.aten.silu_backward.default: _silu_gradient}
    return importlib.import_module("torchair").get_npu_backend(custom_decompositions=unconverted)


def _silu_gradient(gradient: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """Compute the gradient of x sigmoid(x) by operators that torchair converts."""
    wide = x.float()
    share = wide.sigmoid()
    return (gradient.float() * share * (1 + wide * (1 - share))).to(x.dtype)


_DETERMINISM: dict[Kind, dict[str, str]] = {
    "npu": {"HCCL_DETERMINISTIC": "true", "LCCL_DETERMINISTIC": "1", "CLOSE_MATMUL_K_SHIFT": "1"},
    "cuda": {"CUBLAS_WORKSPACE_CONFIG": ":4096:8"},
    "cpu": {},
}
"""Environment variables that libraries read when they are loaded, so they must be set before torch is imported."""


def environment(kind: Kind, processes: int) -> dict[str, str]:
    """Return the environment variables that training processes need before they import torch."""
    threads = {"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // processes))} if kind == "cpu" else {}
    return _DETERMINISM[kind] | threads


def _cuda_available() -> bool:
    import torch

    return torch.cuda.is_available()


def _runtime(kind: Kind) -> ModuleType:
    import torch

    if kind == "npu":
        importlib.import_module("torch_npu")
        # Ascend's private tensor formats: not every operator and collective takes them
        torch.npu.config.allow_internal_format = False  # type: ignore[attr-defined]
    runtime: ModuleType = getattr(torch, kind)
    return runtime


def _device(kind: Kind) -> Accelerator:
    runtime = _runtime(kind)
    properties = runtime.get_device_properties(0)
    name = str(runtime.get_device_name(0))
    return Accelerator(
        kind=kind,
        # a name that no table of hardware has: nothing measured is taken for an Ascend's
        name=f"{name} (emulated)" if kind == "npu" and EMULATED in os.environ else name,
        count=int(runtime.device_count()),
        memory_bytes=int(properties.total_memory),
        supports_bf16=bool(runtime.is_bf16_supported()),
    )


def _cpu() -> Accelerator:
    name, flags = cpu_facts()
    return Accelerator(
        kind="cpu",
        name=name,
        count=min(2, os.cpu_count() or 1),
        memory_bytes=memory_bytes(),
        supports_bf16=bool(_CPU_BF16_FLAGS & flags),
    )


def cpu_facts() -> tuple[str, set[str]]:
    """Return the model name and the instruction-set flags of the CPU."""
    name, flags = platform.processor() or platform.machine(), set[str]()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text().splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                name = value.strip()
            elif key.strip() in ("flags", "Features"):
                flags = set(value.split())
    return name, flags
