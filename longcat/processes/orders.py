"""What a launcher asks of a node's agent, and what it hears of the end. Plain values that travel as JSON."""

from __future__ import annotations

import json
import signal
from dataclasses import asdict, dataclass
from typing import Any

from longcat.unpacking import parse_json

NODE = "LONGCAT_NODE"
"""Variable with the name of the node that a process runs on, where nodes have names of their own."""
LOOPBACK = "127.0.0.1"


@dataclass(frozen=True)
class Order:
    """The processes that a node starts for one attempt."""

    module: str
    """Run as `python -m` in every process."""
    arguments: tuple[str, ...]
    """Command-line arguments of the module."""
    directory: str
    """Folder for logs (`longcat.processes.logs`) and reports, which all nodes see."""
    processes: int
    """On this node."""
    environment: dict[str, str]
    """Variables set in addition to the node's own."""
    grace_s: float
    """Seconds that processes have to save their work when they are ended."""
    timeout_s: float
    """Limit in seconds of the meeting of all processes."""
    attempt: int = 0
    """Launches before this one."""
    start: int = 1
    """Number of the folder for what the processes print."""
    node: str = ""
    """Name of this node; empty for a single one."""
    nodes: int = 1
    """That take part."""
    place: int = 0
    """Of this node among them: its ranks follow those of the nodes before it."""
    store: str | None = None
    """HOST:PORT where the processes of all nodes meet; None for a single node, whose agent sees to it."""

    def to_json(self) -> str:
        """Write the order as JSON."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Order:
        """Read what `to_json` wrote."""
        values = parse_json(text)
        return cls(**{**values, "arguments": tuple(values["arguments"])})


@dataclass(frozen=True)
class Death:
    """A process that failed."""

    rank: int
    code: int
    """Exit code; a signal's number below 0."""
    time: int
    """When it was noticed, in seconds since the epoch."""
    why: str = ""
    """What the node's kernel knows of it, see `longcat.processes.memory_kills`."""


@dataclass(frozen=True)
class Outcome:
    """How the processes of a node ended in one attempt."""

    code: int
    """Exit code of the node's agent; 0 if no process failed."""
    deaths: tuple[Death, ...] = ()
    """Those that failed, the first one first; the agent has then ended the others, some of which may have failed of that."""
    signal: int | None = None
    """Signal that ended the agent; it has ended its processes then."""
    problem: str = ""
    """Why the node could not start any."""

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Outcome:
        """Read what `dataclasses.asdict` wrote."""
        return cls(
            values["code"],
            tuple(Death(**death) for death in values["deaths"]),
            values["signal"],
            values.get("problem", ""),
        )


def signal_name(number: int) -> str:
    """Return the name of a signal."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def address_of(host: str, port: int) -> str:
    """Write a host and a port as one word; an IPv6 address in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def split_address(address: str) -> tuple[str, int]:
    """Take a word of `address_of` apart.

    Raises:
        ValueError: it has no port.
    """
    host, colon, port = address.rpartition(":")
    if not colon or not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise ValueError(f"{address!r} is not HOST:PORT")
    return host.removeprefix("[").removesuffix("]"), int(port)
