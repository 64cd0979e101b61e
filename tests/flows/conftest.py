"""One finished pipeline for all tests of flows."""

import json

import pytest


@pytest.fixture(scope="session")
def finished(prefect_server, corpus_file, tmp_path_factory):
    from longcat.flows.pipeline import pipeline

    workspace = tmp_path_factory.mktemp("workspace")
    options = {"preset": "smoke", "overrides": [f"corpus.sources={corpus_file}"], "workspace": str(workspace)}
    first, second = pipeline(**options), pipeline(**options)
    assert json.loads((workspace / "summary.json").read_text()) == second
    return workspace, options, first, second
