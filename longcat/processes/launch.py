"""Launching of a node's processes under torchrun's agent, supervised so that none is left behind."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

from longcat.errors import TrainingError
from longcat.processes.child import supervised, wake
from longcat.processes.network import interface_of
from longcat.processes.orders import LOOPBACK, Order, Outcome, split_address
from longcat.processes.verdict import judge

POLL_S = 0.25
LOG = "processes.log"
AGENT = "longcat.training.agent"
_WAKE_S = 5.0
"""Seconds between two looks for a supervisor or an agent that somebody has stopped."""


def launch(order: Order, *, deadline_s: float, poll: Callable[[], None], work: str = "training") -> None:
    """Start processes on this machine alone, and wait for their end.

    Args:
        order: what to start.
        deadline_s: seconds after which the processes are ended.
        poll: called a few times per second; an exception from it ends the processes.
        work: what they do, for the message of a deadline that has passed.

    Raises:
        TrainingError: a process failed, or `deadline_s` has passed; the message has the first failing rank's cause.
        UserError: the cause of the failure is a user error, for example a full disk.
        DeviceError: this machine has no loopback interface.
    """
    directory = Path(order.directory)
    forget_failures(directory)
    end = time.monotonic() + deadline_s

    def look() -> None:
        poll()
        if time.monotonic() > end:
            raise TrainingError(
                f"{work} did not finish within {'training.deadline_s, of which ' if work == 'training' else ''}"
                f"{deadline_s:g} s{' were left for this attempt' if work == 'training' else ''}; see {directory / LOG}"
            )

    outcome = run_agent(order, log=directory / LOG, poll=look)
    if failure := judge(directory, {"": outcome}, directory / LOG):
        raise failure


def forget_failures(directory: Path) -> None:
    """Remove the reports that processes of an earlier attempt have left."""
    for old in directory.glob("error-*.json"):
        old.unlink(missing_ok=True)


def run_agent(order: Order, *, log: Path, poll: Callable[[], None]) -> Outcome:
    """Run this node's part of an attempt, to the end of all its processes.

    Args:
        order: what to start.
        log: file that the output of all processes is appended to.
        poll: called a few times per second; an exception from it ends the processes, and is passed on.

    Returns:
        How they ended.
    """
    report = Path(order.directory) / f".agent-{order.place}.json"
    report.unlink(missing_ok=True)
    interface = interface_of(LOOPBACK if order.store is None else split_address(order.store)[0])
    variables = {"GLOO_SOCKET_IFNAME": interface, **order.environment}
    if "GLOO_SOCKET_IFNAME" in os.environ and order.store is not None:
        del variables["GLOO_SOCKET_IFNAME"]  # somebody who knows this cluster has chosen
    command = [sys.executable, "-m", AGENT, order.to_json(), str(report)]
    with supervised(command, log=log, environment=variables, grace_s=order.grace_s) as process:
        looked = time.monotonic()
        while process.poll() is None:
            poll()
            if time.monotonic() - looked > _WAKE_S:
                looked = time.monotonic()
                wake(process.pid)
            time.sleep(POLL_S)
    try:
        if process.returncode >= 0:  # else the agent knows only that it was told to end, as its supervisor was killed
            return Outcome.from_dict(json.loads(report.read_text(encoding="utf-8")))
        return Outcome(process.returncode, signal=-process.returncode)
    except (OSError, ValueError):  # the agent was killed, or could not write
        code = process.returncode
        return Outcome(code, signal=-code if code < 0 else code - 128 if code > 128 else None)
    finally:
        report.unlink(missing_ok=True)
