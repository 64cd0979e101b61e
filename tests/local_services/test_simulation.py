"""The simulated hour and the greedy dispatcher."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from longcat.local_services.city import City, Courier, Merchant, Order, Place, Scene, make_scene, travel_minutes
from longcat.local_services.greedy import nearest_free
from longcat.local_services.proof import Stop
from longcat.local_services.simulation import (
    Choice,
    Cost,
    Position,
    insertions,
    most_carried,
    simulate,
)
from longcat.local_services.solver import best_choice

CITY = City(12, 12, (Merchant("m1", Place(0, 0), 5), Merchant("m2", Place(6, 0), 5)))


def order(number, x, y, *, placed=0, ready=0, due=100, merchant=1):
    shop = CITY.merchants[merchant - 1]
    return Order(f"o{number}", shop.id, shop.place, Place(x, y), placed, ready, due)


def last(decision):
    """Give every order to the last courier, at the end of the route."""
    index = len(decision.couriers) - 1
    route = decision.couriers[index].route
    return Choice(index, (*route, Stop(decision.order, True), Stop(decision.order, False)))


def small_scene(seed, couriers=2, rate=3.0):
    return make_scene(seed, start=720, minutes=60, couriers=couriers, orders_per_hour=rate)


def test_an_order_is_fetched_when_it_is_ready_and_lateness_is_counted():
    scene = Scene(CITY, (Courier("c1", Place(0, 2), 3),), (order(1, 0, 4, placed=1, ready=10, due=13),))
    hour = simulate(scene, nearest_free)
    assert [(visit.place, visit.minute) for visit in hour.visits[0]] == [(Place(0, 0), 10), (Place(0, 4), 14)]
    assert (hour.cost, hour.late_orders, hour.added, hour.choices) == (Cost(6, 1), (0,), (6,), (0,))


def test_the_way_to_the_next_stop_is_finished_before_the_route_changes():
    scene = Scene(
        CITY,
        (Courier("c1", Place(6, 0), 0),),
        (order(1, 0, 9, placed=0), order(2, 6, 1, placed=2, merchant=2)),
    )
    hour = simulate(scene, best_choice)
    assert hour.visits[0][0].stop == Stop(0, True)  # at minute 2 on the way from (6, 0) to (0, 0)
    seen = []

    def watching(decision):
        seen.append(decision.couriers[0])
        return best_choice(decision)

    assert simulate(scene, watching) == hour
    assert (seen[1].place, seen[1].free, seen[1].route) == (Place(0, 0), 6, (Stop(0, False),))


def test_a_courier_carries_no_more_than_fits():
    position = Position(Courier("c1", Place(0, 0), 0, capacity=1), Place(0, 0), 0, (Stop(0, False),))
    assert insertions(position, 1) == [(Stop(0, False), Stop(1, True), Stop(1, False))]
    assert most_carried((Stop(0, False), Stop(1, True), Stop(1, False))) == 1
    assert most_carried((Stop(1, True), Stop(0, False), Stop(1, False))) == 2


def test_an_answer_that_cannot_be_is_refused():
    scene = Scene(CITY, (Courier("c1", Place(0, 0), 0),), (order(1, 3, 3),))
    with pytest.raises(ValueError, match="order o1: courier c1 cannot"):
        simulate(scene, lambda decision: Choice(0, (Stop(0, False), Stop(0, True))))


def test_greedy_takes_the_nearest_free_courier_and_without_one_the_first_to_be_free():
    couriers = (Courier("c1", Place(0, 5), 0), Courier("c2", Place(0, 1), 0), Courier("c3", Place(9, 9), 0))
    orders = [order(number, 0, 3, placed=0) for number in range(4)]
    assert simulate(Scene(CITY, couriers, tuple(orders)), nearest_free).choices == (1, 0, 2, 1)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 4), st.sampled_from([nearest_free, best_choice, last]))
def test_an_hour_adds_up_whoever_dispatches(seed, couriers, dispatcher):
    scene = small_scene(seed, couriers, 10)
    hour = simulate(scene, dispatcher)
    stops = [visit.stop for made in hour.visits for visit in made]
    assert sorted(stops, key=lambda stop: (stop.order, not stop.pickup)) == [
        Stop(index, pickup) for index in range(len(scene.orders)) for pickup in (True, False)
    ]
    assert sum(hour.added) == hour.cost.driven
    for courier, made in zip(scene.couriers, hour.visits, strict=True):
        assert most_carried(tuple(visit.stop for visit in made)) <= courier.capacity
        place, minute = courier.place, courier.free
        for visit in made:
            one = scene.orders[visit.stop.order]
            assert visit.minute >= minute + travel_minutes(place, visit.place)
            assert visit.minute >= (one.ready if visit.stop.pickup else one.placed)
            place, minute = visit.place, visit.minute
