"""Import hook that begins the record as soon as a program has imported torch."""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import importlib.util
import os
import sys
from collections.abc import Sequence
from types import ModuleType

FOLDER = "LONGCAT_PORT_FOLDER"
"""Environment variable with the folder of the records; nothing is recorded without it."""
SIDE, STEPS, SEED = "LONGCAT_PORT_SIDE", "LONGCAT_PORT_STEPS", "LONGCAT_PORT_SEED"
ORIGINAL, PLAIN, REWRITE = "original", "plain", "rewrite"
"""Sides: the original with a CUDA that is computed by the CPU, the original without any, and the rewrite."""
_NPU = "torch_npu"


def watch_for_torch() -> None:
    """Begin the record at the end of the first `import torch` of this process."""
    if os.environ.get(FOLDER) and "torch" not in sys.modules:
        sys.meta_path.insert(0, _Finder())
        if os.environ[SIDE] != REWRITE:
            _hide_torch_npu()


def _hide_torch_npu() -> None:
    """Make torch_npu look as if it were not installed, which the original knows nothing of."""
    find = importlib.util.find_spec

    def find_other(name: str, package: str | None = None) -> importlib.machinery.ModuleSpec | None:
        return None if name == _NPU else find(name, package)

    importlib.util.find_spec = find_other


class _Finder(importlib.abc.MetaPathFinder):
    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name == _NPU and os.environ[SIDE] != REWRITE:
            raise ModuleNotFoundError(f"No module named {_NPU!r}", name=_NPU)
        if name != "torch":
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader)
        return spec


class _Loader(importlib.abc.Loader):
    """Loader that runs the module's own loader and then begins the record."""

    def __init__(self, loader: importlib.abc.Loader) -> None:
        self.loader = loader

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        return self.loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self.loader.exec_module(module)
        from longcat.port.witness.recorder import begin, keep_modes

        keep_modes()  # before anybody has taken `checkpoint` from its module
        if os.environ[SIDE] == ORIGINAL:
            from longcat.port.witness.stand_in import install

            install()
        begin()
