"""The launcher's side of a run on several machines: who has joined, and what they are told.

Nodes connect to the launcher and stay connected; a node whose connection ends, or that is silent, is lost. What happens to a
run then is not decided here.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from longcat.errors import ConfigError
from longcat.processes.channel import KEY, Channel, Closed, Message, new_nonce, proof, proves, write_key
from longcat.processes.network import addresses

PING_S = 2.0
SILENCE_S = 30.0
"""Seconds without a word after which the other side is taken for lost."""
ANSWER_S = 20.0
"""Seconds that a node has to answer, beyond the time that it may take over what it was asked for."""
_GREETING_S = 120.0
"""Limit of a greeting: the node loads torch meanwhile to look at its devices."""
_PARTING_S = 3.0
"""Limit of a wait for nodes to hear the last word."""
_log = logging.getLogger(__name__)


@dataclass
class Member:
    """A node that has joined."""

    name: str
    facts: dict[str, Any]
    """What it says of itself."""
    channel: Channel
    head: str
    """The launcher's address as this node reaches it."""
    address: str
    """Its address, as the launcher reaches it."""
    inbox: queue.Queue[Message] = field(default_factory=queue.Queue)
    """What it has said since and nobody has read yet."""
    lost: str | None = None
    """Why it is gone."""
    since: float = field(default_factory=time.monotonic)

    def answer(self, word: str, limit_s: float) -> Message | None:
        """Wait for a message of this kind; returns None if the node is lost or says nothing."""
        end = time.monotonic() + limit_s
        while time.monotonic() < end and self.lost is None:
            with contextlib.suppress(queue.Empty):
                message = self.inbox.get(timeout=0.2)
                if message.get("word") == word:
                    return message
        return None

    def tell(self, **message: Any) -> None:
        """Send a message; a node that is gone is marked as lost."""
        try:
            self.channel.send(**message)
        except Closed as error:
            self.lost = self.lost or str(error)


class Head:
    """Where nodes join. A context: they are sent home at its end."""

    def __init__(
        self,
        workspace: Path,
        *,
        host: str,
        port: int,
        accelerator: str,
        code: str | None,
        refuse: Callable[[dict[str, dict[str, Any]]], list[str]],
        silence_s: float = SILENCE_S,
    ) -> None:
        """Listen for nodes.

        Args:
            workspace: folder that all of them share.
            host: address to listen at; empty for every address of this machine.
            port: to listen at; 0 for any.
            accelerator: as the configuration asks for it.
            code: what longcat's own files are, which has to be the same everywhere; None takes any.
            refuse: says what is wrong with facts of nodes, by name, in sentences.
            silence_s: seconds without a word after which a node is lost.

        Raises:
            ConfigError: the address is not this machine's, or the port is taken.
        """
        self.workspace, self._accelerator, self._code, self._refuse = workspace, accelerator, code, refuse
        self._silence_s = silence_s
        self._members: dict[str, Member] = {}
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self.refusals: list[str] = []
        """Why nodes could not be taken, in the order of their coming."""
        try:
            self._socket = socket.create_server((host, port), backlog=1024)
        except OSError as error:
            raise ConfigError(
                f"nodes cannot join at {host or 'any address'}, port {port}: {error.strerror or error}; training.head=HOST:PORT "
                "would have to be an address of this machine and a free port"
            ) from error
        self._hosts = [host] if host else addresses()
        self.port = int(self._socket.getsockname()[1])

    def __enter__(self) -> Head:
        self._key = write_key(self.workspace)
        for target in (self._accept, self._ping):
            threading.Thread(target=target, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.part("goodbye")

    def part(self, word: str, **message: Any) -> None:
        """Send every node home with a word, and listen no more."""
        if self._closing.is_set():
            return
        self._closing.set()
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)  # `close` alone would leave the thread in `accept`
        self._socket.close()
        (self.workspace / KEY).unlink(missing_ok=True)
        members = self.members()
        for member in members:
            member.tell(word=word, **message)
            member.channel.finish()
        end = time.monotonic() + _PARTING_S
        while any(member.lost is None for member in members) and time.monotonic() < end:
            time.sleep(0.05)
        for member in members:
            member.channel.close()

    @property
    def address(self) -> str:
        """Where nodes join: the addresses of this machine, separated by commas, and the port."""
        return f"{','.join(self._hosts)}:{self.port}"

    def members(self) -> list[Member]:
        """List the nodes that are there, by name."""
        with self._lock:
            return [member for _, member in sorted(self._members.items()) if member.lost is None]

    def _accept(self) -> None:
        while not self._closing.is_set():
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            if self._closing.is_set():
                connection.close()
                return
            threading.Thread(target=self._greet, args=(Channel(connection),), daemon=True).start()

    def _greet(self, channel: Channel) -> None:
        try:
            hello = channel.receive(_GREETING_S)
            name, nonce = str(hello["name"]), new_nonce()
            channel.send(
                word="head",
                nonce=nonce,
                proof=proof(self._key, "head", str(hello["nonce"])),
                workspace=str(self.workspace),
                accelerator=self._accelerator,
                time=time.time(),
            )
            answer = channel.receive(_GREETING_S)
            if "refused" in answer:
                self.refusals.append(str(answer["refused"]))
                raise Closed(answer["refused"])
            if not proves(self._key, "node", nonce, answer):
                raise Closed(f"node {name} has another key")
            here, there = channel.connection.getsockname()[0], channel.connection.getpeername()[0]
            member = Member(name, answer["facts"], channel, here, there)
        except (OSError, Closed, KeyError, TypeError, ValueError) as error:
            _log.info("a connection was refused: %r", error)
            channel.close()
            return
        if (reason := self._admit(member, str(hello.get("instance")))) is not None:
            member.tell(word="refused", reason=reason, again=reason.endswith("is there"))
            channel.close()
            return
        member.tell(word="welcome")
        self._listen(member)

    def _admit(self, member: Member, instance: str) -> str | None:
        """Take a node in; returns why not."""
        with self._lock:
            member.facts["instance"] = instance
            others = {name: of for name, of in self._members.items() if of.lost is None and name != member.name}
            facts = {name: of.facts for name, of in others.items()} | {member.name: member.facts}
            if self._code is not None and member.facts.get("longcat") != self._code:
                reason = (
                    f"node {member.name} has another longcat than the launcher: {member.facts.get('longcat')} there, "
                    f"{self._code} here; install the same commit on both"
                )
                self.refusals.append(reason)
                return reason
            if problems := self._refuse(facts):
                self.refusals += problems
                return "; ".join(problems)
            same = self._members.get(member.name)
            if same is not None and same.lost is None:
                if same.facts.get("instance") != instance:
                    return f"another node of the name {member.name} is there"
                same.lost = "it has joined again"
                same.channel.close()
            self._members[member.name] = member
        return None

    def _listen(self, member: Member) -> None:
        try:
            while True:
                message = member.channel.receive(self._silence_s)
                if message.get("word") != "ping":
                    member.inbox.put(message)
        except Closed as error:
            member.lost = member.lost or str(error)
        member.channel.close()

    def _ping(self) -> None:
        while not self._closing.wait(PING_S):
            for member in self.members():
                member.tell(word="ping")


@contextmanager
def ended_by(head: Head) -> Iterator[None]:
    """Tell the nodes why a run ends, if it ends with an error that concerns them."""
    from longcat.errors import UserError

    try:
        yield
    except UserError as error:
        head.part("refused", reason=str(error))
        raise
