"""Collectives of the emulated HCCL on CPU tensors, for operators that are told a communicator's name."""

from __future__ import annotations

import ctypes
import functools
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from longcat.emulator.build import CANN

_BYTES, _FLOAT32, _SUM = 0, 4, 0
"""Numbers that HCCL gives to types and to a sum."""


@functools.cache
def _library() -> ctypes.CDLL:
    return ctypes.CDLL(str(Path(os.environ["ASCEND_EMULATOR_LIBRARIES"]) / CANN))


def _call(function: str, *arguments: object) -> None:
    code = getattr(_library(), function)(*arguments, None)  # without a stream: it is done when it returns
    if code:
        raise RuntimeError(f"{function} failed inside an operator: HCCL error {code}")


def _at(tensor: Tensor) -> ctypes.c_void_p:
    return ctypes.c_void_p(tensor.data_ptr())


def _numbers(values: list[int]) -> ctypes.Array[ctypes.c_uint64]:
    return (ctypes.c_uint64 * len(values))(*values)


@dataclass(frozen=True)
class Communicator:
    """A communicator of HCCL: its handle, the number of its ranks and the own one."""

    handle: ctypes.c_void_p
    size: int
    rank: int

    def all_reduce(self, values: Tensor) -> Tensor:
        """Add up float32 tensors of the same shape."""
        own = values.float().contiguous()
        result = torch.empty_like(own)
        _call("HcclAllReduce", _at(own), _at(result), ctypes.c_uint64(own.numel()), _FLOAT32, _SUM, self.handle)
        return result

    def all_gather(self, values: Tensor) -> Tensor:
        """Concatenate tensors of the same shape along the first dimension."""
        own = values.contiguous()
        result = own.new_empty(self.size * own.shape[0], *own.shape[1:])
        count = ctypes.c_uint64(own.numel() * own.element_size())
        _call("HcclAllGather", _at(own), _at(result), count, _BYTES, self.handle)
        return result

    def reduce_scatter(self, values: Tensor) -> Tensor:
        """Add up float32 tensors and keep the own part of the rows."""
        own = values.float().contiguous()
        result = own.new_empty(own.shape[0] // self.size, *own.shape[1:])
        count = ctypes.c_uint64(result.numel())
        _call("HcclReduceScatter", _at(own), _at(result), count, _FLOAT32, _SUM, self.handle)
        return result

    def all_to_all(self, values: Tensor, sent: list[int], received: list[int]) -> Tensor:
        """Send rows to every rank and return those that came, both in the order of the ranks."""
        own = values.contiguous()
        result = own.new_empty(sum(received), *own.shape[1:])
        row = own.element_size() * own[:1].numel() if own.shape[0] else own.element_size() * result[:1].numel()
        arguments: list[object] = []
        for tensor, counts in ((own, sent), (result, received)):
            size = [count * row for count in counts]
            starts = [sum(size[:i]) for i in range(len(size))]
            arguments += [_at(tensor), _numbers(size), _numbers(starts), _BYTES]
        _call("HcclAlltoAllV", *arguments, self.handle)
        return result


def communicator(name: str, operator: str, size: int | None = None) -> Communicator:
    """Return the communicator of this name; raises RuntimeError if no process group has it, or not so many ranks."""
    import torch.distributed as dist

    if not dist.is_initialized():
        raise RuntimeError(f"{operator}: no process group is initialised, so there is no communicator {name!r}")
    device = torch._C._get_privateuse1_backend_name()
    for group in dist.distributed_c10d._world.pg_map:
        try:
            backend: Any = group._get_backend(torch.device(device))
            own = backend.get_hccl_comm_name(dist.get_rank(), False)
        except (RuntimeError, AttributeError):
            continue  # a group without this device
        if own == name and name:
            if size is not None and size != group.size():
                raise RuntimeError(f"{operator}: world size is {size}, but the communicator has {group.size()} ranks")
            handle = ctypes.c_void_p(backend.get_hccl_comm(dist.get_rank()))
            return Communicator(handle, group.size(), group.rank())
    raise RuntimeError(f"{operator}: no process group has a communicator {name!r}; ask get_hccl_comm_name for it")
