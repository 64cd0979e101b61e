"""The process groups of a training run: opened, tried out and limited in time from the table in `axes`.

Every group that longcat uses comes from here, so that no collective waits longer than `training.collective_timeout_s`.
"""

from __future__ import annotations

import contextlib
import os
import sys
from datetime import timedelta
from typing import Literal, NoReturn, cast

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh

from longcat.accelerator import HOST_BACKEND, Accelerator
from longcat.errors import ConfigError
from longcat.parallel.axes import COPIES, ROW, SHARDS, SUMMED_OVER, VIEWS, Axis, Degrees, Quantity, View


class ProcessMesh:
    """This process' place among the others, and the groups that it belongs to.

    Attributes:
        rank: of this process, among all.
        processes: number of all.
        degrees: number of processes along each axis.
        device: of this process.
        batch_rank: part of each batch that this process reads.
        batch_world: parts that a batch is divided into.
        row_processes: number of processes that have different tokens of the same rows, this one included.
        groups: every open group that this process belongs to, by what it is for; some serve several purposes.
        beside: the groups of all ranks for what goes on beside training, by its name.
    """

    def __init__(self, degrees: Degrees, rank: int, device: torch.device, timeout: timedelta) -> None:
        self.degrees, self.rank, self.device = degrees, rank, device
        self.processes = degrees.processes
        self.batch_rank, self.batch_world = degrees.batch_rank(rank), degrees.batch_world
        self.row_processes = degrees.grid_of(*ROW).degree(*ROW)
        self._timeout = timeout
        self._meshes: dict[View, DeviceMesh] = {}
        self.groups: dict[str, dist.ProcessGroup] = {}
        self.beside: dict[str, dist.ProcessGroup] = {}
        for name, view in VIEWS.items():
            self._open_axes(name, view)
        self._sums = {quantity: self._sum_group(axes) for quantity, axes in SUMMED_OVER.items()}

    def axis(self, name: str) -> DeviceMesh:
        """The processes that differ from this one along one axis, as torch's sharding wants them."""
        return self._meshes[self._view_of(name)][name]

    def group(self, name: str) -> dist.ProcessGroup:
        """The group of the processes that differ from this one along one axis."""
        return self.groups[name]

    def _view_of(self, name: str) -> View:
        """The view that parameters are laid out in along an axis; that of tokens has no parameters of its own."""
        return next(view for view, axes in reversed(VIEWS.items()) if name in {axis.name for axis in axes})

    @property
    def dense_shards(self) -> DeviceMesh:
        """Processes over which each parameter is sharded that belongs to no routed expert; see `_shards`."""
        return self._shards("dense")

    @property
    def expert_shards(self) -> DeviceMesh:
        """Processes over which the parameters of this process' routed experts are sharded; see `_shards`."""
        return self._shards("expert")

    @property
    def table_shards(self) -> DeviceMesh:
        """Processes over which the rows of n-gram tables are spread, if they are."""
        return self.axis(SHARDS["table"])

    def _shards(self, kind: Literal["dense", "expert"]) -> DeviceMesh:
        """The processes that share parameters of a kind: one axis of shards, or one of copies before it if there are any."""
        copies = COPIES[kind]
        names = (SHARDS[kind],) if self.degrees.grid_of(copies).degree(copies) == 1 else (copies, SHARDS[kind])
        return self._meshes[kind][names]

    def sum_over(self, quantity: Quantity) -> dist.ProcessGroup:
        """The group over which a quantity is summed."""
        return self._sums[quantity]

    def sum(self, parts: dict[Quantity, Tensor]) -> dict[Quantity, Tensor]:
        """Add up quantities over the processes that have parts of them, in one exchange for each group. Collective.

        Args:
            parts: this process' part of each, of any shape.

        Returns:
            The sums, of the same shapes, in the type that all the parts of an exchange promote to.
        """
        sums: dict[Quantity, Tensor] = {}
        groups = {id(group): group for group in map(self.sum_over, parts)}
        for key, group in groups.items():
            names = [name for name in parts if id(self.sum_over(name)) == key]
            message = torch.cat([parts[name].flatten() for name in names])
            dist.all_reduce(message, group=group)
            pieces = message.split([parts[name].numel() for name in names])
            sums |= {name: piece.view_as(parts[name]) for name, piece in zip(names, pieces, strict=True)}
        return sums

    def open(self, name: str, ranks: tuple[int, ...]) -> dist.ProcessGroup:
        """Open a group of its own for these ranks and try it out; each of them calls this, and no other.

        Raises:
            RuntimeError: the ranks do not agree on the group.
        """
        group = dist.new_group(
            list(ranks), timeout=self._timeout, use_local_synchronization=True, group_desc=name.replace(" ", "_")
        )
        self._try(name, group, len(ranks), self.device)
        self.groups[name] = group
        return group

    def share(self, name: str, ranks: tuple[int, ...]) -> dist.ProcessGroup:
        """A group of these ranks that may serve other purposes too: an open one, or else a new one as from `open`."""
        for group in (_world(), *self.groups.values()):
            if dist.get_process_group_ranks(group) == list(ranks):
                self._try(name, group, len(ranks), self.device)
                self.groups[name] = group
                return group
        return self.open(name, ranks)

    def open_on_host(self, name: str, timeout_s: float) -> dist.ProcessGroup:
        """Open a group of all ranks for the host's memory, with a limit of its own, and try it out. Collective.

        It is for what goes on beside training, in a thread: on a group that training uses, too, messages would meet.
        """
        group = dist.new_group(
            backend=HOST_BACKEND, timeout=timedelta(seconds=timeout_s), group_desc=name.replace(" ", "_")
        )
        self._try(name, group, self.processes, torch.device("cpu"))
        self.beside[name] = group
        return group

    def _open_axes(self, name: View, view: tuple[Axis, ...]) -> None:
        grid = self.degrees.grid(view)
        groups = [self._axis_group(axis, grid.group(self.rank, axis.name)) for axis in view]
        numbers = torch.arange(grid.ranks, dtype=torch.int).view(grid.degrees)
        self._meshes[name] = DeviceMesh.from_group(groups, self.device.type, numbers, mesh_dim_names=grid.names)

    def _axis_group(self, axis: Axis, ranks: tuple[int, ...]) -> dist.ProcessGroup:
        # rows on their way to experts have a group of their own, so as not to queue behind weights
        return self.open(axis.name, ranks) if axis.divides == "experts" else self.share(axis.name, ranks)

    def _sum_group(self, axes: tuple[str, ...]) -> dist.ProcessGroup:
        return self.share(" x ".join(axes), self.degrees.grid_of(*axes).group(self.rank, *axes))

    def _try(self, name: str, group: dist.ProcessGroup, size: int, device: torch.device) -> None:
        """Connect a group's processes now: one that is missing in the middle of a step is harder to find."""
        probe = torch.ones(1, device=device)
        dist.all_reduce(probe, group=group)
        if int(probe) != size:
            raise RuntimeError(
                f"rank {self.rank}: {int(probe)} processes instead of {size} take part in group {name!r}"
            )


def join(accelerator: Accelerator, degrees: Degrees, timeout_s: float) -> ProcessMesh:
    """Meet the other processes that torchrun started, and open and try out every group that training uses. Collective.

    Args:
        accelerator: what the processes compute on.
        degrees: how the work is divided between them, the same in every process.
        timeout_s: limit of every collective of every group.

    Raises:
        ConfigError: torchrun started another number of processes.
        RuntimeError: the processes do not agree on the groups.
    """
    device = accelerator.activate(int(os.environ["LOCAL_RANK"]))
    timeout = timedelta(seconds=timeout_s)
    dist.init_process_group(accelerator.backend, timeout=timeout)
    if dist.get_world_size() != degrees.processes:
        raise ConfigError(
            f"training.processes={degrees.processes}, but torchrun started {dist.get_world_size()} processes"
        )
    _check_place(dist.get_rank())
    return ProcessMesh(degrees, dist.get_rank(), device, timeout)


def _check_place(rank: int) -> None:
    """Check what this machine says of a rank's place: layouts count on ranks that are numbered node by node."""
    told = {name: os.environ.get(name) for name in ("GROUP_RANK", "LOCAL_WORLD_SIZE", "LOCAL_RANK")}
    if None in told.values():  # whoever started it knows no nodes
        return
    node, each, place = (int(value) for value in told.values() if value is not None)
    if rank != node * each + place:
        raise ConfigError(
            f"rank {rank} is process {place} of {each} on node {node}: nodes of equally many processes have to be numbered in order"
        )


def leave() -> None:
    """Destroy every group."""
    if dist.is_initialized():
        dist.destroy_process_group()


def end_process(code: int = 0) -> NoReturn:
    """End a process that was in a group, for good and at once, after `leave`.

    Gloo's threads outlive `destroy_process_group` while anything refers to a group, as DTensor's caches do for ever. One
    that lets go of its last collective's tensors asks for the interpreter's lock; if the interpreter is being taken apart
    meanwhile, CPython before 3.14 ends that thread inside a C++ destructor, and the process aborts after all its work is
    done. Processes of `multiprocessing` end as here.
    """
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):  # a full disk, a reader that has gone: the work is done
            stream.flush()
    os._exit(code)


def _world() -> dist.ProcessGroup:
    return cast(dist.ProcessGroup, dist.group.WORLD)
