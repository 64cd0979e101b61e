"""Gives the signs of life of a training process: where it is, in a file that the launcher reads.

The file is a page of memory that is mapped (`longcat.training.beat`), so that a beat costs no call of the operating system. On several machines it lies
in a shared folder; then a thread has it written every few seconds.
"""

from __future__ import annotations

import contextlib
import faulthandler
import mmap
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from functools import wraps
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from longcat.errors import StorageError
from longcat.parallel.mesh import ProcessMesh
from longcat.parallel.observed import COLLECTIVES, begin, observed
from longcat.processes.stacks import ASKING
from longcat.training.beat import (
    BEATS,
    COLLECTIVE,
    FOLDER,
    MAGIC,
    OFFSETS,
    PHASE,
    PLACE,
    PROCESS,
    SIZE,
    STEP,
    WANTED,
)
from longcat.training.trainer import Trainer

_WAITED_FOR = {
    **COLLECTIVES,
    "barrier": "barrier",
    "recv": "receive",
    "all_gather_object": "all_gather",
    "gather_object": "gather",
    "scatter_object_list": "scatter",
    "broadcast_object_list": "broadcast",
}
"""Torch's functions that wait for other processes, and what they are called here."""
WRITE_S = 2.0
"""Seconds between two times that the file is written for other machines."""

_AT_BEATS = OFFSETS[BEATS]


class Heartbeat:
    """Writes this process' file.

    Attributes:
        waited_s: seconds spent waiting in collectives so far.
    """

    def __init__(self, directory: Path, rank: int, *, several_machines: bool = False) -> None:
        """Begin a file in the folder of a run.

        Raises:
            StorageError: it cannot be made; without it the launcher would take this process for one that hangs.
        """
        self.waited_s = 0.0
        self._beats = 0
        self._outside = "outside of steps"
        self._phases: list[str] = []
        folder = directory / FOLDER
        self._page = _page(folder / str(rank))
        self._page[: len(MAGIC)] = MAGIC
        PROCESS.pack_into(self._page, OFFSETS[PROCESS], os.getpid(), socket.gethostname().encode()[:64])
        self._layer(-1, False)
        self._write_phase()
        with _told(stacks := folder / f"stack-{rank}.txt"):
            self._stacks = stacks.open("ab")
        faulthandler.register(ASKING, file=self._stacks, all_threads=True)
        if several_machines:
            threading.Thread(target=self._relay, args=(folder / WANTED,), daemon=True).start()

    def beat(self) -> None:
        """Give a sign of life."""
        self._beats += 1
        BEATS.pack_into(self._page, _AT_BEATS, self._beats)

    def begin_step(self, step: int) -> None:
        """Say which step, from 1, begins."""
        STEP.pack_into(self._page, OFFSETS[STEP], step)
        self._layer(-1, False)

    def started(self) -> None:
        """Say that this process is in its loop over steps."""
        self._outside = "between steps"
        self._write_phase()

    @contextlib.contextmanager
    def region(self, name: str) -> Iterator[None]:
        """Be in a phase while the context is open, in a region of that name for a profiler."""
        with torch.profiler.record_function(name):
            self._phases.append(name.removeprefix("longcat."))
            self._write_phase()
            try:
                yield
            finally:
                self._phases.pop()
                self._write_phase()

    def follow(self, trainer: Trainer) -> None:
        """Hear of the layers and the regions of a trainer; of compiled layers nothing is heard."""
        trainer.region = self.region
        if trainer.config.training.compile:
            return
        for part in trainer.parallel.parts:
            for number, layer in part.model.layers.items():
                layer.register_forward_hook(self._leaves_layer(int(number)))
                layer.register_forward_pre_hook(self._enters_layer(int(number)))

    @contextlib.contextmanager
    def collectives(self, mesh: ProcessMesh, compiled: bool = False) -> Iterator[None]:
        """Hear of every collective that this process waits for, while the context is open."""
        with observed(_Collectives(self, mesh, compiled), _WAITED_FOR):
            yield

    def _enters_layer(self, number: int) -> Callable[..., None]:
        return lambda *_: self._layer(number, False)

    def _leaves_layer(self, number: int) -> Callable[..., None]:
        def backward(_: Tensor) -> None:
            self._layer(number, True)

        def hook(_module: Any, _inputs: Any, output: Any) -> None:
            hidden = output[0] if isinstance(output, tuple) else output
            if hidden.requires_grad:
                hidden.register_hook(backward)  # called before this layer's backward pass

        return hook

    def _layer(self, number: int, backward: bool) -> None:
        PLACE.pack_into(self._page, OFFSETS[PLACE], number, backward)
        self.beat()

    def _write_phase(self) -> None:
        text = ", ".join(self._phases) or self._outside
        PHASE.pack_into(self._page, OFFSETS[PHASE], text.encode()[:64])
        self.beat()

    def _relay(self, wanted: Path) -> None:
        """Have the file written, and the stacks when they are wanted, for those who read them on another machine."""
        given = False
        while True:
            time.sleep(WRITE_S)
            with contextlib.suppress(OSError, ValueError):
                self._page.flush()
                if given != wanted.exists():
                    given = not given
                    if given:
                        faulthandler.dump_traceback(self._stacks, all_threads=True)


class _Collectives:
    """Stands between a process and torch's collectives, see `longcat.parallel.observed`."""

    def __init__(self, heart: Heartbeat, mesh: ProcessMesh, compiled: bool) -> None:
        self._heart, self._compiled = heart, compiled
        self._regions: dict[tuple[int, str], _Waiting] = {}
        self._mesh = mesh

    def collective(self, original: Callable[..., Any], name: str) -> Callable[..., Any]:
        @wraps(original)
        def function(*given: Any, **named: Any) -> Any:
            beside = named.get("async_op", False) or any(of is True for of in given[2:])
            return self._begin(original, given, named, name, _group(given, named), beside)

        return torch.compiler.disable(function) if self._compiled else function

    def transfer(self, original: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(original)
        def function(*given: Any, **named: Any) -> Any:
            return self._begin(original, given, named, "send or receive", _group(given, named), True)

        return function

    def transfers(self, original: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(original)
        def function(operations: list[dist.P2POp]) -> Any:
            return self._begin(original, (operations,), {}, "send and receive", operations[0].group, True)

        return function

    def _begin(
        self,
        original: Callable[..., Any],
        given: tuple[Any, ...],
        named: dict[str, Any],
        name: str,
        group: dist.ProcessGroup | None,
        beside: bool,
    ) -> Any:
        if (region := self._region(group, name)) is None:
            return original(*given, **named)
        return begin(lambda: original(*given, **named), lambda: region, beside)

    def _region(self, group: dist.ProcessGroup | None, name: str) -> _Waiting | None:
        of = group or dist.group.WORLD
        if any(of is there for there in self._mesh.beside.values()):
            return None  # of a thread beside training: no sign of its life
        if (key := (id(of), name)) not in self._regions:
            purpose = next((purpose for purpose, there in self._mesh.groups.items() if there is of), None)
            if purpose is None and of is not dist.group.WORLD:
                return _Waiting(self._heart, name, "a group that is being opened")
            self._regions[key] = _Waiting(self._heart, name, purpose or "all processes")
        return self._regions[key]


def _group(given: tuple[Any, ...], named: dict[str, Any]) -> dist.ProcessGroup | None:
    return named.get("group") or next((of for of in given if isinstance(of, dist.ProcessGroup)), None)


class _Waiting:
    """The time in which a process waits for a collective of a group."""

    def __init__(self, heart: Heartbeat, name: str, group: str) -> None:
        self._heart, self._name, self._group = heart, name.encode()[:24], group.encode()[:48]
        self._begun, self._since = 0, 0.0

    def __enter__(self) -> None:
        self._begun += 1
        self._write(True)
        self._since = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self._heart.waited_s += time.perf_counter() - self._since
        self._write(False)

    def _write(self, waits: bool) -> None:
        page = self._heart._page
        COLLECTIVE.pack_into(page, OFFSETS[COLLECTIVE], waits, self._begun, self._name, self._group)
        self._heart.beat()


def _page(path: Path) -> mmap.mmap:
    """Map a page of a file, whose room is taken at once, as a full disk would end the process later."""
    with _told(path):
        path.parent.mkdir(exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o644)
        try:
            os.posix_fallocate(descriptor, 0, SIZE)
            return mmap.mmap(descriptor, SIZE)
        finally:
            os.close(descriptor)


@contextlib.contextmanager
def _told(path: Path) -> Iterator[None]:
    """Say in one line why a file cannot be made."""
    try:
        yield
    except OSError as error:
        raise StorageError(
            f"cannot make {path}, where this process gives its signs of life: {error.strerror}; make room, or let the folder be "
            "written, and run the same command again"
        ) from error
