"""Counts and warnings as they are shown; texts of others are tested where they are shown."""

import warnings

import pytest

from longcat.printable import counted, duration, large_bytes, percent, ratio, short_count, shown_warnings


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


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0.0 MB"), (3_945_000, "3.9 MB"), (99_000_000, "99.0 MB"), (64.2e9, "64.2 GB"), (1.5e12, "1,500.0 GB")],
)
def test_a_small_size_is_not_zero(size, text):
    assert large_bytes(size) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "n/a"), (0, "0.0%"), (0.00042, "0.042%"), (0.0073, "0.73%"), (0.00996, "1.0%"), (0.4123, "41.2%")],
)
def test_a_small_percentage_is_not_zero(value, text):
    assert percent(value) == text


@pytest.mark.parametrize(("value", "text"), [(None, "n/a"), (0.0012, "0.0012"), (0.85, "0.85"), (1.2345, "1.23")])
def test_a_small_ratio_is_not_zero(value, text):
    assert ratio(value) == text


def test_one_thing_is_no_things():
    assert [counted(count, "order") for count in (0, 1, 2_000)] == ["0 orders", "1 order", "2,000 orders"]


def test_a_warning_for_the_user_is_shown_without_its_line_of_code():
    show, shown = warnings.showwarning, []
    with warnings.catch_warnings(record=True) as others:
        warnings.simplefilter("always", FutureWarning)
        with shown_warnings(shown.append):
            warnings.warn("1 file is not read", stacklevel=1)
            warnings.warn("for programmers", FutureWarning, stacklevel=1)
    assert shown == ["1 file is not read"]
    assert [str(other.message) for other in others] == ["for programmers"]
    assert warnings.showwarning is show
