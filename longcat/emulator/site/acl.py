"""The small part of pyACL, CANN's Python interface, that asks for facts of a device: its name, their number, its memory.

CANN comes with pyACL, torch_npu does not. Programs that run through torch_npu import it for these facts alone; all else of it
would be a second way to the device beside torch_npu's, which the emulator does not offer.
"""

from typing import Any

import torch

_SUCCESS = 0
_OFFERED = "get_soc_name, rt.get_device_count and rt.get_mem_info"


class _Runtime:
    """The functions of `acl.rt`."""

    def get_device_count(self) -> tuple[int, int]:
        """Return the number of devices, and that there was no error."""
        return _device().device_count(), _SUCCESS

    def get_mem_info(self, kind: int) -> tuple[int, int, int]:
        """Return free and all bytes of the device, whatever kind of memory is meant, and that there was no error."""
        free, whole = _device().mem_get_info()
        return free, whole, _SUCCESS

    def __getattr__(self, name: str) -> Any:
        raise _absent(f"rt.{name}", name)


def get_soc_name() -> str:
    """Return the name of the devices."""
    return str(_device().get_device_name())


def _device() -> Any:
    return torch.get_device_module("npu")


def _absent(path: str, name: str) -> AttributeError:
    return AttributeError(
        f"acl.{path}: the emulated Ascend offers of pyACL {_OFFERED} only; torch.npu has what a program of torch needs",
        name=name,
    )


def __getattr__(name: str) -> Any:
    raise _absent(name, name)


rt = _Runtime()
