"""Nodes that join a launcher, each in a thread: who is taken, who is refused, and what is noticed of one that is lost."""

import contextlib
import socket
import threading
import time
from dataclasses import asdict, replace

import pytest

from longcat.errors import ConfigError, DeviceError
from longcat.processes import head as head_module
from longcat.processes import node as node_module
from longcat.processes import shared_folder
from longcat.processes.agreement import disagreements
from longcat.processes.channel import KEY, Channel, proof
from longcat.processes.child import free_port
from longcat.processes.head import Head
from longcat.processes.node import join
from longcat.processes.orders import Order, Outcome, address_of, split_address
from tests.waiting import wait_until

FACTS = {"longcat": "this commit", "torch": "2.13.0", "accelerator": "cpu"}


@pytest.fixture
def launcher(tmp_path, monkeypatch):
    """A launcher in this process; nodes are sent home with the test."""
    monkeypatch.setattr(head_module, "PING_S", 0.2)
    monkeypatch.setattr(node_module, "PING_S", 0.2)
    monkeypatch.setattr(node_module, "VISIBLE_S", 0.5)
    monkeypatch.setattr(node_module, "AGAIN_S", 0.5)
    with open_head(tmp_path) as head:
        yield head


def open_head(workspace, port=0, silence_s=30.0):
    return Head(
        workspace,
        host="127.0.0.1",
        port=port,
        accelerator="cpu",
        code="this commit",
        refuse=disagreements,
        silence_s=silence_s,
    )


class Node:
    """`longcat join` in a thread; `error` is what it ends with."""

    def __init__(self, port, workspace, name="n1", wait_s=30, facts=FACTS):
        self.said, self.error = [], None

        def run():
            try:
                tell = facts if callable(facts) else lambda _: dict(facts)
                join(
                    ["127.0.0.1"], port, workspace=workspace, name=name, facts=tell, wait_s=wait_s, say=self.said.append
                )
            except Exception as error:
                self.error = error

        self.thread = threading.Thread(target=run, daemon=True)
        self.thread.start()

    def end(self):
        self.thread.join(60)
        assert not self.thread.is_alive()
        return self.error


def names(head):
    return [member.name for member in head.members()]


def test_nodes_join_and_are_sent_home(tmp_path, launcher):
    nodes = [Node(launcher.port, tmp_path, name) for name in ("n2", "n1")]
    wait_until(lambda: names(launcher) == ["n1", "n2"])
    assert (tmp_path / KEY).stat().st_mode & 0o777 == 0o600
    launcher.part("goodbye")
    assert [node.end() for node in nodes] == [None, None]
    assert not (tmp_path / KEY).exists()
    assert nodes[0].said[-1] == "the launcher has no more work"


def test_a_node_waits_for_the_launcher_of_the_next_stage(tmp_path, launcher, monkeypatch):
    monkeypatch.setattr(node_module, "AGAIN_S", 30.0)
    node = Node(launcher.port, tmp_path)
    wait_until(lambda: names(launcher))
    launcher.part("goodbye")
    with open_head(tmp_path, launcher.port) as other:
        wait_until(lambda: names(other) == ["n1"])
        other.part("goodbye", final=True)
    assert node.end() is None


def test_nodes_are_told_why_a_run_is_refused(tmp_path, launcher):
    nodes = [Node(launcher.port, tmp_path, name) for name in ("n1", "n2")]
    wait_until(lambda: names(launcher) == ["n1", "n2"])
    with pytest.raises(ConfigError, match="no layout fits"), head_module.ended_by(launcher):
        raise ConfigError("no layout fits")
    assert [str(node.end()) for node in nodes] == ["no layout fits"] * 2
    assert {type(node.error) for node in nodes} == {ConfigError}


def test_a_launcher_that_does_not_answer(tmp_path):
    error = Node(free_port(), tmp_path, wait_s=0.1).end()
    assert type(error) is ConfigError
    assert "no launcher of longcat can be reached at 127.0.0.1:" in str(error)


def test_a_node_that_has_lost_its_launcher_waits_for_another_as_long_as_for_the_first(tmp_path, launcher):
    """Also one that has worked for an earlier stage, which would else look for half a minute only."""
    node = Node(launcher.port, tmp_path, wait_s=20)
    wait_until(lambda: names(launcher))
    launcher.part("goodbye")
    with open_head(tmp_path, launcher.port) as other:
        [member] = wait_until(other.members)
        other._closing.set()  # its process is killed: nobody is told, and nothing listens
        other._socket.shutdown(socket.SHUT_RDWR)
        other._socket.close()
        member.channel.close()
        wait_until(lambda: any("lost the launcher" in said for said in node.said))
    time.sleep(2 * node_module.AGAIN_S)
    with open_head(tmp_path, launcher.port) as third:
        wait_until(lambda: names(third) == ["n1"])
        third.part("goodbye", final=True)
    assert node.end() is None


def test_a_launcher_that_is_lost_and_not_replaced_ends_its_nodes(tmp_path, launcher):
    node = Node(launcher.port, tmp_path, wait_s=1)
    [member] = wait_until(launcher.members)
    launcher._closing.set()
    launcher._socket.shutdown(socket.SHUT_RDWR)
    launcher._socket.close()
    member.channel.close()
    assert type(node.end()) is ConfigError
    assert "no launcher of longcat can be reached" in str(node.error)


def test_a_stranger_that_hangs_up_is_not_asked_for_ever(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def hang_up():
            with contextlib.suppress(OSError):
                while True:
                    listening.accept()[0].close()

        threading.Thread(target=hang_up, daemon=True).start()
        node = Node(listening.getsockname()[1], tmp_path, wait_s=1)
        assert "takes no node within 1 s" in str(node.end())
        listening.shutdown(socket.SHUT_RDWR)


def test_a_workspace_that_is_not_the_launchers(tmp_path, launcher):
    (tmp_path / "other").mkdir()
    node = Node(launcher.port, tmp_path / "other")
    assert f"is not {tmp_path} of the launcher" in str(node.end())
    wait_until(lambda: launcher.refusals)
    assert launcher.refusals == [str(node.error)]


def test_a_workspace_at_another_path(tmp_path, launcher):
    (tmp_path / "other").symlink_to(tmp_path)
    node = Node(launcher.port, tmp_path / "other")
    assert "mount it at the same path" in str(node.end())


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        (
            {"longcat": "that commit"},
            "node n2 has another longcat than the launcher: that commit there, this commit here",
        ),
        ({"torch": "2.12.0"}, "the nodes differ in torch: n1 has 2.13.0, n2 has 2.12.0"),
    ],
)
def test_a_node_that_does_not_fit(tmp_path, launcher, facts, message):
    Node(launcher.port, tmp_path)
    wait_until(lambda: names(launcher))
    node = Node(launcher.port, tmp_path, "n2", facts=FACTS | facts)
    assert message in str(node.end())
    assert type(node.error) is ConfigError
    assert message in launcher.refusals[0]
    assert names(launcher) == ["n1"]


def test_a_node_without_the_accelerator(tmp_path, launcher):
    def facts(request):
        raise DeviceError(f"no {request} here")

    node = Node(launcher.port, tmp_path, facts=facts)
    assert type(node.end()) is DeviceError
    wait_until(lambda: launcher.refusals)
    assert launcher.refusals == ["node n1: no cpu here"]


def test_a_node_whose_devices_cannot_be_looked_at(tmp_path, launcher):
    def facts(request):
        raise RuntimeError("aclInit failed,\nerror code 507033")

    node = Node(launcher.port, tmp_path, facts=facts)
    assert type(node.end()) is DeviceError
    wait_until(lambda: launcher.refusals)
    said = "node n1 cannot look at its devices: RuntimeError: aclInit failed, error code 507033"
    assert launcher.refusals == [said] == [str(node.error)]


def test_a_node_that_takes_long_over_its_facts_has_no_other_clock(tmp_path, launcher):
    def facts(request):
        time.sleep(1.5)
        return dict(FACTS)

    Node(launcher.port, tmp_path, facts=facts)
    [member] = wait_until(launcher.members)
    assert abs(member.facts["clock_ahead_s"]) < 1.4


def test_two_nodes_of_a_name(tmp_path, launcher):
    first = Node(launcher.port, tmp_path)
    wait_until(lambda: names(launcher))
    assert "another node of the name n1 is there" in str(Node(launcher.port, tmp_path, wait_s=0.5).end())
    assert first.thread.is_alive()


def test_strangers_are_not_taken(tmp_path, launcher):
    """Neither one without the key, nor one that speaks another language; and nobody waits for one that is silent."""
    for text in (b"GET / HTTP/1.1\r\n\r\n", b'["list"]\n', b"{}\n", b"x" * (2 << 20)):
        with socket.create_connection(("127.0.0.1", launcher.port)) as stranger, contextlib.suppress(OSError):
            stranger.sendall(text)
    silent = socket.create_connection(("127.0.0.1", launcher.port))
    with contextlib.closing(Channel(socket.create_connection(("127.0.0.1", launcher.port)))) as channel:
        channel.send(name="n9", nonce="1", instance="1")
        nonce = channel.receive(30)["nonce"]
        channel.send(proof=proof(b"a guess", "node", nonce), facts=FACTS)
        with pytest.raises(Exception, match="closed"):
            channel.receive(30)
    Node(launcher.port, tmp_path)
    wait_until(lambda: names(launcher) == ["n1"])
    assert launcher.refusals == []
    silent.close()


def test_a_launcher_without_the_key_commands_nothing(tmp_path):
    (tmp_path / KEY).write_text("of somebody else")
    with socket.create_server(("127.0.0.1", 0)) as listening:
        node = Node(listening.getsockname()[1], tmp_path)
        channel = Channel(listening.accept()[0])
        channel.receive(30)
        channel.send(nonce="1", proof="0", workspace=str(tmp_path), accelerator="cpu")
        assert "refused" in channel.receive(60)
    assert type(node.end()) is ConfigError


def test_a_silent_node_is_lost(tmp_path, monkeypatch):
    monkeypatch.setattr(node_module, "PING_S", 600.0)
    with open_head(tmp_path, silence_s=1.0) as head:
        Node(head.port, tmp_path)
        [member] = wait_until(head.members)
        wait_until(lambda: member.lost)
        assert member.lost == "nothing has been heard of it for 1 s"


def test_a_launcher_that_is_gone_is_looked_for(tmp_path, launcher):
    node = Node(launcher.port, tmp_path)
    [member] = wait_until(launcher.members)
    member.channel.close()
    wait_until(lambda: node.said.count(f"joined 127.0.0.1:{launcher.port} as n1") == 2)
    wait_until(lambda: names(launcher) == ["n1"])


def test_an_order_is_obeyed_and_its_end_told(tmp_path, launcher, monkeypatch):
    seen = []

    def run_agent(order, *, poll):
        seen.append(order)
        while order.attempt == 1:
            poll()
            time.sleep(0.01)
        return Outcome(0)

    monkeypatch.setattr(node_module, "run_agent", run_agent)
    Node(launcher.port, tmp_path)
    [member] = wait_until(launcher.members)
    order = Order("longcat.training.worker", ("a",), str(tmp_path / "run"), 2, {"A": "1"}, 5, 60, place=1, nodes=2)
    member.tell(word="start", order=order.to_json())
    assert member.inbox.get(timeout=60)["outcome"] == asdict(Outcome(0)) | {"deaths": []}
    assert seen == [replace(order, node="n1")]
    member.tell(word="start", order=Order(*list(vars(order).values())[:7], attempt=1).to_json())
    wait_until(lambda: len(seen) == 2)
    member.tell(word="stop")
    assert member.inbox.get(timeout=60)["attempt"] == 1


@pytest.mark.parametrize(
    ("module", "folder"), [("os", "run"), ("longcatx.evil", "run"), ("longcat.training.worker", "../elsewhere")]
)
def test_an_order_for_anything_else_is_refused(tmp_path, launcher, module, folder):
    node = Node(launcher.port, tmp_path)
    [member] = wait_until(launcher.members)
    member.tell(word="start", order=Order(module, (), str(tmp_path / folder), 1, {}, 5, 60).to_json())
    assert "which is not for this node" in str(node.end())
    assert "which is not for this node" in member.inbox.get(timeout=60)["outcome"]["problem"]


@pytest.mark.parametrize("error", [DeviceError("no way to the launcher"), OSError(5, "Input/output error")])
def test_why_a_node_cannot_start_anything_is_told_to_the_launcher(tmp_path, launcher, monkeypatch, error):
    def run_agent(order, *, poll):
        raise error

    monkeypatch.setattr(node_module, "run_agent", run_agent)
    node = Node(launcher.port, tmp_path)
    [member] = wait_until(launcher.members)
    member.tell(word="start", order=Order("longcat.training.worker", (), str(tmp_path), 1, {}, 5, 60).to_json())
    assert Outcome.from_dict(member.inbox.get(timeout=60)["outcome"]) == Outcome(1, problem=str(error))
    assert node.thread.is_alive()


def test_a_node_that_cannot_listen_says_so(tmp_path, launcher):
    Node(launcher.port, tmp_path)
    [member] = wait_until(launcher.members)
    member.tell(word="listen", address="192.0.2.1")
    assert "assign requested address" in member.answer("listening", 60)["problem"]


def test_a_port_that_is_taken(tmp_path, launcher):
    with pytest.raises(
        ConfigError, match=f"nodes cannot join at 127.0.0.1, port {launcher.port}: Address already in use"
    ):
        open_head(tmp_path, launcher.port)


@pytest.mark.parametrize(
    ("address", "parts"), [("h:1", ("h", 1)), ("[::1]:29400", ("::1", 29400)), ("a,b:2", ("a,b", 2))]
)
def test_addresses(address, parts):
    assert split_address(address) == parts
    assert address_of(*parts) == address


@pytest.mark.parametrize("address", ["h", ":1", "h:", "h:x", "h:0", "h:65536", ""])
def test_addresses_that_are_none(address):
    with pytest.raises(ValueError, match="is not HOST:PORT"):
        split_address(address)


class TestSharedFolder:
    """The steps of the check, as the launcher asks two nodes for them."""

    def test_a_folder_that_is_shared(self, tmp_path):
        for step in shared_folder.STEPS:
            for name in {"hold": ["a"], "try": []}.get(step, ["a", "b"]):
                assert shared_folder.answer(tmp_path, name, "see:a/b" if step == "see" else step, "t") is None
        assert list(tmp_path.iterdir()) == []

    def test_what_another_node_wrote_is_not_seen(self, tmp_path, monkeypatch):
        monkeypatch.setattr(shared_folder, "VISIBLE_S", 0.3)
        shared_folder.answer(tmp_path, "a", "write", "t")
        assert "node a does not see within 0.3 s what b wrote" in shared_folder.answer(tmp_path, "a", "see:a/b", "t")

    @pytest.mark.parametrize("missing", ["fsync", "rename"])
    def test_what_the_file_system_lacks_is_named(self, tmp_path, monkeypatch, missing):
        def refuse(*_):
            raise OSError(95, "Operation not supported")

        monkeypatch.setattr(shared_folder.os, missing, refuse)
        problem = shared_folder.answer(tmp_path, "a", "write", "t")
        assert "node a cannot" in problem
        assert "Operation not supported" in problem

    def test_a_lock_that_others_do_not_see(self, tmp_path):
        """Locks belong to processes: in one process, nobody is kept out."""
        shared_folder.answer(tmp_path, "a", "write", "t")
        assert shared_folder.answer(tmp_path, "a", "hold", "t") is None
        assert "mount it with locks" in shared_folder.answer(tmp_path, "b", "try", "t")
        shared_folder.answer(tmp_path, "a", "clear", "t")
