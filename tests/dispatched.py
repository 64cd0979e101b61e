"""What torch's operators allocate and are called for, seen from below autograd."""

import weakref
from collections import Counter

import torch
from torch.distributed.tensor import DTensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Live(TorchDispatchMode):
    """Counts the bytes of the storages that operators have made since it began and that are still referred to.

    Attributes:
        bytes: now.
    """

    def __init__(self):
        super().__init__()
        self.bytes = 0
        self._seen = weakref.WeakKeyDictionary()

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        if any(issubclass(kind, DTensor) for kind in types):
            return NotImplemented
        result = function(*arguments, **(keywords or {}))
        for of in tree_leaves(result):
            if isinstance(of, torch.Tensor) and (storage := of.untyped_storage()) not in self._seen:
                size = self._seen[storage] = storage.nbytes()
                self.bytes += size
                weakref.finalize(storage, self._free, size)
        return result

    def _free(self, size):
        self.bytes -= size


class Operators(TorchDispatchMode):
    """Counts calls by the operator's name, without its overload.

    Attributes:
        calls: counter.
    """

    def __init__(self):
        super().__init__()
        self.calls = Counter()

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        self.calls[function.name().partition(".")[0]] += 1
        return function(*arguments, **(keywords or {}))
