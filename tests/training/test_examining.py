"""Which node or link is named when nodes are compared."""

import socket
import threading

import pytest

from longcat.config import load_config
from longcat.processes.child import free_port
from longcat.processes.head import Head
from longcat.processes.node import join
from longcat.training.examining import crowded, examine_nodes, slow_links
from tests.waiting import wait_until

FACTS = {"longcat": "this commit", "torch": "2.13.0", "accelerator": "cpu", "device": "a cpu", "devices": 2}


@pytest.fixture
def examine(tmp_path):
    """Examines nodes that have these facts."""

    def run(*facts, say=lambda _: None):
        port = free_port()
        settings = ["launcher=join", f"nodes={len(facts)}", f"head=127.0.0.1:{port}", "node_wait_s=60"]
        for number, of in enumerate(facts):
            about = {"workspace": tmp_path, "name": f"n{number}", "wait_s": 60, "say": lambda _: None}
            tell = lambda _, of=of: FACTS | of  # noqa: E731
            threading.Thread(
                target=join, args=(["127.0.0.1"], port), kwargs={**about, "facts": tell}, daemon=True
            ).start()
        config = load_config("smoke", None, [f"training.{setting}" for setting in settings])
        return examine_nodes(config, tmp_path, say)

    return run


def test_the_odd_one_of_three_nodes_is_named(examine):
    """Locks are of processes, so that nodes in one process see none; that is named as well."""
    report = examine({}, {"torch": "2.12.0", "longcat": "another"}, {})
    assert list(report["nodes"]) == ["n0", "n1", "n2"]
    assert list(report["links_bytes_per_second"]) == ["n0 -> n1", "n1 -> n2", "n2 -> n0"]
    assert all(speed > 1e6 for speed in report["links_bytes_per_second"].values())
    odd = [problem for problem in report["problems"] if "differ" in problem]
    assert odd == [
        "the nodes differ in longcat: node n1 has another, the others have this commit",
        "the nodes differ in torch: node n1 has 2.12.0, the others have 2.13.0",
    ]
    assert [problem for problem in report["problems"] if "lock" in problem]


@pytest.mark.parametrize("when", ["trying out the shared file system", "trying out the links"])
def test_a_node_that_is_lost_meanwhile_is_named_once(examine, tmp_path, monkeypatch, when):
    """Its connection ends, as that of a node without power does once the kernel notices."""
    heads = []
    monkeypatch.setattr(Head, "__enter__", lambda self, enter=Head.__enter__: heads.append(self) or enter(self))

    def say(message):
        if message == when:
            [gone] = [member for member in heads[0].members() if member.name == "n1"]
            gone.channel.connection.shutdown(socket.SHUT_RDWR)
            wait_until(lambda: gone.lost)

    report = examine({}, {}, {}, say=say)
    [problem] = [problem for problem in report["problems"] if "n1" in problem and "lock" not in problem]
    assert problem.startswith("node n1 ")
    assert "it has closed the connection" in problem
    assert not [link for link in report["links_bytes_per_second"] if "n1" in link]


def test_a_slow_link_is_named():
    assert slow_links({"a -> b": 10e9, "b -> c": 9e9, "c -> a": 2e9}) == [
        "the link c -> a has 2.00 GB/s, the median is 9.00"
    ]
    assert slow_links({"a -> b": 1e9, "b -> a": 9e9}) == []


def test_a_node_with_too_few_devices_is_named():
    config = load_config("smoke", None, ["training.launcher=join", "training.nodes=2", "training.processes=16"])
    npu = FACTS | {"accelerator": "npu"}
    assert crowded(config, {"a": npu | {"devices": 8}, "b": npu | {"devices": 7}}) == [
        "node b has 7 npu devices, training.processes=16 on training.nodes=2 needs 8"
    ]


def test_one_machine_has_no_nodes_to_compare(longcat, tmp_path):
    for arguments in (["--nodes"], ["--set", "training.steps=1"]):
        done = longcat("doctor", "--workspace", tmp_path, *arguments)
        assert done.returncode == 2
        assert "--nodes" in done.stderr
