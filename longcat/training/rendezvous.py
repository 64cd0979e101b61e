"""Where the processes of an attempt meet: a store of keys that the launcher names, or that the only agent opens.

torchrun has its agents vote on who takes part, with a store in one of them. Here the launcher knows the nodes and their order
beforehand, so an agent is told its place, and the store can live where no lost node takes it away.
"""

from __future__ import annotations

import socket
import sys
from datetime import timedelta

from torch.distributed import PrefixStore, TCPStore  # type: ignore[attr-defined]
from torch.distributed.elastic.rendezvous import (
    RendezvousHandler,
    RendezvousInfo,
    RendezvousParameters,
    RendezvousStoreInfo,
)

from longcat.processes.orders import LOOPBACK, address_of, split_address


def open_store(address: str, timeout_s: float) -> TCPStore:
    """Open a store that listens on this address only, at a port that is free.

    Args:
        address: of this machine; torch by itself would listen on every one.
        timeout_s: limit of a wait for a key.
    """
    listening = socket.create_server((address, 0))
    port = listening.getsockname()[1]
    return TCPStore(
        address,
        port,
        None,
        True,
        timedelta(seconds=timeout_s),
        wait_for_workers=False,
        master_listen_fd=listening.detach(),
    )


class Rendezvous(RendezvousHandler):
    """The meeting of a known number of agents, each of which knows its place. torch's elastic agent calls it."""

    def __init__(self, run: str, place: int, nodes: int, store: str | None, timeout_s: float) -> None:
        self._run, self._place, self._nodes, self._timeout_s = run, place, nodes, timeout_s
        self._address = store
        self._store: TCPStore | None = None

    @classmethod
    def of(cls, parameters: RendezvousParameters) -> Rendezvous:
        """Return the meeting that an agent's parameters describe."""
        return cls(
            parameters.run_id,
            int(parameters.get("place")),
            parameters.max_nodes,
            parameters.endpoint or None,
            float(parameters.get("timeout")),
        )

    def get_backend(self) -> str:
        """Return the name that it is registered by."""
        return "longcat"

    @property
    def use_agent_store(self) -> bool:
        """Say that training processes use this store, too, instead of one in rank 0."""
        return True

    def next_rendezvous(self) -> RendezvousInfo:
        """Connect to the store, and say which place this agent has."""
        if self._store is None and self._address is None:
            self._store = open_store(LOOPBACK, self._timeout_s)
            self._address = address_of(LOOPBACK, self._store.port)
        assert self._address is not None
        host, port = split_address(self._address)
        if self._store is None:
            self._store = TCPStore(host, port, None, False, timedelta(seconds=self._timeout_s))
        return RendezvousInfo(
            PrefixStore(self._run, self._store), self._place, self._nodes, RendezvousStoreInfo(host, port)
        )

    def is_closed(self) -> bool:
        """Say that nobody closes it."""
        return False

    def set_closed(self) -> None:
        """Do nothing: an attempt ends with its agents."""

    def num_nodes_waiting(self) -> int:
        """Return 0: who takes part is settled before the agents start."""
        return 0

    def get_run_id(self) -> str:
        """Return the attempt's name."""
        return self._run

    def shutdown(self) -> bool:
        """Do nothing: the store ends with its process."""
        return True


def main() -> None:
    """Keep a store open until standard input is closed: `python -m longcat.training.rendezvous ADDRESS TIMEOUT_S`.

    Its address is written to standard output.
    """
    store = open_store(sys.argv[1], float(sys.argv[2]))
    print(address_of(sys.argv[1], store.port), flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()
