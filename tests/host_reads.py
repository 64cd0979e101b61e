"""Sees every time that the host waits to read something from the device, in both passes."""

from collections import Counter

import torch
from torch.utils._python_dispatch import TorchDispatchMode

METHODS = ("tolist", "numpy", "cpu")
"""These call no operator on a CPU."""
OPERATORS = {
    "_local_scalar_dense", "nonzero", "masked_select", "bincount", "_unique2", "unique_dim", "unique_consecutive", "equal",
}  # fmt: skip


class HostReads(TorchDispatchMode):
    """Counts reads while it is active: `reads`, by method or operator; a scalar's are all `_local_scalar_dense`."""

    def __init__(self):
        super().__init__()
        self.reads = Counter()

    def __enter__(self):
        for name in METHODS:
            setattr(torch.Tensor, name, self._counting(name))
        return super().__enter__()

    def __exit__(self, *error):
        super().__exit__(*error)
        for name in METHODS:
            delattr(torch.Tensor, name)  # what torch.Tensor inherits is left

    def _counting(self, name):
        inherited = getattr(torch.Tensor, name)

        def read(tensor, *args, **kwargs):
            self.reads[name] += 1
            return inherited(tensor, *args, **kwargs)

        return read

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__
        shaped_by_values = name == "repeat_interleave" and (kwargs or {}).get("output_size") is None
        masked = name.startswith("index") and any(
            index is not None and index.dtype in (torch.bool, torch.uint8)
            for index in (args[1] if isinstance(args[1], (list, tuple)) else ())
        )
        if name in OPERATORS or shaped_by_values or masked:
            self.reads[name] += 1
        return function(*args, **(kwargs or {}))
