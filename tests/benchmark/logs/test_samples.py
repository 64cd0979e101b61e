"""Each sample gives the tokens/s that its own counters say."""

import json
from pathlib import Path

import pytest

from longcat.benchmark.logs import LogContext, read_log

SAMPLES = Path(__file__).parent / "samples"
EXPECTED = json.loads((SAMPLES / "expected.json").read_text())


def context_of(entry):
    return LogContext(entry["devices"], entry["sequence_length"], entry.get("batch_tokens"))


def read(entry):
    return read_log(SAMPLES / entry["file"], context_of(entry))


@pytest.mark.parametrize("entry", EXPECTED, ids=lambda entry: entry["file"])
def test_tokens_are_those_of_the_log(entry):
    found = read(entry)
    assert found.kind == entry["kind"]
    assert found.tokens_per_second == pytest.approx(entry["tokens_per_second"], rel=0.01)
    assert found.tokens_from
    assert not found.doubts


def test_every_sample_is_expected():
    assert {path.name for path in SAMPLES.iterdir()} == {entry["file"] for entry in EXPECTED} | {"expected.json"}
