"""What a launcher makes of the nodes that have joined: whom it takes, what their processes are given, and where these meet."""

from __future__ import annotations

import os
import select
import subprocess
import sys
from collections.abc import Iterator, Sequence, Set
from contextlib import contextmanager, suppress

from longcat.accelerator import Accelerator
from longcat.errors import TrainingError
from longcat.lease import TOKENS
from longcat.processes.head import Member
from longcat.processes.orders import NODE

_EVERYWHERE = "0.0.0.0"  # nosec B104 # for nodes that reach the store by several addresses
_STORE_S = 120.0
"""Limit of the start of the store, which loads torch."""


def spared(members: list[Member], suspected: Set[str], least: int) -> list[Member]:
    """Leave out the nodes that have computed wrong bits, if enough others are there."""
    good = [member for member in members if member.name not in suspected]
    return good if len(good) >= least else members


def variables_of(common: dict[str, str], member: Member, processes: int) -> dict[str, str]:
    """Return the variables of a node's processes: threads by its own cores, unless somebody has chosen there."""
    # the nodes write under the launcher's lease
    variables = common | {NODE: member.name} | {name: os.environ[name] for name in (TOKENS,) if name in os.environ}
    if "OMP_NUM_THREADS" in variables:
        del variables["OMP_NUM_THREADS"]
        if not member.facts.get("threads"):
            variables["OMP_NUM_THREADS"] = str(max(1, int(member.facts["cores"]) // processes))
    return variables


def accelerator_of(member: Member) -> Accelerator:
    """Return what a node computes on."""
    facts = member.facts
    return Accelerator(
        kind=facts["accelerator"],
        name=facts["device"],
        count=facts["devices"],
        memory_bytes=facts["memory_bytes"],
        supports_bf16=facts["bf16"],
    )


@contextmanager
def meeting_place(members: Sequence[Member], timeout_s: float) -> Iterator[int]:
    """Keep a store open in a process of its own, where all processes of these nodes meet; yields its port."""
    reached = {member.head for member in members}
    address = reached.pop() if len(reached) == 1 else "::" if any(":" in one for one in reached) else _EVERYWHERE
    command = [sys.executable, "-m", "longcat.training.rendezvous", address, f"{timeout_s:g}"]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin is not None and process.stdout is not None
    try:
        told, _, _ = select.select([process.stdout], [], [], _STORE_S)
        line = process.stdout.readline().strip() if told else ""
        if not line:
            raise TrainingError("the store where training processes meet could not be opened")
        yield int(line.rpartition(":")[2])
    finally:
        process.stdin.close()
        process.stdout.close()
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            with suppress(subprocess.TimeoutExpired):
                process.wait(5)
