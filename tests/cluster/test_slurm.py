"""`smoke` on two nodes of a Slurm cluster: as on one machine, and through the loss of a node."""

import os
import re
import signal
import subprocess
import sys

import pytest

from longcat.provenance import ROOT
from tests.cluster.conftest import checkpoint_of, no_rank_is_left, ranks, records_of, same_bytes
from tests.waiting import LIMIT_S, wait_until

SLURM = ("training.launcher=slurm", "training.nodes=2", "training.slurm.partition=test", "training.node_wait_s=120")


@pytest.fixture
def run(pretrain, cluster):
    return lambda *settings: pretrain(*SLURM, *settings, SLURM_CONF=cluster.environment["SLURM_CONF"])


def test_two_nodes_train_as_one_machine_does(run, smoke_run, smoke_tokens, cluster):
    flow = run()
    assert flow.wait() == 0, flow.said
    checkpoint = checkpoint_of(smoke_tokens)
    assert same_bytes(checkpoint, checkpoint_of(smoke_run[0]))
    logs = {file.name for file in (checkpoint / "logs/start-0001").iterdir()}
    assert logs == {"agent-n1.log", "agent-n2.log", "rank-0-n1.log", "rank-1-n2.log"}
    said = srun(smoke_tokens)
    assert "as n1\n" in said
    assert "as n2\n" in said
    wait_until(cluster.is_empty)


def srun(workspace):
    """All that srun and the nodes have said."""
    return "".join(log.read_text() for log in sorted((workspace / "logs").glob("srun-*.log")))


def partial(workspace):
    return next(iter(workspace.glob("checkpoint/.*.partial")), None)


def steps(workspace):
    """The steps of a run in progress, each with the number of its attempt."""
    try:
        return [(record["step"], record["attempt"]) for record in records_of(partial(workspace) or workspace)]
    except (OSError, ValueError):
        return []


def test_a_cancelled_flow_cancels_the_step(run, smoke_tokens, cluster):
    flow = run("training.steps=100000")
    wait_until(lambda: steps(smoke_tokens), flow.process)
    flow.process.terminate()
    assert flow.wait() == 130, flow.said
    assert no_rank_is_left(smoke_tokens)
    wait_until(cluster.is_empty)
    assert list(partial(smoke_tokens).glob("checkpoints/step-*"))


def test_a_lost_node_is_done_without_and_taken_back(run, smoke_tokens, cluster):
    flow = run(
        "training.min_nodes=1", "training.steps=300", "training.keep_checkpoints=1", "training.checkpoint_every_steps=3"
    )
    wait_until(lambda: steps(smoke_tokens)[4:], flow.process)
    cluster.kill_node("n2")
    wait_until(lambda: steps(smoke_tokens) and steps(smoke_tokens)[-1][1] == 1, flow.process)
    [alone] = ranks(smoke_tokens)
    os.kill(alone.pid, signal.SIGSTOP)  # or the run might be over before the node is back
    try:
        cluster.start_node("n2")
        wait_until(lambda: srun(smoke_tokens).count("as n2\n") == 2, flow.process)
    finally:
        os.kill(alone.pid, signal.SIGCONT)
    assert flow.wait() == 0, flow.said
    done = [(record["step"], record["attempt"]) for record in records_of(checkpoint_of(smoke_tokens))]
    assert [step for step, _ in done] == list(range(1, 301))
    assert sorted({attempt for _, attempt in done}) == [0, 1, 2]
    assert no_rank_is_left(smoke_tokens)


def test_what_slurm_refuses_is_told(run):
    flow = run("training.slurm.partition=nowhere")
    assert flow.wait() == 2, flow.said
    assert "Slurm gives no nodes: invalid partition specified: nowhere" in flow.said


@pytest.fixture
def crowd(cluster):
    """Slurm with another job on both nodes."""
    cluster.ask("sbatch", "--nodes=2", "--exclusive", "--output=/dev/null", "--wrap=sleep 600")
    wait_until(lambda: cluster.queue("--states=RUNNING"))
    yield
    cluster.ask("scancel", "--user=root")
    wait_until(cluster.is_empty)


def test_a_wait_in_the_queue_has_a_limit_and_tells_why_it_waits(run, crowd, cluster):
    flow = run("training.slurm.queue_wait_s=6", "training.slurm.arguments=[--exclusive]")
    assert flow.wait() == 2, flow.said
    assert re.search(
        r"Slurm has given no nodes within training.slurm.queue_wait_s=6 \(job \d+, (Resources|Priority)\)", flow.said
    )
    wait_until(lambda: cluster.queue("--name=longcat") == [])


def test_a_job_that_is_cancelled_in_the_queue_is_told_at_once(run, crowd, cluster):
    flow = run("training.slurm.queue_wait_s=null", "training.slurm.arguments=[--exclusive]")
    wait_until(lambda: cluster.queue("--name=longcat"), flow.process)
    cluster.ask("scancel", "--name=longcat")
    assert flow.wait() == 2, flow.said
    assert re.search("Slurm gives no nodes: .*(cancel|revoke)", flow.said, re.I)


def test_a_batch_job_trains_on_the_nodes_of_its_allocation(
    smoke_settings, smoke_tokens, smoke_run, cluster, tmp_path_factory
):
    """The flow runs in the job, by the script that lies ready; there is no device to ask for here."""
    folder = tmp_path_factory.mktemp("batch")
    longcat = folder / ".venv/bin/longcat"
    longcat.parent.mkdir(parents=True)
    longcat.write_text(f'#!/bin/sh\nexec {sys.executable} -m longcat.cli "$@"\n')
    longcat.chmod(0o700)
    options = [part for setting in smoke_settings for part in ("--set", setting)]
    done = subprocess.run(
        ["sbatch", "--wait", "--gres=none", "--output=job.log", ROOT / "deploy/slurm.sbatch", "--preset", "smoke", *options],
        cwd=folder,
        env={
            **cluster.environment,
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": str(ROOT),
            "LONGCAT_WORKSPACE": str(smoke_tokens),
        },
        capture_output=True,
        text=True,
        check=False,
        timeout=LIMIT_S,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr + (folder / "job.log").read_text()
    checkpoint = checkpoint_of(smoke_tokens)
    assert same_bytes(checkpoint, checkpoint_of(smoke_run[0]))
    assert {"rank-0-n1.log", "rank-1-n2.log"} <= {file.name for file in (checkpoint / "logs/start-0001").iterdir()}
    wait_until(cluster.is_empty)
