"""`smoke` on two machines that join by themselves: as on one machine, and every way not to fit."""

import shutil

import pytest

from longcat.processes.child import free_port
from tests.cluster.conftest import checkpoint_of, no_rank_is_left, records_of, same_bytes
from tests.waiting import wait_until


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


def test_a_new_head_takes_up_the_work_of_one_that_was_killed(run, join, smoke_tokens):
    """Its nodes are still there, and look for it."""
    settings = ("training.steps=80", "training.checkpoint_every_steps=5", "training.keep_checkpoints=1")
    nodes, killed = [join("a"), join("b")], run(*settings)
    wait_until(lambda: list(smoke_tokens.glob("checkpoint/.*.partial/checkpoints/step-*")), killed.process)
    killed.process.kill()
    killed.wait()
    again = run(*settings)
    assert again.wait() == 0, again.said
    assert [node.wait() for node in nodes] == [0, 0]
    for node in nodes:
        assert "lost the launcher" in node.said
        assert node.said.count("joined 127.0.0.1") == 2
    records = records_of(checkpoint_of(smoke_tokens))
    assert [record["step"] for record in records] == list(range(1, 81))
    assert no_rank_is_left(smoke_tokens)


def test_a_workspace_that_is_not_shared_ends_the_run_on_every_side(run, join, tmp_path_factory, smoke_tokens):
    other = tmp_path_factory.mktemp("elsewhere")
    flow, nodes = run(), [join("a")]
    wait_until(lambda: "joined 127.0.0.1" in nodes[0].said, nodes[0].process)
    nodes.append(join("b", other))
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
    wait_until(lambda: "joined 127.0.0.1" in node.said, node.process)  # who comes when all is over hears nothing
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
