"""The look-up of vulnerabilities: none that is known passes, and no network is no failure."""

import importlib.util
import subprocess
from pathlib import Path
from unittest.mock import Mock

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture
def audit():
    specification = importlib.util.spec_from_file_location("audit", ROOT / ".ci" / "audit.py")
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


FOUND = {"id": "PYSEC-1", "aliases": ["CVE-1"], "fix_versions": ["2"]}
REPORT = {"dependencies": [{"name": "a", "version": "1", "vulns": [FOUND]}, {"name": "b", "skip_reason": "?"}]}


def test_a_vulnerability_fails(audit):
    text, code = audit.judge(REPORT)
    assert code == 1
    assert text.splitlines() == [
        "a 1: PYSEC-1, mended in 2",
        "pip-audit: 1 known vulnerabilities in 1 of 2 packages",
    ]


def test_one_that_is_accepted_does_not(audit, monkeypatch):
    monkeypatch.setitem(audit.ACCEPTED, "CVE-1", "is not reached")
    assert audit.judge(REPORT)[1] == 0


@pytest.mark.parametrize(
    "result, why",
    [
        (Mock(side_effect=subprocess.TimeoutExpired("x", 1)), "no answer within"),
        (Mock(return_value=Mock(stdout="", stderr="WARNING\nConnectionError: no route")), "ConnectionError: no route"),
        (Mock(return_value=Mock(stdout="", stderr="")), "no answer"),
        (Mock(return_value=Mock(stdout='{"dependencies": [{"name": "a", "skip_reason": "?"}]}')), "knows none"),
    ],
)
def test_without_a_network_it_says_so_and_passes(audit, monkeypatch, result, why):
    monkeypatch.setattr(subprocess, "run", result)
    text, code = audit.judge(audit.ask("constraints.txt"))
    assert code == 0
    assert text.startswith("pip-audit could not look: ") and why in text
    assert "\n" not in text
