import json
import os
import re
import signal
import sys
import time

import pytest

from longcat.artifact import Workspace
from longcat.config import CorpusConfig, load_config
from longcat.corpus.stage import preprocess
from longcat.distribution import install_command
from longcat.errors import ConfigError
from longcat.tasks import cluster
from tests.waiting import LIMIT_S


def contents(workspace, digest):
    """Every file of the tokens and of the documents they are made from."""
    tokens = workspace / "tokens" / digest
    identity = json.loads((tokens / "manifest.json").read_text())["identity"]
    found = {}
    for directory in (tokens, workspace / "documents" / identity["documents"]):
        found |= {
            str(file.relative_to(directory)): file.read_bytes()
            for file in directory.rglob("*")
            if file.is_file() and file.name != "manifest.json"
        }
    return found


@pytest.mark.slow
def test_two_dask_workers_write_the_same_bytes(prefect_server, corpus_file, tmp_path):
    pytest.importorskip("prefect_dask")
    from longcat.flows.pipeline import FLOWS

    overrides = [f"corpus.sources={corpus_file}", "corpus.block_bytes=20000", "corpus.near_duplicates={}"]
    alone = preprocess(
        load_config("smoke", overrides=[*overrides, "corpus.workers=1"]), workspace=Workspace(tmp_path / "a")
    )
    summary = FLOWS["preprocess"](
        preset="smoke",
        overrides=[*overrides, "corpus.runner=dask", "corpus.workers=2"],
        workspace=str(tmp_path / "b"),
    )
    [row] = summary["stages"]
    assert row["artifact"]["digest"] == alone.digest
    here, there = (contents(tmp_path / name, alone.digest) for name in "ab")
    assert len([name for name in here if name.endswith(".tokens.npy")]) > 3
    assert here == there


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "prefect_ray.task_runners", None)
    with (
        pytest.raises(ConfigError, match=rf"corpus.runner=ray needs .*{re.escape(install_command('ray'))}"),
        cluster.mapper_for(CorpusConfig(runner="ray")),
    ):
        pass


def slow(number):
    time.sleep(2)
    return number


@pytest.mark.slow
def test_the_work_of_a_dask_worker_that_is_stopped_is_done_by_another_one():
    distributed = pytest.importorskip("distributed")
    import dask

    with dask.config.set({"distributed.scheduler.worker-ttl": "5 minutes"}):
        cluster._watch_dask(5.0)
        with (
            distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as workers,
            distributed.Client(workers) as client,
        ):
            pids = list(client.run(os.getpid).values())
            under_way = [client.submit(slow, number) for number in range(4)]
            os.kill(pids[0], signal.SIGSTOP)
            assert [future.result(timeout=LIMIT_S) for future in under_way] == [0, 1, 2, 3]
