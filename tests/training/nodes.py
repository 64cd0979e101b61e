"""Nodes of the tests that have joined a launcher."""

import queue
import time

from longcat.accelerator import choose
from longcat.processes.head import Member

CPU = choose("cpu")
FACTS = {
    "accelerator": "cpu",
    "device": CPU.name,
    "devices": CPU.count,
    "memory_bytes": CPU.memory_bytes,
    "bf16": CPU.supports_bf16,
    "cores": 8,
    "threads": None,
}


class Silent:
    """A connection to a node that hears everything and answers what the test says."""

    def __init__(self):
        self.heard = []

    def send(self, **message):
        self.heard.append(message)

    def close(self):
        self.heard.append({"word": "closed"})


def node(name, **facts):
    return Member(name, FACTS | facts, Silent(), "127.0.0.1", "127.0.0.1", queue.Queue(), since=time.monotonic() - 60)
