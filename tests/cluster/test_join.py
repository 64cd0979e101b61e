"""`smoke` on two machines that join by themselves: as on one machine, and every way not to fit."""

import shutil

import pytest

from longcat.processes.child import free_port
from tests.cluster.conftest import checkpoint_of, no_rank_is_left, same_bytes


@pytest.fixture
def port():
    return free_port()


@pytest.fixture
def run(pretrain, port):
    return lambda *settings: pretrain(
        "training.launcher=join",
        "training.nodes=2",
        f"training.head=127.0.0.1:{port}",
        "training.node_wait_s=120",
        *settings,
    )


@pytest.fixture
def join(start, port, smoke_tokens):
    return lambda name, workspace=None: start(
        "longcat.cli",
        "join",
        f"127.0.0.1:{port}",
        "--name",
        name,
        "--workspace",
        workspace or smoke_tokens,
        "--wait-s",
        "120",
    )


def test_two_machines_train_as_one_does(run, join, smoke_run, smoke_tokens):
    nodes, flow = [join("b"), join("a")], run()
    assert flow.wait() == 0, flow.said
    assert same_bytes(checkpoint_of(smoke_tokens), checkpoint_of(smoke_run[0]))
    assert [node.wait() for node in nodes] == [0, 0]
    assert no_rank_is_left(smoke_tokens)
    assert not list(smoke_tokens.glob(".nodes*"))


def test_a_workspace_that_is_not_shared_ends_the_run_on_every_side(run, join, tmp_path_factory, smoke_tokens):
    other = tmp_path_factory.mktemp("elsewhere")
    flow, nodes = run(), [join("a"), join("b", other)]
    assert flow.wait() == 2, flow.said
    assert [node.wait() for node in nodes] == [2, 2]
    for side in (flow, *nodes):
        assert f"the workspace {other} of node b is not {smoke_tokens} of the launcher" in side.said


def test_another_commit_ends_the_run_on_every_side(run, join, start, tmp_path_factory, smoke_tokens, port):
    from longcat.provenance import ROOT

    other = tmp_path_factory.mktemp("other")
    for package in ("longcat", "flows", "tasks", "data"):
        shutil.copytree(ROOT / package, other / package)
    with (other / "longcat/training/worker.py").open("a") as stream:
        stream.write("# other code\n")
    flow, node = run(), join("a")
    old = start(
        "longcat.cli",
        "join",
        f"127.0.0.1:{port}",
        "--name",
        "b",
        "--workspace",
        smoke_tokens,
        place=other,
        PYTHONPATH=str(other),
    )
    assert flow.wait() == 2, flow.said
    assert [node.wait(), old.wait()] == [2, 2]
    for side in (flow, node, old):
        assert "node b has another longcat than the launcher" in side.said


def test_machines_that_do_not_come_are_told(run):
    flow = run("training.node_wait_s=5", "training.node_names=[a, b]")
    assert flow.wait() == 2, flow.said
    assert "a, b of training.nodes=2 nodes did not join within training.node_wait_s=5 (there: none)" in flow.said
