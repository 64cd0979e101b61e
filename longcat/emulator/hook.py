"""Import hook that completes torch_npu and its compiler, torchair, as soon as a program has imported them."""

from __future__ import annotations

import ctypes
import importlib
import importlib.abc
import importlib.machinery
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

_COMPLETED = {"torch_npu": "longcat.emulator.kernels", "torchair.npu_fx_compiler": "longcat.emulator.torchair"}
"""Modules of the wheel, and ours whose `install` completes each; it takes the folder of the built libraries."""
LIBRARIES = "ASCEND_EMULATOR_LIBRARIES"
"""Environment variable with the folder of the built libraries; set by `longcat emulate`."""


def watch_for_torch_npu() -> None:
    """Complete the wheel's modules at the end of their first import in this process."""
    if os.environ.get(LIBRARIES) and "torch_npu" not in sys.modules:
        sys.meta_path.insert(0, _Finder())


class _Finder(importlib.abc.MetaPathFinder):
    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name not in _COMPLETED:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader)
        return spec


class _Loader(importlib.abc.Loader):
    """Loader that runs the module's own loader and then completes the module."""

    def __init__(self, loader: importlib.abc.Loader) -> None:
        self.loader = loader

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        return self.loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        from longcat.emulator.build import CANN

        ctypes.CDLL(str(Path(os.environ[LIBRARIES]) / CANN), ctypes.RTLD_GLOBAL)  # behind what a program preloads
        self.loader.exec_module(module)
        importlib.import_module(_COMPLETED[module.__name__]).install(os.environ[LIBRARIES])
