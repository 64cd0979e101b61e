"""The deployment `pretrain/slurm`, by a worker of a process pool on the login node, as docs/cluster.md has it."""

import json
import os
import re
import subprocess
import sys
import urllib.request
from contextlib import suppress

import pytest

from longcat.processes.child import free_port
from longcat.processes.environment import server_environment
from longcat.provenance import ROOT
from tests.cluster.conftest import no_rank_is_left, ranks
from tests.waiting import LIMIT_S, wait_until


class Prefect:
    """A server, its pool and deployment, and a worker."""

    def __init__(self, start, environment, home):
        port = free_port()
        self.api = f"http://127.0.0.1:{port}/api"
        self.variables = server_environment(str(home), port) | {"PREFECT_API_URL": self.api, **environment}
        server = start("prefect", "server", "start", "--no-ui", place=ROOT, **self.variables)
        wait_until(lambda: self.ask("health"), server.process)
        self.command("work-pool", "create", "longcat", "--type", "process")
        self.worker = start("prefect", "worker", "start", "--pool", "longcat", place=ROOT, **self.variables)
        self.command("deploy", "--name", "slurm", "--no-prompt")

    def ask(self, path):
        with suppress(OSError, ValueError), urllib.request.urlopen(f"{self.api}/{path}", timeout=30) as answer:
            return json.load(answer)
        return None

    def command(self, *arguments):
        # the server answers 500 when its database is locked, as on a busy machine
        variables = self.variables | {"PREFECT_CLIENT_RETRY_EXTRA_CODES": "500"}
        done = subprocess.run(
            [sys.executable, "-m", "prefect", *arguments],
            cwd=ROOT,
            env=variables,
            capture_output=True,
            text=True,
            check=False,
            timeout=LIMIT_S,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def run(self, workspace, *settings):
        """Start a run of the deployment; returns its number."""
        values = {"preset": "smoke", "workspace": str(workspace), "overrides": list(settings)}
        said = self.command("deployment", "run", "pretrain/slurm", "--params", json.dumps(values))
        return re.search(r"UUID: ([0-9a-f-]{36})", said)[1]

    def state(self, run):
        return (self.ask(f"flow_runs/{run}") or {"state_type": ""})["state_type"]

    def end_of(self, run):
        ended = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")
        return wait_until(lambda: (state := self.state(run)) in ended and state, self.worker.process)


@pytest.fixture
def prefect(start, cluster, tmp_path_factory):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "SLURM_CONF": cluster.environment["SLURM_CONF"]}
    return Prefect(start, environment, tmp_path_factory.mktemp("prefect"))


def test_a_deployment_trains_by_slurm_and_cancelling_it_cancels_the_step(
    prefect, smoke_settings, smoke_tokens, cluster
):
    settings = (*smoke_settings, "training.launcher=slurm", "training.nodes=2", "training.slurm.partition=test")
    run = prefect.run(smoke_tokens, *settings)
    assert prefect.end_of(run) == "COMPLETED", prefect.worker.said[-5000:]
    [checkpoint] = (smoke_tokens / "checkpoint").glob("[!.]*")
    assert (checkpoint / "logs/start-0001/rank-1-n2.log").is_file()
    wait_until(cluster.is_empty)

    run = prefect.run(smoke_tokens, *settings, "training.steps=100000")
    wait_until(lambda: len(ranks(smoke_tokens)) == 2, prefect.worker.process)
    wait_until(lambda: cluster.queue("--states=RUNNING"))
    prefect.command("flow-run", "cancel", run)
    assert prefect.end_of(run) == "CANCELLED", prefect.worker.said[-5000:]
    wait_until(cluster.is_empty)
    assert no_rank_is_left(smoke_tokens)
