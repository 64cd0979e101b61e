"""Values of settings as a comparison shows them."""

import pytest

from longcat.comparing.printed import value


@pytest.mark.parametrize(
    ("found", "shown"),
    [
        (None, "none"),
        (True, "true"),
        (6, "6"),
        ("tiny", "tiny"),
        ("0d741a50e26398bd3ad2f50453ce107fffb491e40034d3cf453daac5c26d6079", "0d741a50e263…"),
        ("deadbeef", "deadbeef"),
        (["a", False], "a, false"),
        (list(range(8)), "0, 1, 2, 3, 4, 5 and 2 more"),
        ({"files": "1" * 40}, "files 111111111111…"),
    ],
)
def test_a_value_is_short(found, shown):
    assert value(found) == shown
