"""Optimizer state that lives in the host's memory, and is on the device only while a step needs it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from longcat.training.lazy_adamw import LazyAdamW
from longcat.training.muon import Muon, WithState

PIECE_BYTES = 1 << 28
"""State of an element-wise optimizer that is on the device at a time, if a single parameter's is not more."""


class OffloadedStates:
    """The states of optimizers, of which the host has a copy and the device no memory between steps.

    The tensors stay where optimizers and checkpoints know them, with storages of no bytes. Whoever asks an optimizer for its
    `state_dict` gets all of it, which stays until `release`. Scalars stay on the device, and so do the states of tables whose
    rows are moved late: each lookup reads them.
    """

    def __init__(self, optimizers: Iterable[torch.optim.Optimizer]) -> None:
        """Move the states to the host; pinned, where the device can copy from there by itself."""
        self._host: dict[tuple[Tensor, str], Tensor] = {}
        self._optimizers = [of for of in optimizers if not isinstance(of, LazyAdamW)]
        for optimizer in self._optimizers:
            optimizer.register_state_dict_pre_hook(lambda of: self._bring(of, self._parameters(of)))
            if isinstance(optimizer, Muon):
                optimizer.with_state = self._present(optimizer)
        self.release()

    def step(self, optimizer: torch.optim.Optimizer) -> None:
        """Let an optimizer make its step; its state comes and goes in pieces."""
        if optimizer not in self._optimizers or isinstance(optimizer, Muon):
            optimizer.step()
            return
        groups = optimizer.param_groups
        whole = [group["params"] for group in groups]
        for piece in self._pieces(optimizer):
            for group, parameters in zip(groups, whole, strict=True):
                group["params"] = [of for of in parameters if of in piece]
            self._bring(optimizer, piece)
            optimizer.step()
            self._release(optimizer, piece)
        for group, parameters in zip(groups, whole, strict=True):
            group["params"] = parameters

    def release(self) -> None:
        """Move what is on the device back to the host."""
        for optimizer in self._optimizers:
            self._release(optimizer, self._parameters(optimizer))

    def _parameters(self, optimizer: torch.optim.Optimizer) -> list[Tensor]:
        return [parameter for group in optimizer.param_groups for parameter in group["params"]]

    def _pieces(self, optimizer: torch.optim.Optimizer) -> Iterator[set[Tensor]]:
        """Divide the parameters that have a gradient."""
        piece: set[Tensor] = set()
        size = 0
        for parameter in self._parameters(optimizer):
            if parameter.grad is None:
                continue
            own = sum(_bytes(part) for _, part in self._parts(optimizer, parameter))
            if piece and size + own > PIECE_BYTES:
                yield piece
                piece, size = set(), 0
            piece.add(parameter)
            size += own
        if piece:
            yield piece

    def _parts(self, optimizer: torch.optim.Optimizer, parameter: Tensor) -> Iterator[tuple[str, Tensor]]:
        """This process' parts of a parameter's states, by name."""
        for name, value in optimizer.state[parameter].items():
            if value.dim():
                yield name, value.to_local() if isinstance(value, DTensor) else value

    def _bring(self, optimizer: torch.optim.Optimizer, parameters: Iterable[Tensor]) -> None:
        for parameter in parameters:
            for name, part in self._parts(optimizer, parameter):
                storage = part.untyped_storage()
                if storage.nbytes() == 0 < _bytes(part):
                    storage.resize_(_bytes(part))
                    part.copy_(self._host[parameter, name], non_blocking=True)

    def _release(self, optimizer: torch.optim.Optimizer, parameters: Iterable[Tensor]) -> None:
        for parameter in parameters:
            for name, part in self._parts(optimizer, parameter):
                if (storage := part.untyped_storage()).nbytes() == 0:
                    continue
                host = self._host.get((parameter, name))
                if host is None:
                    host = torch.empty_like(part, device="cpu", pin_memory=part.device.type != "cpu")
                    self._host[parameter, name] = host
                # in the order of the device's work: the memory is not used again before it has been read
                host.copy_(part, non_blocking=True)
                storage.resize_(0)

    def _present(self, optimizer: torch.optim.Optimizer) -> WithState:
        @contextmanager
        def present(parameter: Tensor) -> Iterator[None]:
            self._bring(optimizer, [parameter])
            yield
            self._release(optimizer, [parameter])

        return present


def _bytes(part: Tensor) -> int:
    return part.numel() * part.element_size()
