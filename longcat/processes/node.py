"""A node's side of a run on several machines: it joins a launcher, and starts what the launcher tells it to."""

from __future__ import annotations

import os
import queue
import socket
import sys
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from longcat.errors import ConfigError, DeviceError, UserError
from longcat.processes import links, shared_folder
from longcat.processes.channel import KEY, Channel, Closed, Message, new_nonce, proof, proves
from longcat.processes.head import PING_S, SILENCE_S
from longcat.processes.launch import run_agent
from longcat.processes.orders import Order, Outcome, address_of

AGAIN_S = 30.0
"""Seconds that a node looks for the launcher of a next stage, after one has sent it home."""
VISIBLE_S = 20.0
"""Seconds after which a shared file system shows everywhere what was written on one node."""
_CONNECT_S = 5.0
_RETRY_S = 1.0
Facts = Callable[[str], dict[str, Any]]


class _Stopped(Exception):  # noqa: N818
    """The launcher has asked for the end of this node's processes."""


class _Home(Exception):  # noqa: N818
    """The launcher has no more work; unless that is final, the one of a next stage may come."""

    def __init__(self, final: bool) -> None:
        self.final = final


class _NotNow(Exception):  # noqa: N818
    """The launcher takes no node of this name at the moment."""


def join(
    hosts: list[str], port: int, *, workspace: Path, name: str, facts: Facts, wait_s: float, say: Callable[[str], None]
) -> None:
    """Join a launcher and work for it until it has no more work; join again when the connection is lost.

    Args:
        hosts: addresses that the launcher may be reached at.
        port: of the launcher.
        workspace: folder that is shared with the launcher.
        name: of this node.
        facts: says what this node is, for the accelerator that the configuration asks for.
        wait_s: limit of a wait for the launcher, and again for one that takes the place of one that is lost.
        say: hears what happens, in sentences.

    Raises:
        ConfigError: no launcher can be reached, or this node does not fit the others.
        DeviceError: the accelerator that is asked for is not there.
    """
    instance = f"{os.getpid()}-{uuid.uuid4().hex}"
    where = address_of(",".join(hosts), port)
    worked, end = False, time.monotonic() + wait_s
    while True:
        joined = False
        try:
            channel = _connect(hosts, port, end)
        except TimeoutError as error:
            if worked:
                say("the launcher has no more work")
                return
            raise ConfigError(
                f"no launcher of longcat can be reached at {where} within {wait_s:g} s ({error}); it prints the address when it "
                "waits for nodes"
            ) from None
        try:
            _greet(channel, workspace, name, instance, facts, where)
            say(f"joined {where} as {name}")
            joined = True
            _work(channel, workspace, name)
        except _Home as home:
            if home.final:
                say("the launcher has no more work")
                return
            worked, end = True, time.monotonic() + min(AGAIN_S, wait_s)
        except _NotNow as error:
            if time.monotonic() > end:
                raise ConfigError(f"{error}; give this one another --name") from None
            time.sleep(_RETRY_S)
        except Closed as error:
            if joined:  # the same command may be started again there, and goes on
                say(f"lost the launcher at {where}: {error}")
                worked, end = False, time.monotonic() + wait_s
            elif time.monotonic() > end and not worked:
                raise ConfigError(f"what answers at {where} takes no node within {wait_s:g} s: {error}") from None
            elif time.monotonic() > end:
                say("the launcher has no more work")
                return
            time.sleep(_RETRY_S)
        finally:
            channel.close()


def _connect(hosts: list[str], port: int, end: float) -> Channel:
    trouble = "no address"
    while True:
        for host in hosts:
            try:
                return Channel(socket.create_connection((host, port), timeout=_CONNECT_S))
            except OSError as error:
                trouble = f"{host}: {error.strerror or error}"
        if time.monotonic() > end:
            raise TimeoutError(trouble)
        time.sleep(_RETRY_S)


def _greet(channel: Channel, workspace: Path, name: str, instance: str, facts: Facts, where: str) -> None:
    nonce = new_nonce()
    channel.send(name=name, nonce=nonce, instance=instance)
    head = channel.receive(SILENCE_S)
    heard = time.time()  # what follows may take long
    if (key := _key_of(workspace, nonce, head)) is None:
        reason = (
            f"the workspace {workspace} of node {name} is not {head.get('workspace')} of the launcher at {where}: all nodes need "
            "the same file system, at the same path (longcat join --workspace DIR)"
        )
        channel.send(refused=reason)
        raise ConfigError(reason)
    if str(workspace) != str(head.get("workspace")):
        reason = f"the workspace is {head.get('workspace')} at the launcher and {workspace} on node {name}: mount it at the same path"
        channel.send(refused=reason)
        raise ConfigError(reason)
    try:
        about = facts(str(head["accelerator"]))
    except UserError as error:
        channel.send(refused=f"node {name}: {error}")
        raise
    except Exception as error:  # of a device's library, in whatever state it is
        reason = f"node {name} cannot look at its devices: {type(error).__name__}: {' '.join(str(error).split())}"
        channel.send(refused=reason)
        raise DeviceError(reason) from error
    about["clock_ahead_s"] = round(heard - float(head["time"]), 1) if "time" in head else 0.0
    channel.send(proof=proof(key, "node", str(head["nonce"])), facts=about)
    _obey(channel.receive(SILENCE_S))


def _key_of(workspace: Path, nonce: str, head: Message) -> bytes | None:
    """Return the key in the workspace if the launcher has it too; None if it has not, or there is none."""
    end = time.monotonic() + VISIBLE_S
    while True:
        try:
            key = (workspace / KEY).read_bytes()
            if proves(key, "head", nonce, head):
                return key
        except OSError:
            pass
        if time.monotonic() > end:
            return None
        if workspace.is_dir():
            list(workspace.iterdir())  # has a network file system look again
        time.sleep(0.2)


def _obey(message: Message) -> Message:
    """Return a message that asks for something."""
    match message.get("word"):
        case "goodbye":
            raise _Home(bool(message.get("final")))
        case "refused" if message.get("again"):
            raise _NotNow(str(message.get("reason")))
        case "refused":
            raise ConfigError(str(message.get("reason")))
    return message


def _work(channel: Channel, workspace: Path, name: str) -> None:
    """Do what the launcher says until the connection ends."""
    inbox: queue.Queue[Message | Closed] = queue.Queue()
    ended = threading.Event()

    def listen() -> None:
        try:
            while True:
                message = channel.receive(SILENCE_S)
                if message.get("word") != "ping":
                    inbox.put(message)
        except Closed as error:
            inbox.put(error)

    def ping() -> None:
        try:
            while not ended.wait(PING_S):
                channel.send(word="ping")
        except Closed:
            return  # `listen` has noticed as well

    for target in (listen, ping):
        threading.Thread(target=target, daemon=True).start()

    def next_message(wait: bool) -> Message | None:
        try:
            message = inbox.get(block=wait)
        except queue.Empty:
            return None
        if isinstance(message, Closed):
            raise message
        return _obey(message)

    try:
        while True:
            message = next_message(wait=True)
            assert message is not None
            match message.get("word"):
                case "start":
                    order = Order.from_json(str(message["order"]))
                    refusal = _refusal(order, workspace)
                    outcome = Outcome(1, problem=refusal) if refusal else _run(order, name, next_message)
                    channel.send(word="ended", outcome=asdict(outcome), attempt=order.attempt)
                    if outcome.problem:
                        print(outcome.problem, file=sys.stderr)
                    if refusal:
                        raise ConfigError(refusal)
                case "check":
                    result = shared_folder.answer(workspace, name, str(message["step"]), str(message["token"]))
                    channel.send(word="checked", problem=result)
                case "listen":
                    channel.send(word="listening", **_listening(message))
                case "send":
                    channel.send(word="sent", **_sent(message))
    finally:
        ended.set()


def _run(order: Order, name: str, next_message: Callable[[bool], Message | None]) -> Outcome:
    def poll() -> None:
        message = next_message(False)
        if message is not None and message.get("word") == "stop":
            raise _Stopped

    try:
        return run_agent(replace(order, node=name), poll=poll)
    except _Stopped:
        return Outcome(0)
    except (UserError, OSError) as error:
        return Outcome(1, problem=str(error))


def _listening(message: Message) -> dict[str, Any]:
    try:
        return links.listen(str(message["address"]))
    except OSError as error:
        return {"problem": error.strerror or str(error)}


def _sent(message: Message) -> dict[str, Any]:
    try:
        return {"bytes_per_second": links.send(str(message["host"]), int(message["port"]), str(message["say"]))}
    except OSError as error:
        return {"problem": error.strerror or str(error)}


def _refusal(order: Order, workspace: Path) -> str:
    """Say why an order is refused: for a program that is not longcat's, or for a folder outside the workspace."""
    if not order.module.startswith("longcat.") or not Path(order.directory).resolve().is_relative_to(workspace):
        return f"the launcher asks for {order.module} in {order.directory}, which is not for this node"
    return ""
