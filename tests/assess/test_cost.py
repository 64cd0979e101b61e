"""Days, device-hours and money."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from longcat.assess.cost import UNIT_TOKENS, Speed, training_cost
from longcat.errors import ConfigError

FAST = Speed(9e5, 1e6, 1.1e6)


def test_figures_by_hand():
    cost = training_cost("ascend-910b2", 128, FAST, 8.64e10, {"Ascend910B2": "12.5 CNY"})
    assert cost.days[1] == pytest.approx(1.0) and cost.device_hours[1] == pytest.approx(128 * 24)
    assert cost.money is not None and cost.money[1] == pytest.approx(128 * 24 * 12.5) and cost.currency == "CNY"


def test_no_price_is_invented_and_tokens_that_are_not_stated_are_a_unit():
    cost = training_cost("ascend-910b2", 128, FAST, None, {"a100-80gb": "2 USD"})
    assert cost.money is None and cost.price is None
    assert cost.tokens == UNIT_TOKENS and not cost.stated


def test_a_price_without_an_amount():
    with pytest.raises(ConfigError, match="price of a100-80gb: 'cheap'"):
        training_cost("a100-80gb", 8, FAST, 1e9, {"a100-80gb": "cheap"})


@given(st.floats(1, 1e9), st.floats(1, 1e13), st.integers(1, 10**5))
def test_money_is_what_devices_and_time_make_of_it(speed, tokens, devices):
    cost = training_cost("x", devices, Speed(speed, speed, speed), tokens, {"x": "3"})
    assert cost.money is not None
    for days, hours, money in zip(cost.days, cost.device_hours, cost.money, strict=True):
        assert hours == pytest.approx(days * 24 * devices) and money == pytest.approx(3 * hours)
