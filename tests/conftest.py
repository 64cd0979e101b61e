"""Fixtures that several rooms share."""

import os

import pytest

try:
    from hypothesis import settings
except ImportError:  # the emulator's environment has no property tests
    pass
else:  # a busy machine takes longer over a law, which is no reason to doubt it
    settings.register_profile("unhurried", deadline=None)
    settings.load_profile("unhurried")

os.environ.setdefault("DO_NOT_TRACK", "true")
os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
os.environ.setdefault("PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW", "ignore")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS", "120")


@pytest.fixture(autouse=True)
def no_settings_from_outside(monkeypatch):
    """A developer's own server or workspace must not be written to."""
    for name in ("LONGCAT_WORKSPACE", "MLFLOW_TRACKING_URI", "MLFLOW_RUN_ID"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="session")
def corpus_file(tmp_path_factory):
    """A small corpus of plain text documents, as .jsonl."""
    import json
    import random

    rng = random.Random(0)
    words = ["order", "rider", "noodle", "kitchen", "address", "minute", "charge", "coupon", "street", "delivery"]
    path = tmp_path_factory.mktemp("corpus") / "documents.jsonl"
    with path.open("w") as stream:
        for _ in range(160):
            text = " ".join(rng.choice(words) for _ in range(rng.randrange(60, 160)))
            stream.write(json.dumps({"text": text + "."}) + "\n")
    return path
