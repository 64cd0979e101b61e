"""The exact dispatchers: of one decision, and of a whole hour in hindsight."""

import itertools
import re
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from longcat.distribution import install_command
from longcat.errors import UserError
from longcat.local_services.city import Courier, Place, Scene
from longcat.local_services.greedy import nearest_free
from longcat.local_services.proof import Stop
from longcat.local_services.simulation import Cost, Position, cost_of, insertions, most_carried, simulate
from longcat.local_services.solver import best_choice, cheapest, hindsight
from tests.local_services.test_simulation import CITY, small_scene


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10**6))
def test_the_best_choice_costs_least_of_all_that_are_possible(seed):
    def checked(decision):
        best = best_choice(decision)
        added = [
            cost_of(Position(one.courier, one.place, one.free, route), decision.orders).total
            - cost_of(one, decision.orders).total
            for one in decision.couriers
            for route in insertions(one, decision.order)
        ]
        assert cheapest(decision, best.courier).cost == min(added)
        assert cheapest(decision, best.courier).route == best.route
        return best

    simulate(small_scene(seed, 3, 8), checked)


def brute_force(scene):
    """Try every courier for every order, and every route for every courier."""
    stops = {
        own: [
            route
            for route in itertools.permutations([Stop(index, kind) for index in own for kind in (True, False)])
            if all(route.index(Stop(index, True)) < route.index(Stop(index, False)) for index in own)
        ]
        for size in range(len(scene.orders) + 1)
        for own in itertools.combinations(range(len(scene.orders)), size)
    }

    def least(courier, own):
        return min(
            cost_of(Position(courier, courier.place, courier.free, route), scene.orders).total
            for route in stops[own]
            if most_carried(route) <= courier.capacity
        )

    return min(
        sum(
            least(courier, tuple(order for order, taken in enumerate(given) if taken == index))
            for index, courier in enumerate(scene.couriers)
        )
        for given in itertools.product(range(len(scene.couriers)), repeat=len(scene.orders))
    )


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("capacity", [1, 4])
def test_hindsight_is_the_optimum_of_all_plans(seed, capacity):
    drawn = small_scene(seed, 1 + seed % 3, 6)
    couriers = tuple(Courier(one.id, one.place, one.free, capacity) for one in drawn.couriers)
    scene = Scene(drawn.city, couriers, tuple(drawn.orders[:3]))
    found = hindsight(scene, simulate(scene, nearest_free))
    assert found.is_proven
    assert found.cost == brute_force(scene)


def test_nobody_beats_the_bound_even_where_there_was_no_time_to_prove_it():
    scene = small_scene(4, 4, 14)
    known = simulate(scene, best_choice)
    found = hindsight(scene, known, effort=0.01)
    assert found.bound <= found.cost <= known.cost.total
    assert found.bound <= simulate(scene, nearest_free).cost.total


def test_who_waits_for_an_answer_gets_what_was_found_in_time():
    scene = small_scene(4, 4, 14)
    known = simulate(scene, best_choice)
    found = hindsight(scene, known, effort=1e9, seconds=0.05)
    assert found.bound <= found.cost <= known.cost.total


def test_an_hour_without_orders_costs_nothing():
    scene = Scene(CITY, (Courier("c1", Place(0, 0), 0),), ())
    hour = simulate(scene, best_choice)
    assert (hour.cost, hindsight(scene, hour).cost) == (Cost(0, 0), 0)


def test_without_or_tools_hindsight_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "ortools.sat.python", None)
    scene = small_scene(1)
    with pytest.raises(UserError, match=re.escape(install_command("services"))):
        hindsight(scene, simulate(scene, best_choice))
