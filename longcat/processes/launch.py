"""Launching of a node's processes under torchrun's agent, supervised so that none is left behind."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from longcat.errors import TrainingError
from longcat.processes.child import supervised, wake
from longcat.processes.logs import log_of_agent, logs_of, new_start
from longcat.processes.network import interface_of
from longcat.processes.orders import LOOPBACK, Order, Outcome, split_address
from longcat.processes.verdict import judge
from longcat.unpacking import read_json

POLL_S = 0.25
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
    order = replace(order, start=new_start(directory))
    logs = logs_of(directory, order.start)
    end = time.monotonic() + deadline_s

    def look() -> None:
        poll()
        if time.monotonic() > end:
            raise TrainingError(
                f"{work} did not finish within {'training.deadline_s, of which ' if work == 'training' else ''}"
                f"{deadline_s:g} s{' were left for this attempt' if work == 'training' else ''}; see {logs}"
            )

    outcome = run_agent(order, poll=look)
    if failure := judge(directory, {"": outcome}, logs):
        raise failure


def forget_failures(directory: Path) -> None:
    """Remove the reports that processes of an earlier attempt have left."""
    for old in directory.glob("error-*.json"):
        old.unlink(missing_ok=True)


def run_agent(order: Order, *, poll: Callable[[], None]) -> Outcome:
    """Run this node's part of an attempt, to the end of all its processes.

    Args:
        order: what to start.
        poll: called a few times per second; an exception from it ends the processes, and is passed on.

    Returns:
        How they ended.
    """
    report = Path(order.directory) / f".agent-{order.place}.json"
    report.unlink(missing_ok=True)
    log = log_of_agent(logs_of(Path(order.directory), order.start), order.node)
    log.parent.mkdir(parents=True, exist_ok=True)  # a node may not see yet that the launcher has made it
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
            return Outcome.from_dict(read_json(report))
        return Outcome(process.returncode, signal=-process.returncode)
    except (OSError, ValueError):  # the agent was killed, or could not write
        code = process.returncode
        return Outcome(code, signal=-code if code < 0 else code - 128 if code > 128 else None)
    finally:
        report.unlink(missing_ok=True)
