"""What training processes print: a file for each rank and each start, and one for each agent.

`logs/start-0001/rank-3.log`, and `agent.log` of torchrun's own words; where there are nodes, `rank-3-NODE.log` and
`agent-NODE.log`. A restart is another start, so that nothing is overwritten.
"""

from __future__ import annotations

import glob
from collections import deque
from pathlib import Path

FOLDER = "logs"
_LAST_LINES = 3
_LAST_BYTES = 4096
_LINE_CHARACTERS = 200


def logs_of(directory: Path, start: int) -> Path:
    """Return the folder with the logs of a start of processes, counted from 1."""
    return directory / FOLDER / f"start-{start:04d}"


def new_start(directory: Path) -> int:
    """Make the folder for the logs of another start; returns its number.

    Logs of earlier starts in which nothing was printed are removed.
    """
    earlier = sorted((directory / FOLDER).glob("start-*"))
    for log in (log for folder in earlier for log in folder.glob("*.log")):
        if not log.stat().st_size:
            log.unlink(missing_ok=True)
    numbers = [int(number) for folder in earlier if (number := folder.name.removeprefix("start-")).isdigit()]
    start = max(numbers, default=0) + 1
    logs_of(directory, start).mkdir(parents=True)
    return start


def suffix_of(node: str) -> str:
    """Return how the names of a node's logs end; `node` is empty for the only one."""
    return f"-{node}.log" if node else ".log"


def log_of_agent(logs: Path, node: str) -> Path:
    """Return the log of a node's agent."""
    return logs / f"agent{suffix_of(node)}"


def log_of_rank(logs: Path, rank: int, node: str) -> Path:
    """Return the log of a rank; its node is looked up if it is not known."""
    if not node and (found := list(logs.glob(f"rank-{rank}-*.log"))):
        return found[0]
    return logs / f"rank-{rank}{suffix_of(node)}"


def cite(log: Path) -> str:
    """Return where a log is and what its last lines are, in one line."""
    try:
        with log.open("rb") as stream:
            stream.seek(max(0, log.stat().st_size - _LAST_BYTES))
            text = stream.read().decode(errors="replace")
    except OSError:
        return f"see {log}"
    lines = deque((line.strip() for line in text.splitlines() if line.strip()), _LAST_LINES)
    if not lines:
        return f"see {log} (nothing was printed)"
    return f"see {log}, which ends with: {' | '.join(line[:_LINE_CHARACTERS] for line in lines)}"


def pattern_of(logs: Path, node: str) -> str:
    """Return a pattern for all logs of a node, for people."""
    return str(logs / f"*{suffix_of(glob.escape(node))}")
