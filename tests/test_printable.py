"""Counts as they are shown; texts of others are tested where they are shown."""

import pytest

from longcat.printable import duration, short_count


@pytest.mark.parametrize(
    ("count", "shown"),
    [(0, "0"), (3_072, "3,072"), (9_999, "9,999"), (12_345, "0.01 M"), (12_345_678_901, "12,345.68 M")],
)
def test_a_count_is_in_millions_once_it_is_large(count, shown):
    assert short_count(count) == shown


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-1, "0 s"),
        (0.4, "0 s"),
        (59.7, "1 min"),
        (200, "3 min 20 s"),
        (3600, "1 h"),
        (3661, "1 h 1 min"),
        (86399.9, "1 d"),
        (200_000, "2 d 7 h"),
    ],
)
def test_a_duration_in_its_two_largest_units(seconds, text):
    assert duration(seconds) == text
