"""Import hook that installs the emulator's kernels in torch_npu as soon as a program has imported it."""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import os
import sys
from collections.abc import Sequence
from types import ModuleType

LIBRARIES = "ASCEND_EMULATOR_LIBRARIES"
"""Environment variable with the folder of the built libraries; set by `longcat emulate`."""


def watch_for_torch_npu() -> None:
    """Install the kernels at the end of the first `import torch_npu` of this process."""
    if os.environ.get(LIBRARIES) and "torch_npu" not in sys.modules:
        sys.meta_path.insert(0, _Finder())


class _Finder(importlib.abc.MetaPathFinder):
    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name != "torch_npu":
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader)
        return spec


class _Loader(importlib.abc.Loader):
    """Loader that runs the module's own loader and then installs the kernels."""

    def __init__(self, loader: importlib.abc.Loader) -> None:
        self.loader = loader

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        return self.loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self.loader.exec_module(module)
        from longcat.emulator.kernels import install

        install(os.environ[LIBRARIES])
