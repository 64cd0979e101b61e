"""Nodes of a Slurm cluster: `srun` starts `longcat join` on each of them. Slurm does the scheduling.

On a login node each `srun` asks for nodes of its own; inside an allocation, for nodes of the allocation. The job step ends
with the context, or when the process that holds it is killed.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Collection, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from longcat.errors import ConfigError
from longcat.processes.child import supervised

_ASK_S = 20
_SIZES = (
    "SLURM_NTASKS",
    "SLURM_NPROCS",
    "SLURM_NNODES",
    "SLURM_JOB_NUM_NODES",
    "SLURM_NTASKS_PER_NODE",
    "SLURM_NODELIST",
    "SLURM_DISTRIBUTION",
)
_AGAIN_S = 15.0
"""Seconds between two attempts to get a missing node."""

_LEAVING_S = 5.0
"""Seconds that nodes have to leave before the job step is cancelled."""


@dataclass(frozen=True)
class Request:
    """What is asked of Slurm, besides the number of nodes."""

    partition: str = ""
    account: str = ""
    time: str = ""
    arguments: tuple[str, ...] = ()
    """Further arguments of srun."""


@dataclass
class _Step:
    process: subprocess.Popen[bytes]
    log: Path
    begins: int
    """Length of the log when it was started."""
    began: float = field(default_factory=time.monotonic)

    def joined(self) -> bool:
        """Say whether one of its nodes has joined the launcher."""
        return "\njoined " in f"\n{self.said()}"

    def said(self) -> str:
        with self.log.open("rb") as stream:
            stream.seek(self.begins)
            return stream.read().decode(errors="replace")


class Slurm:
    """The job steps that a launcher has started. A context: they end with it."""

    def __init__(
        self, request: Request, *, address: str, workspace: Path, log: Path, wait_s: float, grace_s: float
    ) -> None:
        """Describe the steps.

        Args:
            request: what is asked of Slurm.
            address: where nodes join.
            workspace: folder that all of them share.
            log: file for what srun and the nodes say.
            wait_s: limit of a node's wait for the launcher.
            grace_s: seconds that nodes have to end their processes.

        Raises:
            ConfigError: this machine has no srun.
        """
        if shutil.which("srun") is None:
            raise ConfigError(
                "training.launcher=slurm needs srun, which is not on PATH: run this on a login node of the cluster"
            )
        self._request, self._log, self._grace_s = request, log, grace_s
        self._join = [
            sys.executable, "-m", "longcat.cli", "join", address, "--workspace", str(workspace), "--wait-s", f"{wait_s:g}",
        ]  # fmt: skip
        self._stack = ExitStack()
        self._steps: list[_Step] = []
        self._tried = -_AGAIN_S

    def __enter__(self) -> Slurm:
        return self

    def __exit__(self, *_: object) -> None:
        end = time.monotonic() + _LEAVING_S  # nodes that were sent home end by themselves
        while time.monotonic() < end and any(step.process.poll() is None and step.joined() for step in self._steps):
            time.sleep(0.1)
        self._stack.close()

    def start(self, nodes: int) -> None:
        """Ask for nodes, instead of what was asked for before."""
        self._stack.close()
        self._steps.clear()
        inside = ["--overlap"] if "SLURM_JOB_ID" in os.environ else self._allocation()
        self._run([f"--nodes={nodes}", *inside])

    def complete(self, present: Collection[str], missing: int) -> None:
        """Ask again for nodes that are missing, unless that is being done.

        Args:
            present: names of the nodes that are there.
            missing: how many are not.
        """
        if time.monotonic() - self._tried < _AGAIN_S or any(self._waits(step, present) for step in self._steps):
            return
        self._tried = time.monotonic()
        own = {node: job for job in _own_jobs(self._jobs()) for node in _nodes_of(job)}
        back = [node for node in own if node not in present and _is_up(node)][:missing]
        for node in back:  # the job still has it
            self._run([f"--jobid={own[node]}", "--overlap", "--nodes=1", f"--nodelist={node}"])
        if not back and "SLURM_JOB_ID" not in os.environ:  # one after the other, as they become free
            without = [f"--exclude={','.join(sorted(present))}"] if present else []
            self._run(["--nodes=1", *without, *self._allocation()])

    def expected(self) -> list[str]:
        """List the names of the nodes that the jobs have."""
        return [node for job in _own_jobs(self._jobs()) for node in _nodes_of(job)]

    def trouble(self) -> str | None:
        """Say why no more nodes will come by themselves: what srun has said, if none of them runs any more; else None."""
        if not self._steps or any(step.process.poll() is None for step in self._steps):
            return None
        lines = [line.strip() for line in self._steps[-1].said().splitlines() if line.strip()]
        errors = [line.partition("error: ")[2] for line in lines if line.startswith("srun: error: ")]
        return "; ".join(errors[:2]) or (
            lines[-1] if lines else f"srun ended with code {self._steps[-1].process.returncode}"
        )

    def queued(self) -> bool:
        """Say whether Slurm has not given any node yet."""
        return all(
            "queued and waiting" in (said := step.said()) and "has been allocated" not in said for step in self._steps
        )

    def _waits(self, step: _Step, present: Collection[str]) -> bool:
        """Say whether a step runs none of whose nodes has joined yet."""
        said = step.said()
        joined = [node for node in present if f"as {node}\n" in said]
        return step.process.poll() is None and not joined

    def _jobs(self) -> list[str]:
        inside = os.environ.get("SLURM_JOB_ID")
        found = [
            match
            for step in self._steps
            if step.process.poll() is None
            for match in re.findall(r"\bjob(?:id)? (\d+)", step.said())
        ]
        return list(dict.fromkeys([*([inside] if inside else []), *found]))

    def _allocation(self) -> list[str]:
        request = self._request
        named = {"--partition": request.partition, "--account": request.account, "--time": request.time}
        return [*(f"{name}={value}" for name, value in named.items() if value), "--job-name=longcat"]

    def _run(self, arguments: Sequence[str]) -> None:
        command = ["srun", "--ntasks-per-node=1", "--no-kill", "--kill-on-bad-exit=0", "--verbose", *arguments]
        self._log.parent.mkdir(parents=True, exist_ok=True)
        begins = self._log.stat().st_size if self._log.is_file() else 0
        # a surrounding job gives its own sizes to srun by the environment
        unset = [part for name in _SIZES if name in os.environ for part in ("--unset", name)]
        process = self._stack.enter_context(
            supervised(
                ["env", *unset, *command, *self._request.arguments, *self._join],
                log=self._log,
                environment={},
                grace_s=self._grace_s + 5,
            )
        )
        self._steps.append(_Step(process, self._log, begins))


def _ask(*command: str) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=_ASK_S, check=False).stdout
    except (OSError, subprocess.TimeoutExpired):
        return ""


def _own_jobs(jobs: Sequence[str]) -> list[str]:
    return [
        job for job in jobs if _ask("squeue", "--noheader", f"--jobs={job}", "--states=RUNNING", "--format=%i").strip()
    ]


def _nodes_of(job: str) -> list[str]:
    names = _ask("squeue", "--noheader", f"--jobs={job}", "--format=%N").strip()
    return _ask("scontrol", "show", "hostnames", names).split() if names else []


def _is_up(node: str) -> bool:
    state = _ask("sinfo", "--noheader", f"--nodes={node}", "--format=%t").strip().splitlines()
    return bool(state) and not re.match(r"down|drain|drng|fail|maint|unk|boot|no_resp|.*\*$", state[0])
