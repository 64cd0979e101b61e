"""Counts as they are shown; texts of others are tested where they are shown."""

import pytest

from longcat.printable import short_count


@pytest.mark.parametrize(
    ("count", "shown"),
    [(0, "0"), (3_072, "3,072"), (9_999, "9,999"), (12_345, "0.01 M"), (12_345_678_901, "12,345.68 M")],
)
def test_a_count_is_in_millions_once_it_is_large(count, shown):
    assert short_count(count) == shown
