"""Memory and work of a step as its operators have them, on real tensors as on those of a dry run."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import bmm_flop, flop_registry

_GATHERING = ("fsdp::split_with_sizes_copy", "aten::split_with_sizes_copy", "aten::cat")
"""Operators by which FSDP writes gathered weights to where they stay."""


class Observation(TorchDispatchMode):
    """Counts the bytes of storages that are referred to, and the FLOP of matrix products and attention.

    What an operator needs for itself is not seen, nor what a backend of collectives does. Storages count from the first
    operator that makes or takes them, or from `add`. Those that change their size are followed.

    Attributes:
        bytes: that live now.
        peak_bytes: most that have lived at once.
        flops: so far.
    """

    def __init__(self) -> None:
        super().__init__()
        self.bytes = self.peak_bytes = self.flops = 0
        self._sizes: weakref.WeakKeyDictionary[torch.UntypedStorage, list[int]] = weakref.WeakKeyDictionary()
        self._changing: weakref.WeakSet[torch.UntypedStorage] = weakref.WeakSet()
        self._gathered: weakref.WeakSet[torch.UntypedStorage] = weakref.WeakSet()

    def add(self, tensors: Iterable[Tensor]) -> int:
        """Count the storages of tensors that are there already; returns the bytes of those that were not known."""
        before = self.bytes
        for tensor in tensors:
            self._note(tensor.to_local() if isinstance(tensor, DTensor) else tensor)
        self._settle()
        return self.bytes - before

    def gathered(self) -> int:
        """Return the bytes of weights that are gathered now: what is copied out of a message or put together from parts."""
        self._settle()
        return sum(storage.nbytes() for storage in self._gathered)

    def begin_peak(self) -> int:
        """Return the peak so far, and look for one anew from now on."""
        self._settle()
        peak, self.peak_bytes = self.peak_bytes, self.bytes
        return peak

    def __torch_dispatch__(
        self, function: Any, types: Any, arguments: tuple[Any, ...] = (), keywords: dict[str, Any] | None = None
    ) -> Any:
        """Compute an operator and note what it has made."""
        keywords = keywords or {}
        result = function(*arguments, **keywords)
        if any(issubclass(of, DTensor) for of in types):
            # only what lives here: to find out about shapes, a DTensor makes fake tensors that are whole
            self.add(_tensors((arguments, keywords, result)))
            return result
        for tensor in _tensors((arguments, keywords, result)):
            self._note(tensor)
        for tensor in _tensors(keywords.get("out")):
            self._changing.add(tensor.untyped_storage())
            if function.name().partition(".")[0] in _GATHERING:
                self._gathered.add(tensor.untyped_storage())
        if self.bytes > self.peak_bytes:
            self._settle()
        self._count(function.overloadpacket, arguments, keywords, result)
        return result

    def _note(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        size, known = storage.nbytes(), self._sizes.get(storage)
        if known is None:
            known = self._sizes[storage] = [0]
            weakref.finalize(storage, self._free, known)
        elif known[0] != size:
            self._changing.add(storage)
        self.bytes += size - known[0]
        known[0] = size

    def _free(self, size: list[int]) -> None:
        self.bytes -= size[0]

    def _settle(self) -> None:
        """Look at the storages that change their size without an operator."""
        for storage in list(self._changing):
            known, size = self._sizes[storage], storage.nbytes()
            self.bytes += size - known[0]
            known[0] = size
        self.peak_bytes = max(self.peak_bytes, self.bytes)

    def _count(self, packet: Any, arguments: tuple[Any, ...], keywords: dict[str, Any], result: Any) -> None:
        if packet is torch.ops.aten.baddbmm_:
            self.flops += bmm_flop(arguments[1], arguments[2])
        elif (formula := flop_registry.get(packet)) is not None:
            self.flops += formula(*arguments, **keywords, out_val=result)


def _tensors(tree: Any) -> Iterator[Tensor]:
    if isinstance(tree, Tensor):
        yield tree
    elif isinstance(tree, (list, tuple)):
        for branch in tree:
            yield from _tensors(branch)
    elif isinstance(tree, dict):
        for branch in tree.values():
            yield from _tensors(branch)
