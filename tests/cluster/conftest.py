"""A cluster of two nodes on this machine, and runs of longcat in it. `make test-cluster`; `make test` leaves this folder out."""

import json
import os
import signal
import subprocess
import sys
from contextlib import suppress

import psutil
import pytest

from tests.cluster.slurm import Slurm, install
from tests.waiting import LIMIT_S, all_gone


@pytest.fixture(scope="session")
def cluster(tmp_path_factory):
    if (reason := install()) is not None:
        pytest.skip(reason)
    with Slurm(tmp_path_factory.mktemp("slurm")) as slurm:
        yield slurm


@pytest.fixture(scope="session")
def smoke_run(tmp_path_factory, smoke_settings):
    """A workspace with the tokens and the checkpoint of two processes of one machine, and what the program said."""
    workspace = tmp_path_factory.mktemp("local")
    done = subprocess.run(
        [sys.executable, "-m", "tests.cluster.train", workspace, *smoke_settings],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=LIMIT_S,
    )
    assert done.returncode == 0, done.stderr
    return workspace, done.stderr


class Run:
    """A Python module in a process of its own."""

    def __init__(self, arguments, environment, folder, name, place):
        self.out, self.err = folder / f"{name}.out", folder / f"{name}.err"
        with self.out.open("w") as out, self.err.open("w") as err:
            self.process = subprocess.Popen(
                [sys.executable, "-m", *map(str, arguments)], env=environment, cwd=place, stdout=out, stderr=err
            )

    def wait(self):
        """Return the exit code; what it said is part of the message if it does not end."""
        try:
            return self.process.wait(LIMIT_S)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"it does not end: {self.said[-3000:]}") from None

    @property
    def said(self):
        return self.out.read_text() + self.err.read_text()

    def end(self):
        family = [self.process.pid, *(child.pid for child in self.family())]
        if self.process.poll() is None:
            self.process.terminate()
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(60)
        for pid in family:
            with suppress(psutil.Error):
                psutil.Process(pid).send_signal(signal.SIGKILL)

    def family(self):
        with suppress(psutil.Error):
            return psutil.Process(self.process.pid).children(recursive=True)
        return []


@pytest.fixture
def start(tmp_path_factory):
    """Starts `python -m ARGUMENTS`; it is ended with the test."""
    folder, runs = tmp_path_factory.mktemp("runs"), []

    def start(*arguments, place=None, **variables):
        environment = {**os.environ, "OMP_NUM_THREADS": "1", **variables}
        runs.append(Run(arguments, environment, folder, len(runs), place))
        return runs[-1]

    yield start
    for run in runs:
        run.end()


@pytest.fixture
def pretrain(start, smoke_settings, smoke_tokens):
    """Starts training on the tokens of the local run, which it is compared with."""
    return lambda *settings, **variables: start(
        "tests.cluster.train", smoke_tokens, *smoke_settings, *settings, **variables
    )


def checkpoint_of(workspace):
    [found] = (workspace / "checkpoint").glob("[!.]*")
    return found


def records_of(folder):
    """The records of a run's metrics, but for its times."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [
        {name: value for name, value in line.items() if not name.startswith("perf/") and name != "time"}
        for line in lines
    ]


def same_bytes(one, other):
    """Say whether two checkpoints have the same weights, and their runs the same curves."""
    assert (one / "huggingface/model.safetensors").read_bytes() == (
        other / "huggingface/model.safetensors"
    ).read_bytes()
    assert records_of(one) == records_of(other)
    return True


def ranks(workspace):
    """Training processes of this machine that work in a workspace."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            command = process.cmdline()
            if "longcat.training.worker" in command[:5] and str(workspace) in command[-1]:
                found.append(process)
    return found


def no_rank_is_left(workspace):
    return all_gone(ranks(workspace))
