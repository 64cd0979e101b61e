"""One Prefect server and one finished pipeline for all tests of flows."""

import json

import pytest


@pytest.fixture(scope="package")
def harness():
    from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings
    from prefect.testing.utilities import prefect_test_harness

    with (
        prefect_test_harness(server_startup_timeout=120),
        temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}),
    ):
        yield


@pytest.fixture(scope="package")
def finished(harness, corpus_file, tmp_path_factory):
    from flows.pipeline import pipeline

    workspace = tmp_path_factory.mktemp("workspace")
    options = {"preset": "smoke", "overrides": [f"corpus.sources={corpus_file}"], "workspace": str(workspace)}
    first, second = pipeline(**options), pipeline(**options)
    assert json.loads((workspace / "summary.json").read_text()) == second
    return workspace, options, first, second
