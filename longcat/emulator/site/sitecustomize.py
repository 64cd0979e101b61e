"""Start-up code of every Python process under `longcat emulate`: it installs the import hook for torch_npu.

On PYTHONPATH, so that child processes (torchrun's workers, data loaders) do the same.
"""

import importlib.machinery
import importlib.util
import sys
from pathlib import Path

_HERE = Path(__file__).resolve().parent
_ROOT = _HERE.parents[2]

if importlib.util.find_spec("longcat") is None:  # an environment without longcat: behind all else, to shadow nothing
    sys.path.append(str(_ROOT))

from longcat.emulator.hook import watch_for_torch_npu  # noqa: E402

watch_for_torch_npu()

# the environment's own sitecustomize, which this one hides: the next on the path, as each of several calls only what follows
_place = max(number for number, entry in enumerate(sys.path) if Path(entry or ".").resolve() == _HERE)
_spec = importlib.machinery.PathFinder.find_spec("sitecustomize", sys.path[_place + 1 :])
if _spec is not None and _spec.loader is not None:
    _spec.loader.exec_module(importlib.util.module_from_spec(_spec))
