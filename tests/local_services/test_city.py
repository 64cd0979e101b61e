import json
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from longcat.errors import DataError
from longcat.local_services.city import (
    HOURLY_DEMAND,
    Place,
    arrival_minutes,
    blocks,
    make_scene,
    scene_from_json,
    travel_minutes,
)

PLACES = st.builds(Place, st.integers(0, 40), st.integers(0, 40))


def scene():
    return make_scene(7, start=11 * 60, minutes=60, couriers=5, orders_per_hour=30)


def document():
    return json.loads(json.dumps(scene().to_json()))


@given(PLACES, PLACES, PLACES)
def test_travel_times_are_a_metric(a, b, c):
    assert travel_minutes(a, b) == travel_minutes(b, a)
    assert (travel_minutes(a, b) == 0) == (a == b)
    assert travel_minutes(a, c) <= travel_minutes(a, b) + travel_minutes(b, c)
    assert (a.x - b.x) ** 2 + (a.y - b.y) ** 2 <= blocks(a, b) ** 2


@given(st.integers(0, 10**9))
def test_a_scene_comes_back_from_json_and_its_orders_are_possible(seed):
    made = make_scene(seed, start=18 * 60, minutes=30, couriers=3, orders_per_hour=20)
    assert scene_from_json(json.loads(json.dumps(made.to_json())), "scene") == made
    for order in made.orders:
        assert 18 * 60 <= order.placed < 18 * 60 + 30
        assert order.placed + 30 <= order.due
        assert order.ready + travel_minutes(order.pickup, order.dropoff) + 5 <= order.due


def test_the_same_seed_makes_the_same_scene_and_another_seed_another():
    assert scene() == scene()
    assert make_scene(8, start=11 * 60, minutes=60, couriers=5, orders_per_hour=30) != scene()


def test_demand_follows_the_hours_of_the_day():
    times = arrival_minutes(random.Random(1), 0, 24 * 60, 2000)
    counts = [sum(time // 60 == hour for time in times) for hour in range(24)]
    expected = [2000 * share / max(HOURLY_DEMAND) for share in HOURLY_DEMAND]
    for count, mean in zip(counts, expected, strict=True):
        assert abs(count - mean) <= 5 * mean**0.5, (count, mean)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.pop("orders"), "scene: field 'orders' is missing"),
        (lambda d: d.update(extra=1), "scene: unknown field 'extra'"),
        (lambda d: d.update(couriers={}), "scene: couriers: expected a list, found dict"),
        (lambda d: d["city"].update(width=0), "scene: city.width: expected a whole number of at least 1, found 0"),
        (
            lambda d: d["orders"][1].update(due="soon"),
            r"scene: orders\[1\] \(id 'o2'\).due: expected a whole number of at least 0",
        ),
        (
            lambda d: d["orders"][1].update(placed=True),
            r"scene: orders\[1\] \(id 'o2'\).placed: expected a whole number",
        ),
        (lambda d: d["orders"][1].update(ready=0), r"orders\[1\] \(id 'o2'\).ready: 0 is before placed"),
        (
            lambda d: d["orders"][1].update(due=d["orders"][1]["ready"] - 1),
            r"orders\[1\] \(id 'o2'\).due: \d+ is before ready",
        ),
        (
            lambda d: d["orders"][1].update(merchant="m99"),
            r"orders\[1\] \(id 'o2'\).merchant: 'm99' is none of the city's 30",
        ),
        (
            lambda d: d["orders"][1]["pickup"].update(x=0, y=0),
            r"orders\[1\] \(id 'o2'\).pickup: differs from the place of",
        ),
        (
            lambda d: d["orders"][1]["dropoff"].update(x=99),
            r"orders\[1\] \(id 'o2'\).dropoff: \(99, \d+\) is outside the city",
        ),
        (lambda d: d["orders"][1].update(id="o1"), r"orders\[1\].id: 'o1' is that of orders\[0\], too"),
        (
            lambda d: d["couriers"][0].update(capacity=0),
            r"couriers\[0\] \(id 'c1'\).capacity: expected a whole number of at least 1",
        ),
        *(
            (
                lambda d, value=value: d["couriers"][0].update(capacity=value),
                rf"couriers\[0\] \(id 'c1'\).capacity: expected a whole number of at least 1, found {value}$",
            )
            for value in (-1, 1.5, False)
        ),
        (
            lambda d: d["couriers"][0].update(place=[1, 2]),
            r"couriers\[0\] \(id 'c1'\).place: expected an object, found list",
        ),
        (lambda d: d["orders"][1].update(id=7), r"orders\[1\].id: expected a text that is not empty, found 7"),
        (lambda d: d["orders"][1].update(due=10**30), r"orders\[1\] \(id 'o2'\).due: \d+ is more than 1,000,000"),
        (lambda d: d["couriers"].clear(), "couriers: there is none who could carry order 'o1'"),
        (lambda d: d["couriers"][0].update(id=""), r"couriers\[0\].id: expected a text that is not empty"),
    ],
)
def test_a_scene_that_cannot_be_is_refused_with_its_place(change, message):
    broken = document()
    change(broken)
    with pytest.raises(DataError, match=message):
        scene_from_json(broken, "scene")


def test_a_document_that_is_no_object_is_refused():
    with pytest.raises(DataError, match="scene: expected an object, found list"):
        scene_from_json([], "scene")
