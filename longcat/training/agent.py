"""`python -m longcat.training.agent ORDER REPORT.json`: the torchrun agent of a node, for one attempt.

It starts the node's training processes, ends them all when one fails, and writes down which ones failed and how. Nothing
is started again here: that is for the launcher, which knows all nodes.
"""

from __future__ import annotations

import os
import socket
import sys
from dataclasses import asdict
from pathlib import Path

from torch.distributed.elastic.multiprocessing import LogsDest, LogsSpecs, SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.elastic.rendezvous import rendezvous_handler_registry
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from longcat.artifact import write_json
from longcat.processes.child import lead
from longcat.processes.logs import logs_of, suffix_of
from longcat.processes.memory_kills import MemoryKills
from longcat.processes.orders import Death, Order, Outcome
from longcat.training.rendezvous import Rendezvous

_TO_LOG = 'log="$1/rank-$RANK$2"; shift 2; exec "$@" >>"$log" 2>&1'
"""Program of a shell that becomes a training process, whose output is appended to a file. torch's own redirection would open
one file twice, for output and for errors, each of which writes over the other."""


class _Inherited(LogsSpecs):
    """Streams are as the agent's own, until the shell redirects them; no folder is made for them."""

    def reify(self, envs: dict[int, dict[str, str]]) -> LogsDest:
        nowhere = dict.fromkeys(envs, "")
        return LogsDest(stdouts=nowhere, stderrs=nowhere, error_files=nowhere)

    @property
    def root_log_dir(self) -> str:
        return ""


def main() -> int:
    """Run the agent and return its exit code."""
    order, report = Order.from_json(sys.argv[1]), Path(sys.argv[2])
    # torch asks for the host's full name for its own messages: a name server that is not there would take seconds each time
    socket.getfqdn = lambda name="": name or "localhost"
    lead()
    if order.processes > 1:
        os.environ.setdefault("OMP_NUM_THREADS", "1")
    rendezvous_handler_registry.register("longcat", Rendezvous.of)
    config = LaunchConfig(
        min_nodes=order.nodes,
        max_nodes=order.nodes,
        nproc_per_node=order.processes,
        run_id=f"attempt-{order.attempt}",
        rdzv_backend="longcat",
        rdzv_endpoint=order.store or "",
        rdzv_configs={"place": order.place, "timeout": order.timeout_s},
        max_restarts=0,
        logs_specs=_Inherited(),
        shutdown_timeout=max(1, int(order.grace_s)),
    )
    outcome = Outcome(0)
    kills = MemoryKills.now()
    try:
        logs = logs_of(Path(order.directory), order.start)
        redirected = ("-c", _TO_LOG, "sh", str(logs), suffix_of(order.node))
        elastic_launch(config, "/bin/sh")(*redirected, sys.executable, "-u", "-m", order.module, *order.arguments)
    except ChildFailedError as error:
        deaths = tuple(
            Death(rank, failure.exitcode, failure.timestamp, kills.why(failure.exitcode))
            for rank, failure in error.failures.items()
        )
        outcome = Outcome(1, deaths)
    except SignalException as error:
        outcome = Outcome(1, signal=int(error.sigval))
    try:
        write_json(report, asdict(outcome))
    except OSError as error:  # the exit code tells the most of it
        print(error, file=sys.stderr)
    return outcome.code


if __name__ == "__main__":
    sys.exit(main())
