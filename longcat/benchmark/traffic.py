"""What each axis sends in a training step: every collective that begins, with its group, its size and where it is waited for.

A profiler that runs meanwhile gets regions with the axis in their names, which gloo's own events do not have.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial, wraps
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor

from longcat.costs.traffic import bus_factor
from longcat.parallel.axes import VIEWS, Degrees
from longcat.parallel.mesh import ProcessMesh
from longcat.parallel.observed import begin, observed

SENDING, WAITING = "longcat.sends ", "longcat.waits "
"""Beginnings of the regions in which a process begins a collective, and waits for one; the axis follows, and after a
comma the collective's name."""
_SEND = dist.isend
Splits = Literal["even", "uneven"]


@dataclass(frozen=True)
class Message:
    """A collective as one process began it."""

    axis: str
    """Label of its group, see `labels`."""
    name: str
    """all_reduce, all_gather, reduce_scatter, all_to_all, broadcast or send."""
    ranks: int
    bytes: int
    """Of the whole buffer that a rank reduces, gathers, scatters, exchanges or sends."""
    link_bytes: float
    """That leave this process, by the ring algorithms of nccl-tests; of an exchange all but those to itself."""
    to: tuple[int, ...] = ()
    """Bytes to each process, of an exchange with uneven splits."""
    of: tuple[int, ...] = ()
    """Bytes from each process."""

    @property
    def splits(self) -> Splits:
        """Whether every process gets as much."""
        return "uneven" if self.to else "even"


def labels(mesh: ProcessMesh) -> dict[int, str]:
    """Name the groups of this process by their axes, by the identity of each group.

    A group that serves several axes has the name of the first one, in the order of the table. Another one for the same
    processes is opened under a name that begins with the axis. The product of several axes has the names of those with more
    than one process, and any other group its own name.
    """
    degrees = table(mesh.degrees)
    axes = list(degrees)
    found: dict[int, str] = {}
    for name in sorted(mesh.groups, key=lambda name: axes.index(name) if name in axes else len(axes)):
        group = mesh.groups[name]
        alike = {
            axis
            for axis in axes
            if dist.get_process_group_ranks(mesh.groups[axis]) == dist.get_process_group_ranks(group)
        }
        found.setdefault(id(group), _label(name, degrees, alike))
    return found


def table(degrees: Degrees) -> dict[str, int]:
    """Return the number of processes along every axis of every view, in the order of the table."""
    return {axis.name: getattr(degrees, axis.name) for view in VIEWS.values() for axis in view}


def served(mesh: ProcessMesh) -> dict[str, list[str]]:
    """Return the axes of the table, and products of axes, that the group of each name serves."""
    names, degrees = labels(mesh), table(mesh.degrees)
    purposes = {_label(name, degrees, ()): name for name in mesh.groups if " x " in name}
    purposes |= {axis: axis for axis in degrees}  # a product of which one axis is left is that axis
    found: dict[str, list[str]] = {}
    for purpose, group in purposes.items():
        found.setdefault(names[id(mesh.groups[group])], []).append(purpose)
    return found


def _label(group: str, degrees: Mapping[str, int], alike: Container[str]) -> str:
    """Name a group.

    Args:
        group: what it was opened as.
        degrees: processes along each axis.
        alike: axes with the same processes.
    """
    product = [axis for axis in group.split(" x ") if axis in degrees]
    if len(product) > 1:
        return " x ".join(axis for axis in product if degrees[axis] > 1) or group
    return max((axis for axis in degrees if group.startswith(axis) and axis in alike), key=len, default=group)


@contextlib.contextmanager
def watched(mesh: ProcessMesh) -> Iterator[list[Message]]:
    """Watch every collective that this process begins; yields the list that they are put down in."""
    messages: list[Message] = []
    with observed(_Watch(labels(mesh), messages)):
        yield messages


class _Watch:
    def __init__(self, names: Mapping[int, str], messages: list[Message]) -> None:
        self._names, self._messages = names, messages

    def collective(self, original: Callable[..., Any], name: str) -> Callable[..., Any]:
        bind = inspect.signature(original).bind

        @wraps(original)
        def function(*given: Any, **named: Any) -> Any:
            arguments = bind(*given, **named).arguments
            group = arguments.get("group") or dist.group.WORLD
            message = _message(name, arguments, self._label(group), group)
            self._messages.append(message)
            return self._begin(partial(original, *given, **named), message, arguments.get("async_op", False))

        return function

    def transfer(self, original: Callable[..., Any]) -> Callable[..., Any]:
        bind = inspect.signature(original).bind

        @wraps(original)
        def function(*given: Any, **named: Any) -> Any:
            arguments = bind(*given, **named).arguments
            group: Any = arguments.get("group") or dist.group.WORLD
            size = arguments["tensor"].nbytes if _sends(original) else 0
            return self._begin(partial(original, *given, **named), self._sent(group, size), True)

        return function

    def transfers(self, original: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(original)
        def function(operations: list[dist.P2POp]) -> Any:
            group: Any = operations[0].group or dist.group.WORLD
            # what is received is a message of the process that sends it
            size = sum(of.tensor.nbytes for of in operations if _sends(of.op))
            return self._begin(partial(original, operations), self._sent(group, size), True)

        return function

    def _sent(self, group: Any, size: int) -> Message:
        message = Message(self._label(group), "send", group.size(), size, size)
        if size:
            self._messages.append(message)
        return message

    def _label(self, group: Any) -> str:
        return self._names.get(id(group), "other groups")

    def _begin(self, call: Callable[[], Any], message: Message, beside: bool) -> Any:
        region = partial(torch.profiler.record_function, f"{WAITING}{message.axis}, {message.name}")
        with torch.profiler.record_function(f"{SENDING}{message.axis}, {message.name}"):
            return begin(call, region, beside)


def _sends(function: Callable[..., Any]) -> bool:
    return inspect.unwrap(function) is _SEND


def _message(name: str, arguments: Mapping[str, Any], axis: str, group: Any) -> Message:
    ranks = group.size()
    sent: Tensor = (
        arguments["output_tensor"] if name == "all_gather" else arguments.get("input", arguments.get("tensor"))
    )
    to_send, to_receive = arguments.get("input_split_sizes"), arguments.get("output_split_sizes")
    if to_send and to_receive:
        to, of = _bytes(to_send, sent), _bytes(to_receive, arguments["output"])
        return Message(axis, name, ranks, sum(to), sum(to) - to[dist.get_rank(group)], to, of)
    return Message(axis, name, ranks, sent.nbytes, sent.nbytes * bus_factor(name, ranks))


def _bytes(rows: Sequence[int], tensor: Tensor) -> tuple[int, ...]:
    row = tensor[:1].nbytes if len(tensor) else 0
    return tuple(count * row for count in rows)
