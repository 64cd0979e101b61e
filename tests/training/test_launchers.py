"""The launcher of several nodes: which layout it settles for the nodes that are there."""

import time
import warnings
from types import SimpleNamespace

import pytest

from longcat.config import load_config
from longcat.errors import ConfigError
from longcat.training import launchers
from longcat.training.job import Job
from longcat.training.launchers import Cluster, own_code
from longcat.training.layout import settle_layout
from longcat.training.life import read_events, record_event
from tests.training.nodes import CPU, node


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    """Makes a launcher and a job; `head.there` are the nodes that have joined."""
    monkeypatch.setattr(launchers, "check_folder", lambda members: [])

    def make(*settings):
        config = load_config(
            "smoke", None, ["training.launcher=join", "training.processes=4", "training.nodes=4", *settings]
        )
        there = []
        head = SimpleNamespace(
            there=there,
            members=lambda: [one for one in there if one.lost is None],
            refusals=[],
            address="HERE",
            workspace=tmp_path,
        )
        job = Job(config.model_dump(mode="json"), settle_layout(config, CPU), "tokens", str(tmp_path), str(tmp_path))
        return Cluster(config, head, None), job

    return make


def settled(cluster, job):
    return cluster.settle(job, lambda _: None).layout.degrees.processes


def test_the_layout_is_that_of_the_nodes_that_are_there(cluster, tmp_path):
    """Three nodes would leave rows over (8 rows), so that two work."""
    launcher, job = cluster("training.min_nodes=1")
    launcher.head.there += [node(name) for name in "dbca"]
    assert settled(launcher, job) == 4
    launcher.head.there[0].lost = "power"
    with pytest.warns(UserWarning, match=r"goes on with 2 of 4 nodes \(b, c\), after 4"):
        assert settled(launcher, job) == 2
    launcher.head.there.append(node("d"))
    with pytest.warns(UserWarning, match=r"goes on with 4 of 4 nodes"):
        assert settled(launcher, job) == 4
    kinds = [(event["kind"], event["node"]) for event in read_events(tmp_path)]
    assert sorted(kinds) == sorted([("node lost", "a"), ("node lost", "d"), ("node back", "a"), ("node back", "d")])


def test_the_device_is_that_of_the_nodes(cluster):
    """The launcher's own machine may have none, or another one; a run that goes on compares them with the nodes' own record."""
    launcher, job = cluster()
    launcher.head.there += [node(name, device="a CPU of the nodes") for name in "abcd"]
    assert launcher.settle(job, lambda _: None).device == "a CPU of the nodes"


def test_groups_across_nodes_are_told_for_each_layout_once(cluster):
    launcher, job = cluster("training.min_nodes=1")
    launcher.head.there += [node(name) for name in "abcd"]
    said = r"groups of parallel.expert=%d lie across nodes of 1 process \(ranks 0 to %d on a to %s\).*; parallel.expert=1 would"
    with pytest.warns(UserWarning, match=said % (4, 3, "d")):
        settled(launcher, job)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        settled(launcher, job)
    launcher.head.there[2].lost = launcher.head.there[3].lost = "power"
    with pytest.warns(UserWarning, match=said % (2, 1, "b")):
        settled(launcher, job)


def test_two_levels_are_meant_to_lie_across_nodes(cluster):
    launcher, job = cluster("parallel.two_level=true")
    launcher.head.there += [node(name) for name in "abcd"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert settled(launcher, job) == 4


def test_fewer_nodes_than_are_enough_are_waited_for(cluster):
    launcher, job = cluster("training.min_nodes=2", "training.node_wait_s=0.3", "training.node_names=[a, b, c, d]")
    launcher.head.there += [node("b"), node("stranger")]
    with pytest.raises(ConfigError, match=r"a, c, d of training.nodes=4 nodes did not join within .*there: b\)"):
        settled(launcher, job)


def test_a_node_that_has_computed_wrong_bits_is_left_out_at_once_and_named(cluster, tmp_path):
    launcher, job = cluster("training.min_nodes=2", "training.node_wait_s=600")
    record_event(tmp_path, "corruption", step=3, ranks=[1], nodes=["b"], message="")
    launcher.head.there += [node(name) for name in "abcd"]
    with pytest.warns(UserWarning, match="node b is left out, for wrong bits"):
        assert settled(launcher, job) == 2
    assert [member.name for member in launcher._chosen] == ["a", "c"]


def test_all_nodes_are_taken_where_too_few_are_without_fault(cluster, tmp_path, recwarn):
    launcher, job = cluster()
    record_event(tmp_path, "corruption", step=3, ranks=[1], nodes=["b"], message="")
    launcher.head.there += [node(name) for name in "abcd"]
    assert settled(launcher, job) == 4
    assert not [one for one in recwarn.list if "left out" in str(one.message)]


def test_a_refusal_ends_the_first_wait(cluster):
    launcher, job = cluster()
    launcher.head.refusals.append("node a is not like the others")
    with pytest.raises(ConfigError, match="node a is not like the others"):
        settled(launcher, job)


def test_nodes_of_another_kind_than_was_settled(cluster):
    launcher, job = cluster()
    launcher.head.there += [node(name, accelerator="npu", device="Ascend910B2", devices=8) for name in "abcd"]
    with pytest.raises(ConfigError, match="the nodes compute on npu .*set accelerator=npu"):
        settled(launcher, job)


def test_a_file_system_that_lacks_something_ends_the_run(cluster, monkeypatch):
    launcher, job = cluster()
    launcher.head.there += [node(name) for name in "abcd"]
    monkeypatch.setattr(launchers, "check_folder", lambda members: ["node b cannot lock a file"])
    with pytest.raises(ConfigError, match="node b cannot lock a file"):
        settled(launcher, job)


def test_a_larger_layout_is_worth_an_interruption(cluster):
    launcher, job = cluster("training.min_nodes=1", "training.node_wait_s=0.1")
    launcher.head.there += [node(name) for name in "ab"]
    assert settled(launcher, job) == 2
    began = time.monotonic() - 60
    assert not launcher._more(2, began)
    launcher.head.there.append(node("c"))
    assert not launcher._more(2, began)  # three fit no better than two
    launcher.head.there.append(node("d"))
    assert launcher._more(2, began)
    assert not launcher._more(2, time.monotonic())  # not before it has got going
    assert not launcher._more(4, began)


def test_the_code_is_that_of_the_files():
    assert own_code() == own_code()
