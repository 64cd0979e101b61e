import json
import sys

import pytest

from longcat.artifact import Workspace
from longcat.config import CorpusConfig, load_config
from longcat.corpus.stage import preprocess
from longcat.errors import ConfigError
from tasks import cluster


def contents(workspace, digest):
    """Every file of the tokens and of the documents they are made from."""
    tokens = workspace / "tokens" / digest
    identity = json.loads((tokens / "manifest.json").read_text())["identity"]
    found = {}
    for directory in (tokens, workspace / "documents" / identity["documents"]):
        found |= {file.name: file.read_bytes() for file in directory.iterdir() if file.name != "manifest.json"}
    return found


@pytest.mark.slow
def test_two_dask_workers_write_the_same_bytes(prefect_server, corpus_file, tmp_path):
    pytest.importorskip("prefect_dask")
    from flows.pipeline import FLOWS

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
        pytest.raises(ConfigError, match=r"corpus.runner=ray needs .*pip install 'longcat\[ray\]'"),
        cluster.mapper_for(CorpusConfig(runner="ray")),
    ):
        pass
