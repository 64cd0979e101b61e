"""torchair on the emulated device: its graphs are made in full and executed operator by operator.

torchair decomposes what `torch.compile` traced, optimises it and converts it to a graph of CANN's operators, so that an
operator it has no converter for is found here as on a device. CANN's engine would then compile and run that graph; in
its place the optimised trace runs with the emulator's kernels, which torchair itself offers as `debug.run_eagerly`.
"""

from __future__ import annotations

import importlib
from functools import wraps
from typing import Any


def install(_folder: str) -> None:
    """Let every compiler that torchair makes in this process execute its graphs operator by operator."""
    compiler = importlib.import_module("torchair.npu_fx_compiler")._NpuFxCompiler
    make = compiler.__init__

    @wraps(make)
    def executed_by_operator(self: Any, compiler_config: Any) -> None:
        compiler_config.debug.run_eagerly = True
        make(self, compiler_config)

    compiler.__init__ = executed_by_operator
