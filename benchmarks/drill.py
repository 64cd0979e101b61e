"""Random faults at random moments, again and again until a run is finished: what was promised, and whether it was kept.

    python benchmarks/drill.py --kills 25 --seed 1 [--faults SIGKILL,SIGTERM,full,...] [--steps 200] [--command pretrain]
                               [--minutes M] [--folder DIR] [--json]

Trains `smoke` once without disturbance. Then runs the same command in a new workspace and hurts it at moments drawn from the
seed: signals to training processes, their agent and supervisor, the flow, workers of the corpus and Prefect's server; a disk
that is full for a while, or read-only; an MLflow that refuses connections, hangs or fails; a node lost (an agent killed with
its processes). When the command has ended it is started again, until it succeeds; then another workspace follows, until as
many faults were done as were asked for. What is done is drawn from the seed alone, what it meets depends on the machine.

Every workspace is on a disk of its own (root and loop devices needed; without them faults of disks are left out, and said so).

Promised, and counted:

steps_lost      steps done again beyond those since the last checkpoint that was due, where one that was still being written is
                not counted as due; 0
points_lost     points in the journals, or in the curves of the finished checkpoint, that MLflow lacks after `longcat sync`; 0
points_doubled  points that it has twice; 0
leftovers       processes after any command; locks, temporary files, half artifacts and open runs after the last one; none
identical       the finished artifact is that of the undisturbed run, weights, moments, samples and curve to the bit
broken          anything else: a command that ends with another exit code than its faults allow, a traceback, a standstill

Exit code 1 if any of it is broken.
"""

from __future__ import annotations

import argparse
import getpass
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
from drills import accounts, faults
from drills.command import MARK, MAX_RESTARTS, Done, Ending, processes_of, run
from drills.disk import Disk
from drills.faults import Plan

INTERVAL = 5
_SHARED = {f"torchinductor_{getpass.getuser()}"}
"""Temporary folders of a user that libraries do not remove."""
MOST_COMMANDS = 60
"""Commands in one workspace; one that needs more gets nowhere."""


def settings(steps: int) -> list[str]:
    """Return the options of every run."""
    values = {
        "accelerator": "cpu", "corpus.workers": 2, "training.processes": 2, "training.steps": steps,
        "training.checkpoint_every_steps": INTERVAL, "training.held_out_every_steps": 20, "training.sample_tokens": 4,
        "training.check_every_steps": 25, "training.hang_timeout_s": 12, "training.grace_s": 5,
        "training.max_restarts": MAX_RESTARTS,
    }  # fmt: skip
    return [
        "--preset",
        "smoke",
        "--json",
        *(word for name, value in values.items() for word in ("--set", f"{name}={value}")),
    ]


class Drill:
    """Rounds of a drill, each in a workspace of its own."""

    def __init__(self, folder: Path, plan: Plan, command: str, steps: int, kept: bool) -> None:
        self.folder, self.plan, self.words, self.done = folder, plan, [command, *settings(steps)], list[Done]()
        self.kept = kept
        self.token = uuid.uuid4().hex
        self.temporary = folder / "tmp"
        self.temporary.mkdir()
        for name in ("MLFLOW_TRACKING_URI", "PREFECT_API_URL", "LONGCAT_WORKSPACE"):
            os.environ.pop(name, None)
        self.environment = {**os.environ, MARK: self.token, "TMPDIR": str(self.temporary), "OMP_NUM_THREADS": "1"}
        self.result: dict[str, Any] = {
            "kills": 0, "steps_lost": 0, "steps_again": 0, "points_lost": 0, "points_doubled": 0, "leftovers": [],
            "identical": True, "broken": [], "rounds": [], "commands": 0, "faults": [],
        }  # fmt: skip

    def undisturbed(self) -> Path:
        """Make the checkpoint to compare with."""
        workspace = self.folder.parent / "undisturbed" if self.kept else self.folder / "undisturbed"
        began = time.monotonic()
        done = self._longcat(*self.words, "--workspace", str(workspace))
        if done.returncode:
            raise SystemExit(f"the undisturbed run failed: {done.stderr[-2000:]}")
        self.result["undisturbed_s"] = round(time.monotonic() - began, 1)
        say(f"undisturbed run: {self.result['undisturbed_s']} s")
        stages = {stage["stage"]: stage for stage in json.loads(done.stdout)["stages"]}
        return Path(stages["pretrain"]["artifact"]["path"])

    def round(self, number: int, reference: Path) -> None:
        """Hurt the command in a new workspace until it succeeds, and see what is left."""
        disk = Disk(self.folder / f"disk-{number}")
        workspace = disk.folder / "workspace"
        steps = accounts.Steps(workspace, INTERVAL)
        before, broken = len(self.done), len(self.result["broken"])
        try:
            if disk.missing is not None:
                self.plan.leave_out(faults.DISK)
                self.result["left_out"] = f"full and read-only disks: {disk.missing}"
            for attempt in range(1, MOST_COMMANDS + 1):
                ending = self._attempt(f"{number}-{attempt}", workspace, steps, disk)
                if ending.code == 0:
                    break
            else:
                self._broken(f"round {number}: not finished after {MOST_COMMANDS} commands")
                return
            steps.look()
            if any(one.fault.kind == "read-only" for one in self.done[before:]):
                # such a disk forgets what was removed in its last moments; the next command does it again
                self._longcat(*self.words, "--workspace", str(workspace))
            self._account(number, workspace, steps, reference)
            self.result["rounds"].append(
                {"kills": len(self.done) - before, "commands": attempt, "starts": steps.starts}
            )
        finally:
            if len(self.result["broken"]) > broken:  # to look at
                shutil.copytree(workspace, self.folder / f"broken-{number}", dirs_exist_ok=True, symlinks=True)
            disk.close()

    def _attempt(self, name: str, workspace: Path, steps: accounts.Steps, disk: Disk) -> Ending:
        self.result["commands"] += 1

        def note(one: Done) -> None:
            self.done.append(one)
            one.number = len(self.done)
            what = str(one.fault) if one.target in str(one.fault) else f"{one.fault.kind} {one.target}"
            say(f"{one.number:4d} {name:>6} {one.at_s:6.1f} s  step {one.step:3d}  {what} {one.fault.moment}")

        ending = run(
            [*self.words, "--workspace", str(workspace)],
            steps=steps, disk=disk, plan=self.plan, done=note, environment=self.environment,
            errors=self.folder / f"command-{name}.txt",
        )  # fmt: skip
        say(f"     {name:>6} ended with code {ending.code} {ending.said if ending.code else ''}")
        for fault in ending.broken:
            self._broken(f"command {name}: {fault}")
        disk.mend()
        for fault in accounts.damaged(workspace):
            self._broken(f"command {name}: {fault}")
        return ending

    def _account(self, number: int, workspace: Path, steps: accounts.Steps, reference: Path) -> None:
        store = workspace / "mlflow.db"
        done = self._longcat("sync", "--workspace", str(workspace))
        if done.returncode:
            self._broken(
                f"round {number}: longcat sync ended with code {done.returncode}: {done.stderr.strip()[-300:]}"
            )
        wanted, there = accounts.journaled(workspace), accounts.stored(store)
        [checkpoint] = workspace.glob("checkpoint/[!.]*")
        lost = sum(key not in there for key in wanted) + accounts.curve_lost(store, checkpoint)
        doubled = sum(count - 1 for count in there.values())
        different = accounts.differences(checkpoint, reference)
        left = [
            *accounts.left_files(workspace),
            *(f"MLflow's run {run} is left open" for run in accounts.open_runs(store)),
            *(f"temporary file {path.name}" for path in self.temporary.iterdir() if path.name not in _SHARED),
        ]
        for note in steps.notes:
            self._broken(f"round {number}: {note}")
        for what in different:
            self._broken(f"round {number}: not identical: {what}")
        for what in left:
            self._broken(f"round {number}: left over: {what}")
        if lost or doubled:
            self._broken(f"round {number}: {lost} points lost, {doubled} doubled")
        self.result["steps_lost"] += steps.lost
        self.result["steps_again"] += steps.again
        self.result["points_lost"] += lost
        self.result["points_doubled"] += doubled
        self.result["leftovers"] += left
        self.result["identical"] &= not different
        say(
            f"round {number}: finished; {'identical' if not different else 'NOT identical'}, {len(wanted)} points, {lost} lost"
        )

    def _longcat(self, *words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "longcat.cli", *words]
        return subprocess.run(command, env=self.environment, capture_output=True, text=True, check=False, timeout=1800)

    def _broken(self, what: str) -> None:
        say(f"BROKEN {what}")
        self.result["broken"].append(what)

    def close(self) -> None:
        """End whatever is left."""
        for process in processes_of((MARK, self.token)):
            with suppress(psutil.Error):
                process.kill()


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def table(done: list[Done]) -> str:
    """Return what was done, a line a fault."""
    rows = [f"{'kill':>4} {'at':>7} {'step':>5}  {'what':<28} {'when':<28} {'new step':>8}  what came of it"]
    for one in done:
        again = "" if one.recovery_s is None else f"{one.recovery_s:.1f} s"
        what = f"{one.fault.kind} {one.target}"
        rows.append(
            f"{one.number:4d} {one.at_s:5.1f} s {one.step:5d}  {what:<28} {one.fault.moment:<28} {again:>8}  {one.outcome[:160]}"
        )
    return "\n".join(rows)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=25, metavar="N", help="faults to do (default: 25)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--faults", default=",".join(faults.KINDS), help=f"of {', '.join(faults.KINDS)} (default: all)")
    parser.add_argument("--steps", type=int, default=200, help="of a run; a checkpoint follows every 5 (default: 200)")
    parser.add_argument("--command", default="pretrain", choices=["pretrain", "run"])
    parser.add_argument("--minutes", type=float, help="do no more faults after this time, and let the run be finished")
    parser.add_argument("--folder", type=Path, help="where workspaces are made; it is kept (default: a temporary one)")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    kinds = [kind.strip() for kind in arguments.faults.split(",")]
    if unknown := [kind for kind in kinds if kind not in faults.KINDS]:
        parser.error(f"no such fault: {', '.join(unknown)}; there are {', '.join(faults.KINDS)}")
    if arguments.folder is not None:
        arguments.folder.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="drill-", dir=arguments.folder))
    began = time.monotonic()
    plan = Plan(
        faults.draw(arguments.seed, arguments.kills, kinds),
        began + 60 * arguments.minutes if arguments.minutes else math.inf,
    )
    drill = Drill(folder, plan, arguments.command, arguments.steps, arguments.folder is not None)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    try:
        reference = drill.undisturbed()
        number = 0
        while not plan.over():
            number += 1
            before = len(drill.done)
            drill.round(number, reference)
            if len(drill.done) == before and plan.left:
                plan.left.pop(0)  # its moment never comes
    finally:
        drill.close()
    result = drill.result | {
        "seed": arguments.seed,
        "kills": len(drill.done),
        "faults": [one.as_dict() for one in drill.done],
    }
    result["left_undone"] = len(plan.left)
    result["seconds"] = round(time.monotonic() - began, 1)
    print(json.dumps(result, indent=2) if arguments.json else _page(result, drill.done))
    kept = not result["broken"]
    if kept and arguments.folder is None:
        shutil.rmtree(folder)
    else:
        say(f"workspaces and outputs are kept in {folder}")
    return int(not kept)


def _page(result: dict[str, Any], done: list[Done]) -> str:
    lines = [table(done), ""]
    if said := result.get("left_out"):
        lines.append(f"left out: {said}")
    lines.append(
        f"{result['kills']} faults in {len(result['rounds'])} runs and {result['commands']} commands, {result['seconds']:.0f} s; "
        f"steps done again: {result['steps_again']}, of them lost: {result['steps_lost']}; metric points lost: "
        f"{result['points_lost']}, doubled: {result['points_doubled']}; left over: {len(result['leftovers'])}; "
        f"{'identical to' if result['identical'] else 'NOT IDENTICAL to'} the undisturbed run"
    )
    if undone := result["left_undone"]:
        lines.append(f"left undone for lack of time: {undone} faults")
    lines += [f"broken: {what}" for what in result["broken"]] or ["every promise was kept"]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
