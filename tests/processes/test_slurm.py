"""What is asked of Slurm, by programs that only write down how they were called."""

import stat

import pytest

from longcat.errors import ConfigError
from longcat.processes import slurm as slurm_module
from longcat.processes.slurm import Request, Slurm
from tests.waiting import wait_until

SRUN = 'echo "$@" >> "$FAKE/srun.calls"; cat "$FAKE/says" >&2; [ -e "$FAKE/fails" ] && exit 1; exec sleep 600'
TOOLS = {
    "srun": SRUN,
    "squeue": 'cat "$FAKE/jobs"',
    "scontrol": 'cat "$FAKE/hostnames"',
    "sinfo": 'cat "$FAKE/states"',
}


@pytest.fixture
def fake(tmp_path, monkeypatch):
    """A folder with programs of Slurm, first on PATH, and what they are to answer."""
    folder = tmp_path / "fake"
    folder.mkdir()
    for name, text in TOOLS.items():
        (folder / name).write_text(f"#!/bin/sh\n{text}\n")
        (folder / name).chmod(stat.S_IRWXU)
    for name in ("says", "jobs", "hostnames", "states", "srun.calls"):
        (folder / name).touch()
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    monkeypatch.setenv("FAKE", str(folder))
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    monkeypatch.setattr(slurm_module, "_AGAIN_S", 0.0)
    monkeypatch.setattr(slurm_module, "_LEAVING_S", 0.2)
    monkeypatch.setattr(slurm_module, "_FRESH_S", 0.0)
    return folder


@pytest.fixture
def slurm(fake, tmp_path):
    def opened(**request):
        return Slurm(
            Request(**request),
            address="10.0.0.1,127.0.0.1:4711",
            workspace=tmp_path,
            logs=tmp_path / "logs",
            wait_s=60,
            grace_s=1,
        )

    return opened


def calls(fake, number):
    return wait_until(lambda: len(found := (fake / "srun.calls").read_text().splitlines()) >= number and found)


def test_a_login_node_asks_for_nodes_of_its_own(slurm, fake, tmp_path):
    with slurm(partition="npu", account="team", time="1:00:00", arguments=("--gres=npu:8",)) as steps:
        steps.start(3)
        [call] = calls(fake, 1)
        assert steps.trouble() is None
    words = call.split()
    assert "--nodes=3" in words
    assert {
        "--ntasks-per-node=1",
        "--no-kill",
        "--partition=npu",
        "--account=team",
        "--time=1:00:00",
        "--gres=npu:8",
    } <= set(words)
    assert "--overlap" not in words
    assert f"longcat.cli join 10.0.0.1,127.0.0.1:4711 --workspace {tmp_path} --wait-s 60" in call


def test_an_allocation_is_used(slurm, fake, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    with slurm(partition="npu") as steps:
        steps.start(2)
        [call] = calls(fake, 1)
    assert "--overlap" in call
    assert "--partition" not in call


@pytest.mark.parametrize(
    ("says", "trouble"),
    [
        ("srun: error: invalid partition specified: x\n", "invalid partition specified: x"),
        ("something else\n", "something else"),
        (
            "srun: job 12 queued and waiting for resources\nsrun: error: Unable to allocate resources: Job/step canceled\n",
            "Unable to allocate resources: Job/step canceled",
        ),
        (
            "srun: job 12 queued and waiting for resources\nsrun: job 12 has been cancelled\n",
            "job 12 has been cancelled",
        ),
        ("", "srun ended with code 1"),
    ],
)
def test_what_srun_says_of_its_failure(slurm, fake, says, trouble):
    (fake / "fails").touch()
    (fake / "says").write_text(says)
    with slurm() as steps:
        steps.start(2)
        assert wait_until(steps.trouble) == trouble


def test_a_queue_is_noticed(slurm, fake, tmp_path):
    (fake / "says").write_text("srun: job 12 queued and waiting for resources\n")
    with slurm() as steps:
        steps.start(2)
        assert wait_until(steps.queued) == "job 12"
        (fake / "jobs").write_text("12|PENDING|Resources\n")
        assert steps.queued() == "job 12, Resources"
        with (tmp_path / "logs" / "srun-0001.log").open("a") as log:
            log.write("srun: job 12 has been allocated resources\n")
        assert steps.queued() is None


def test_each_step_has_a_log_of_its_own_and_only_its_own_words_count(slurm, fake, tmp_path):
    """Neither those of an earlier run, nor what a node prints of other jobs."""
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "srun-0007.log").write_text("srun: job 3 queued and waiting for resources\n")
    (fake / "says").write_text("job 4 queued and waiting for resources\nnode says: srun: job 5 queued and waiting\n")
    (fake / "jobs").write_text("4|PENDING|Resources\n")
    with slurm() as steps:
        steps.start(2)
        calls(fake, 1)
        assert steps.logs() == str(tmp_path / "logs" / "srun-0008.log")
        wait_until(lambda: "job 5" in (tmp_path / "logs" / "srun-0008.log").read_text())
        assert steps.queued() is None
        assert steps.expected() == []
        assert "job 3" in (tmp_path / "logs" / "srun-0007.log").read_text()


def test_slurm_is_not_asked_all_the_time(slurm, fake, monkeypatch):
    monkeypatch.setattr(slurm_module, "_FRESH_S", 600.0)
    (fake / "says").write_text("srun: job 12 queued and waiting for resources\n")
    (fake / "jobs").write_text("12|PENDING|Priority\n")
    with slurm() as steps:
        steps.start(2)
        assert wait_until(steps.queued) == "job 12, Priority"
        (fake / "jobs").write_text("12|PENDING|Resources\n")
        assert steps.queued() == "job 12, Priority"


def test_a_node_that_the_job_still_has_is_asked_for_by_name(slurm, fake, tmp_path):
    (fake / "says").write_text("srun: jobid 12: nodes(2):`n1,n2', cpu counts: 1(x2)\njoined here as n1\n")
    (fake / "jobs").write_text("12\n")
    (fake / "hostnames").write_text("n1\nn2\n")
    (fake / "states").write_text("alloc\n")
    with slurm() as steps:
        steps.start(2)
        calls(fake, 1)
        wait_until(lambda: "as n1" in (tmp_path / "logs" / "srun-0001.log").read_text())
        steps.complete(["n1"], 1)
        call = calls(fake, 2)[1]
        assert {"--jobid=12", "--overlap", "--nodelist=n2"} <= set(call.split())


@pytest.mark.parametrize("state", ["down", "drain", "idle*", "unk"])
def test_a_node_that_is_down_is_replaced_by_another(slurm, fake, tmp_path, state):
    (fake / "says").write_text("srun: jobid 12: nodes(2):`n1,n2', cpu counts: 1(x2)\njoined here as n1\n")
    (fake / "jobs").write_text("12\n")
    (fake / "hostnames").write_text("n1\nn2\n")
    (fake / "states").write_text(f"{state}\n")
    with slurm(partition="npu") as steps:
        steps.start(2)
        calls(fake, 1)
        wait_until(lambda: "as n1" in (tmp_path / "logs" / "srun-0001.log").read_text())
        steps.complete(["n1"], 1)
        call = calls(fake, 2)[1]
        assert {"--nodes=1", "--exclude=n1", "--partition=npu"} <= set(call.split())
        (fake / "says").write_text("")
        steps.complete(["n1"], 1)  # that one is waited for
        assert len((fake / "srun.calls").read_text().splitlines()) == 2


def test_a_machine_without_slurm_is_told_so(slurm, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match="needs srun, which is not on PATH"):
        slurm()
