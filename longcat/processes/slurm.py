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
from dataclasses import dataclass
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

_FRESH_S = 5.0
"""Seconds for which an answer of Slurm is taken for the present one: its controller serves a whole cluster."""
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
    """Its own."""

    @property
    def runs(self) -> bool:
        return self.process.poll() is None

    def joined(self) -> bool:
        """Say whether one of its nodes has joined the launcher."""
        return "\njoined " in f"\n{self.said()}"

    def said(self) -> str:
        return self.log.read_text(encoding="utf-8", errors="replace")

    def told(self) -> list[str]:
        """Return what srun itself has said, without the lines of the nodes."""
        return re.findall(r"^srun: (.*\S)", self.said(), re.M)

    def queued(self) -> bool:
        """Say whether Slurm has not given it any node yet."""
        told = self.told()
        return any("queued and waiting" in line for line in told) and not any(
            "has been allocated" in line for line in told
        )

    def jobs(self) -> list[str]:
        return [found[1] for line in self.told() if (found := re.match(r"job(?:id)? (\d+)\b", line))]


class Slurm:
    """The job steps that a launcher has started. A context: they end with it."""

    def __init__(
        self, request: Request, *, address: str, workspace: Path, logs: Path, wait_s: float, grace_s: float
    ) -> None:
        """Describe the steps.

        Args:
            request: what is asked of Slurm.
            address: where nodes join.
            workspace: folder that all of them share.
            logs: folder for what each srun and its nodes say, `srun-0001.log` and so on.
            wait_s: limit of a node's wait for the launcher.
            grace_s: seconds that nodes have to end their processes.

        Raises:
            ConfigError: this machine has no srun.
        """
        if shutil.which("srun") is None:
            raise ConfigError(
                "training.launcher=slurm needs srun, which is not on PATH: run this on a login node of the cluster"
            )
        self._request, self._logs, self._grace_s = request, logs, grace_s
        self._join = [
            sys.executable, "-m", "longcat.cli", "join", address, "--workspace", str(workspace), "--wait-s", f"{wait_s:g}",
        ]  # fmt: skip
        self._stack = ExitStack()
        self._steps: list[_Step] = []
        self._tried = -_AGAIN_S
        self._answers: dict[tuple[str, ...], tuple[float, str]] = {}

    def __enter__(self) -> Slurm:
        return self

    def __exit__(self, *_: object) -> None:
        end = time.monotonic() + _LEAVING_S  # nodes that were sent home end by themselves
        while time.monotonic() < end and any(step.runs and step.joined() for step in self._steps):
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
        own = {node: job for job in self._own_jobs() for node in self._nodes_of(job)}
        back = [node for node in own if node not in present and self._is_up(node)][:missing]
        for node in back:  # the job still has it
            self._run([f"--jobid={own[node]}", "--overlap", "--nodes=1", f"--nodelist={node}"])
        if not back and "SLURM_JOB_ID" not in os.environ:  # one after the other, as they become free
            without = [f"--exclude={','.join(sorted(present))}"] if present else []
            self._run(["--nodes=1", *without, *self._allocation()])

    def expected(self) -> list[str]:
        """List the names of the nodes that the jobs have."""
        return [node for job in self._own_jobs() for node in self._nodes_of(job)]

    def trouble(self) -> str | None:
        """Say why no more nodes will come by themselves: what srun has said, if none of them runs any more; else None."""
        if not self._steps or any(step.runs for step in self._steps):
            return None
        lines = [line.strip() for line in self._steps[-1].said().splitlines() if line.strip()]
        errors = [
            line.removeprefix("error: ")
            for line in self._steps[-1].told()
            if re.match(r"error: |job \d+ .*cancelled", line, re.I)
        ]
        return "; ".join(errors[:2]) or (
            lines[-1] if lines else f"srun ended with code {self._steps[-1].process.returncode}"
        )

    def queued(self) -> str | None:
        """Return what the queue says of the jobs that wait there, with their numbers; None if none of them waits."""
        waiting = [step for step in self._steps if step.runs and step.queued()]
        if not waiting:
            return None
        jobs = [job for step in waiting for job in step.jobs()]
        rows = [
            line.split("|")
            for job in jobs
            for line in self._ask("squeue", "--noheader", f"--jobs={job}", "--format=%i|%T|%r").splitlines()
        ]
        found = [f"job {row[0]}, {row[2]}" for row in rows if len(row) == 3 and row[1] == "PENDING"]
        return "; ".join(found) or f"job {', '.join(jobs)}"

    def logs(self) -> str:
        """Return where the last step's log is."""
        return str(self._steps[-1].log if self._steps else self._logs)

    def _waits(self, step: _Step, present: Collection[str]) -> bool:
        """Say whether a step runs none of whose nodes has joined yet."""
        said = step.said()
        joined = [node for node in present if f"as {node}\n" in said]
        return step.runs and not joined

    def _jobs(self) -> list[str]:
        inside = os.environ.get("SLURM_JOB_ID")
        found = [job for step in self._steps if step.runs for job in step.jobs()]
        return list(dict.fromkeys([*([inside] if inside else []), *found]))

    def _allocation(self) -> list[str]:
        request = self._request
        named = {"--partition": request.partition, "--account": request.account, "--time": request.time}
        return [*(f"{name}={value}" for name, value in named.items() if value), "--job-name=longcat"]

    def _run(self, arguments: Sequence[str]) -> None:
        command = ["srun", "--ntasks-per-node=1", "--no-kill", "--kill-on-bad-exit=0", "--verbose", *arguments]
        self._logs.mkdir(parents=True, exist_ok=True)
        log = _new_log(self._logs)
        # a surrounding job gives its own sizes to srun by the environment
        unset = [part for name in _SIZES if name in os.environ for part in ("--unset", name)]
        process = self._stack.enter_context(
            supervised(
                ["env", *unset, *command, *self._request.arguments, *self._join],
                log=log,
                environment={},
                grace_s=self._grace_s + 5,
            )
        )
        self._steps.append(_Step(process, log))

    def _own_jobs(self) -> list[str]:
        running = ("--states=RUNNING", "--format=%i")
        return [job for job in self._jobs() if self._ask("squeue", "--noheader", f"--jobs={job}", *running).strip()]

    def _nodes_of(self, job: str) -> list[str]:
        names = self._ask("squeue", "--noheader", f"--jobs={job}", "--format=%N").strip()
        return self._ask("scontrol", "show", "hostnames", names).split() if names else []

    def _is_up(self, node: str) -> bool:
        state = self._ask("sinfo", "--noheader", f"--nodes={node}", "--format=%t").strip().splitlines()
        return bool(state) and not re.match(r"down|drain|drng|fail|maint|unk|boot|no_resp|.*\*$", state[0])

    def _ask(self, *command: str) -> str:
        """Return what a command of Slurm writes, or wrote not long ago; nothing if it fails."""
        when, answer = self._answers.get(command, (-_FRESH_S, ""))
        if time.monotonic() - when >= _FRESH_S:
            try:
                done = subprocess.run(command, capture_output=True, text=True, timeout=_ASK_S, check=False)
                answer = done.stdout
            except (OSError, subprocess.TimeoutExpired):
                answer = ""
            self._answers[command] = (time.monotonic(), answer)
        return answer


def _new_log(folder: Path) -> Path:
    """Make a log that no step of this or an earlier run has written to."""
    numbers = [int(found) for path in folder.glob("srun-*.log") if (found := path.stem.removeprefix("srun-")).isdigit()]
    log = folder / f"srun-{max(numbers, default=0) + 1:04d}.log"
    log.touch(exist_ok=False)
    return log
