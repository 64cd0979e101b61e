"""Why an attempt failed: from the reports of processes, the agents' account of who died, and the nodes that were lost."""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from longcat import errors
from longcat.disk import NO_ROOM, refusal_in, trouble
from longcat.errors import DeviceError, StorageError, TrainingError
from longcat.processes.logs import cite, log_of_agent, log_of_rank
from longcat.processes.orders import Death, Outcome, signal_name
from longcat.unpacking import read_json

_CONSEQUENCES = {signal.SIGABRT, signal.SIGTERM}
"""Signals that end a process because another one has gone: it aborts, or an agent that has heard of it ends it."""
_AT_ONCE_S = 1
"""Seconds in which deaths are noticed that were not the agent's doing: it waits longer before it kills."""


def judge(directory: Path, outcomes: Mapping[str, Outcome], logs: Path) -> Exception | None:
    """Find the cause of a failed attempt.

    A user error that a process reports comes first, then a process that was killed (the others lose their connection to it,
    and report that), then the earliest report, then whatever else is known.

    Args:
        directory: holds the reports of this attempt, `error-RANK.json`.
        outcomes: how it ended on each node, by the node's name; "" for the only one.
        logs: folder with what the processes printed; the last lines of the one that failed first are cited.

    Returns:
        The error to raise; None if all processes succeeded.
    """
    if all(outcome.code == 0 for outcome in outcomes.values()):
        return None
    for node, outcome in outcomes.items():
        if outcome.problem:
            return refusal_in(outcome.problem, directory) or DeviceError(f"node {node}: {outcome.problem}")
    deaths = [(node, death) for node, outcome in outcomes.items() for death in outcome.deaths]
    reports = sorted(_reports(directory), key=lambda report: float(report["time"]))
    for report in reports:
        known = getattr(errors, report["type"], None)
        if report["expected"] and known is not None:
            node = next((node for node, death in deaths if death.rank == report["rank"]), "")
            of_machine = bool(node) and issubclass(known, DeviceError | StorageError)
            return known(f"node {node}: {report['message']}" if of_machine else report["message"])
        if (refused := refusal_in(str(report["message"]), directory)) is not None:
            return refused
    if (refused := trouble(directory)) is not None:  # then there is no room for the report that would say so
        return refused
    if any(death.code == NO_ROOM for _, death in deaths):  # there is again
        return refusal_in(os.strerror(NO_ROOM), directory)
    killed = [of for node, outcome in outcomes.items() for of in _killed(node, outcome, reports)]
    for node, death in sorted(killed, key=lambda of: (-of[1].code in _CONSEQUENCES, of[1].time)):
        if reports and -death.code in _CONSEQUENCES:
            break
        return TrainingError(
            f"rank {death.rank}{_on(node)} was killed by {signal_name(-death.code)}{death.why}; "
            f"{cite(log_of_rank(logs, death.rank, node))}"
        )
    if reports:
        first = reports[0]
        text = str(first["message"]).splitlines() or [""]
        node = next((node for node, death in deaths if death.rank == first["rank"]), "")
        log = cite(log_of_rank(logs, int(first["rank"]), node))
        return TrainingError(f"rank {first['rank']}{_on(node)}: {first['type']}: {text[0]}; {log}")
    for node, death in deaths:
        return TrainingError(
            f"rank {death.rank}{_on(node)} ended with code {death.code}; {cite(log_of_rank(logs, death.rank, node))}"
        )
    node, outcome = next((node, outcome) for node, outcome in outcomes.items() if outcome.code)
    log = cite(log_of_agent(logs, node))
    if outcome.signal is not None:
        return TrainingError(
            f"the agent of the training processes{_on(node)} was ended by {signal_name(outcome.signal)}; {log}"
        )
    return TrainingError(f"the agent of the training processes{_on(node)} ended with code {outcome.code}; {log}")


def _killed(node: str, outcome: Outcome, reports: list[dict[str, Any]]) -> list[tuple[str, Death]]:
    """List a node's processes that a signal has ended before they could report, but for those that the agent ended."""
    reported = {report["rank"] for report in reports}
    return [
        (node, death)
        for number, death in enumerate(outcome.deaths)
        if death.code < 0 and death.rank not in reported
        if number == 0 or (-death.code != signal.SIGTERM and death.time <= outcome.deaths[0].time + _AT_ONCE_S)
    ]


def _on(node: str) -> str:
    return f" on node {node}" if node else ""


def _reports(directory: Path) -> list[dict[str, Any]]:
    found = []
    for path in directory.glob("error-*.json"):
        try:
            found.append(read_json(path))
        except (OSError, ValueError):  # the disk was full while it was written
            continue
    return found
