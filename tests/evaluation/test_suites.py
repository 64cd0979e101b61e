"""Suites of one's own, and what is said of those that cannot be imported."""

import pytest

from longcat.errors import ConfigError
from longcat.evaluation.suites import find_suite


def test_broken_code_of_a_suite_is_named_with_its_line(tmp_path, monkeypatch):
    (tmp_path / "broken_suite.py").write_text("import json\n\nSUITE = (\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(
        ConfigError, match=r"broken_suite:SUITE cannot be imported: .*broken_suite\.py:3: broken Python"
    ):
        find_suite("broken_suite:SUITE")
