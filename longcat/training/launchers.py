"""Where an attempt's processes are started: on this machine, or on nodes that have joined (docs/cluster.md).

`supervise` asks a launcher before each attempt to settle the layout for the nodes that are there, and then to run it.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from longcat.accelerator import environment
from longcat.config import PipelineConfig
from longcat.errors import ConfigError, TrainingError, UserError
from longcat.interchange.checkpoint_folder import CheckpointFolder
from longcat.parallel.axes import Degrees
from longcat.parallel.nodes import crossings
from longcat.peak import device_peak
from longcat.processes.agreement import disagreements
from longcat.processes.folder_check import check_folder
from longcat.processes.head import ANSWER_S, Head, Member, ended_by
from longcat.processes.launch import POLL_S, forget_failures, launch
from longcat.processes.logs import logs_of, new_start
from longcat.processes.orders import Order, address_of
from longcat.processes.slurm import Request, Slurm
from longcat.processes.verdict import judge
from longcat.provenance import code_of, git_commit, source_hashes
from longcat.training.attempt import Attempt, loss_of
from longcat.training.job import Job
from longcat.training.layout import settle_layout
from longcat.training.life import record_event, suspects
from longcat.training.members import accelerator_of, meeting_place, spared, variables_of

JOIN_PORT = 29400
_REGROUP_S = 5.0
"""Seconds that a node has to have been there before a run is interrupted for it."""
_AFTERMATH_S = 2.0
"""Seconds in which the nodes tell of a failure that one of them has noticed."""
Say = Callable[[str], None]


class Launcher(Protocol):
    """What `supervise` asks for."""

    def settle(self, job: Job, say: Say) -> Job:
        """Wait for nodes and return the job with the layout for them; `say` hears what is waited for."""

    def run(
        self, module: str, job: Job, deadline_s: float, poll: Callable[[], None], may_regroup: Callable[[], bool]
    ) -> bool:
        """Run the processes to their end, and call `poll` meanwhile.

        Returns:
            Whether they were ended so as to go on with nodes that have come, which happens when `may_regroup` allows it.

        Raises:
            TrainingError: a process failed, a node was lost, or `deadline_s` has passed.
            UserError: the cause of the failure is a user error.
        """


@contextmanager
def open_launcher(job: Job, config: PipelineConfig) -> Iterator[Launcher]:
    """Open the launcher that the configuration names; nodes are sent home at the end.

    Raises:
        ConfigError: nodes cannot join here.
    """
    if config.training.launcher == "local":
        yield Local(config)
    else:
        with open_cluster(config, Path(job.workspace)) as cluster:
            yield cluster


@contextmanager
def open_cluster(config: PipelineConfig, workspace: Path, *, unlike: bool = False) -> Iterator[Cluster]:
    """Open the launcher of several nodes.

    Args:
        config: section `training`.
        workspace: folder that all of them share.
        unlike: take nodes that differ.

    Raises:
        ConfigError: nodes cannot join here.
    """
    training = config.training
    host, _, port = training.head.rpartition(":")
    with ExitStack() as stack:
        head = Head(
            workspace,
            host=host,
            port=int(port) if port else JOIN_PORT if training.launcher == "join" else 0,
            accelerator=config.accelerator,
            code=None if unlike else own_code(),
            refuse=(lambda facts: []) if unlike else disagreements,
        )
        stack.enter_context(head)
        slurm = None
        if training.launcher == "slurm":
            request = Request(
                training.slurm.partition, training.slurm.account, training.slurm.time, tuple(training.slurm.arguments)
            )
            slurm = Slurm(
                request,
                address=head.address,
                workspace=workspace,
                logs=workspace / "logs",
                wait_s=training.node_wait_s,
                grace_s=training.grace_s,
            )
            stack.enter_context(slurm)
            stack.callback(head.part, "goodbye", final=True)  # before the step is cancelled
        stack.enter_context(ended_by(head))
        yield Cluster(config, head, slurm)


def own_code() -> str:
    """Return what longcat's files behind a training process are: the commit, and a digest of the files themselves."""
    import hashlib

    files = code_of("longcat.training.worker", "longcat.training.agent", "longcat.processes.node")
    digest = hashlib.sha256(repr(sorted(source_hashes(files).items())).encode()).hexdigest()[:12]
    return f"{(git_commit() or 'no commit')[:12]} ({digest})"


def order_of(module: str, job: Job, config: PipelineConfig) -> Order:
    """Write a job down, and say what to start for it on a single node."""
    layout, training = job.layout, config.training
    return Order(
        module=module,
        arguments=(str(job.write()),),
        directory=job.directory,
        processes=layout.degrees.processes,
        environment=environment(layout.accelerator, layout.degrees.processes),
        grace_s=training.grace_s,
        timeout_s=training.collective_timeout_s,
        attempt=job.attempt,
    )


@dataclass
class Local:
    """Processes of this machine."""

    config: PipelineConfig

    def settle(self, job: Job, say: Say) -> Job:
        """Return the job as it is."""
        return job

    def run(
        self, module: str, job: Job, deadline_s: float, poll: Callable[[], None], may_regroup: Callable[[], bool]
    ) -> bool:
        """See `Launcher.run`."""
        launch(order_of(module, job, self.config), deadline_s=deadline_s, poll=poll)
        return False


class Cluster:
    """Processes of nodes that have joined; Slurm starts them, or somebody else."""

    def __init__(self, config: PipelineConfig, head: Head, slurm: Slurm | None) -> None:
        self.config, self.head, self.slurm = config, head, slurm
        self._chosen: list[Member] = []
        self._names: list[str] | None = None
        self._suspected: set[str] = set()
        self._placed: set[tuple[Degrees, int]] = set()
        self._checked = self._asked = False

    def settle(self, job: Job, say: Say) -> Job:
        """See `Launcher.settle`.

        Raises:
            ConfigError: nodes are missing after `training.node_wait_s`, are unlike, or share no file system; or no layout
                fits as many as there are.
        """
        self._suspected = set(suspects(Path(job.directory)))
        there = self.gather(say)
        layouts = ((number, self._layout(there[:number])) for number in range(len(there), self._least - 1, -1))
        number, degrees = next(((number, found) for number, found in layouts if isinstance(found, Degrees)), (0, None))
        if degrees is None:
            raise self._layout(there)  # type: ignore[misc]
        self._chosen = there[:number]
        if left := sorted(
            self._suspected & {member.name for member in self.head.members()} - {one.name for one in there}
        ):
            warnings.warn(
                f"node{'s' if len(left) > 1 else ''} {', '.join(left)} {'are' if len(left) > 1 else 'is'} left out, for wrong bits "
                f"that were found there before, see {CheckpointFolder(Path(job.directory)).events}",
                stacklevel=2,
            )
        accelerator = accelerator_of(self._chosen[0])
        layout = settle_layout(self.config, accelerator, nodes=number)
        if layout.accelerator != job.layout.accelerator or layout.precision != job.layout.precision:
            raise ConfigError(
                f"the nodes compute on {layout.accelerator} in {layout.precision}, and this machine would on "
                f"{job.layout.accelerator} in {job.layout.precision}: set accelerator={layout.accelerator} and "
                f"training.precision={layout.precision}"
            )
        if not self._checked and len(self._chosen) > 1:
            say("trying out the shared file system")
            if problems := check_folder(self._chosen):
                raise ConfigError(problems[0])
        self._checked = True
        self._look_at_placement(layout.degrees)
        self._tell(Path(job.directory))
        peak_flops = job.peak_flops  # on CPUs that of the machine with the workspace
        if layout.accelerator != "cpu":
            best = device_peak(accelerator.name, layout.precision)
            peak_flops = None if best is None else best.of(layout.degrees.processes)
        return replace(job, layout=layout, device=accelerator.name, peak_flops=peak_flops)

    def run(
        self, module: str, job: Job, deadline_s: float, poll: Callable[[], None], may_regroup: Callable[[], bool]
    ) -> bool:
        """See `Launcher.run`."""
        directory, members = Path(job.directory), self._chosen
        forget_failures(directory)
        each = job.layout.degrees.processes // len(members)
        start = new_start(directory)
        base = replace(order_of(module, job, self.config), processes=each, nodes=len(members), start=start)
        end = time.monotonic() + deadline_s
        with meeting_place(members, self.config.training.collective_timeout_s) as port:
            for place, member in enumerate(members):
                order = replace(
                    base,
                    place=place,
                    store=address_of(member.head, port),
                    environment=variables_of(base.environment, member, each),
                )
                member.tell(word="start", order=order.to_json())
            watch = Attempt(members, base.attempt)
            try:
                regroup = self._watch(watch, end, poll, may_regroup)
            finally:
                watch.stop(self.config.training.grace_s + ANSWER_S)
        if watch.lost:
            failure: Exception | None = loss_of(watch, logs_of(directory, start))
        else:
            failure = judge(directory, watch.outcomes, logs_of(directory, start))
        if failure is not None:
            raise failure
        return regroup

    def _look_at_placement(self, degrees: Degrees) -> None:
        """Warn of groups across nodes, once for each layout that the run comes to have."""
        names, parallel = [member.name for member in self._chosen], self.config.parallel

        def possible(axis: str, degree: int) -> bool:
            other = parallel.model_copy(update={axis: degree})
            return isinstance(self._layout(self._chosen, self.config.model_copy(update={"parallel": other})), Degrees)

        if (degrees, len(names)) not in self._placed:
            self._placed.add((degrees, len(names)))
            axes = ("tensor",) if parallel.two_level else ("tensor", "expert")
            for remark in crossings(degrees, names, possible, axes):
                warnings.warn(remark, stacklevel=3)

    def _tell(self, directory: Path) -> None:
        """Say which nodes the attempt is without, or has again, since the last one."""
        before, now = self._names, [member.name for member in self._chosen]
        self._names = now
        for name in before or []:
            if name not in now:
                record_event(directory, "node lost", node=name, nodes=len(now))
        for name in now if before is not None else []:
            if name not in (before or []):
                record_event(directory, "node back", node=name, nodes=len(now))
        if before is not None and before != now:
            warnings.warn(
                f"training goes on with {len(now)} of {self.config.training.nodes} nodes ({', '.join(now)}), after "
                f"{len(before)} ({', '.join(before)})",
                stacklevel=2,
            )

    @property
    def _least(self) -> int:
        return self.config.training.min_nodes or self.config.training.nodes

    def _watch(self, watch: Attempt, end: float, poll: Callable[[], None], may_regroup: Callable[[], bool]) -> bool:
        """Wait for the end of all processes, or the first failure; returns whether they are to be ended for more nodes."""
        began = time.monotonic()
        while watch.running():
            poll()
            if watch.failed():
                watch.listen(_AFTERMATH_S)
                return False
            if time.monotonic() > end:
                raise TrainingError(
                    f"training did not finish within training.deadline_s={self.config.training.deadline_s:g}"
                )
            if self._more(len(watch.members), began) and may_regroup():
                return True
            time.sleep(POLL_S)
        return False

    def _more(self, running: int, began: float) -> bool:
        """Say whether there are nodes for a larger layout; asks Slurm for those that are missing."""
        wanted = self.config.training.nodes
        if running >= wanted:
            return False
        there = self.head.members()
        if self.slurm is not None and len(there) < wanted:
            self.slurm.complete([member.name for member in there], wanted - len(there))
        now = time.monotonic()
        there = spared(there, self._suspected, self._least)
        ready = [member for member in there if now - max(member.since, began) > _REGROUP_S]
        return any(isinstance(self._layout(ready[:number]), Degrees) for number in range(running + 1, len(ready) + 1))

    def _layout(self, members: Sequence[Member], config: PipelineConfig | None = None) -> Degrees | ConfigError:
        """Return how as many nodes would share the work, or why they cannot."""
        if not members:
            return ConfigError("no node is there")
        try:
            return settle_layout(config or self.config, accelerator_of(members[0]), nodes=len(members)).degrees
        except ConfigError as error:
            return error

    def gather(self, say: Say) -> list[Member]:
        """Wait for nodes: all of them for the first attempt, enough of them later."""
        training = self.config.training
        first = not self._asked
        if first and self.slurm is not None:
            self.slurm.start(training.nodes)
        self._asked = True
        began = asked = time.monotonic()
        smaller = False
        while True:
            joined = [
                member
                for member in self.head.members()
                if not training.node_names or member.name in training.node_names
            ]
            there = spared(joined, self._suspected, self._least)[: training.nodes]
            if first and self.head.refusals:
                raise ConfigError(self.head.refusals[0])
            waited = time.monotonic() - began
            enough, all_there = len(there) >= self._least, len(joined) >= training.nodes
            if enough and (all_there or not first or waited > training.node_wait_s):
                if len(there) < training.nodes:
                    say(f"going on with {len(there)} of {training.nodes} nodes, without {self._missing(there)}")
                return there
            if self.slurm is not None:
                if (queue := self.slurm.queued()) is not None:
                    began = time.monotonic()
                    if first and not smaller and began - asked > training.node_wait_s and self._least < training.nodes:
                        self.slurm.start(self._least)  # the others may come later
                        smaller = True
                    if training.slurm.queue_wait_s is not None and began - asked > training.slurm.queue_wait_s:
                        raise ConfigError(
                            f"Slurm has given no nodes within training.slurm.queue_wait_s={training.slurm.queue_wait_s:g} "
                            f"({queue}); a longer time, other nodes (training.slurm.partition) or fewer (training.min_nodes) "
                            "would have to be asked for"
                        )
                    say(
                        f"waiting in Slurm's queue ({queue}) for {training.nodes - len(there)} of {training.nodes} nodes"
                    )
                    time.sleep(POLL_S)
                    continue
                if (trouble := self.slurm.trouble()) is not None and first and not there:
                    raise ConfigError(f"Slurm gives no nodes: {trouble}; see {self.slurm.logs()}")
                if not first and not all_there:
                    self.slurm.complete([member.name for member in joined], training.nodes - len(joined))
            if waited > training.node_wait_s:
                raise self._absent(there)
            say(f"{len(there)} of {training.nodes} nodes at {self.head.address}, waiting for {self._missing(there)}")
            time.sleep(POLL_S)

    def _missing(self, there: Sequence[Member]) -> str:
        names = {member.name for member in there}
        expected = self.config.training.node_names or (self.slurm.expected() if self.slurm is not None else [])
        missing = [name for name in expected if name not in names]
        return ", ".join(missing) or f"{self.config.training.nodes - len(there)} more"

    def _absent(self, there: Sequence[Member]) -> UserError:
        names = ", ".join(member.name for member in there) or "none"
        how = (
            f"{f'Slurm says: {trouble}; ' if (trouble := self.slurm.trouble()) else ''}see {self.slurm.logs()}"
            if self.slurm is not None
            else f"run longcat join {self.head.address} on it"
        )
        return ConfigError(
            f"{self._missing(there)} of training.nodes={self.config.training.nodes} nodes did not join within "
            f"training.node_wait_s={self.config.training.node_wait_s:g} (there: {names}); {how}"
        )
