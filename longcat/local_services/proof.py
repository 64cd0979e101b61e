"""Proofs that an answer is the only best one: by enumeration where that is small, by OR-Tools CP-SAT elsewhere."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from longcat.distribution import install_command
from longcat.errors import UserError
from longcat.local_services.city import Place, travel_minutes

ENUMERATED_ORDERS = 3
"""Orders up to which routes are enumerated: 90 routes; five would be 113,400."""


@dataclass(frozen=True)
class Best:
    """The only best candidate, its cost, and how that was proved."""

    answer: Any
    cost: int
    proof: str


@dataclass(frozen=True)
class Stop:
    """Order `order`, an index, is picked up or dropped off."""

    order: int
    pickup: bool


@dataclass(frozen=True)
class Errand:
    """An order to be carried: from where, ready at a minute, to where, and until when."""

    pickup: Place
    ready: int
    dropoff: Place
    due: int


def only_best(candidates: Iterable[Any], cost: Callable[[Any], int | None], what: str) -> Best | None:
    """Return the one candidate of least cost; None if there is none or more than one.

    Args:
        candidates: all that there are.
        cost: a candidate's cost; None for one that is not allowed.
        what: what the candidates are called in the proof.
    """
    costs = [(value, candidate) for candidate in candidates if (value := cost(candidate)) is not None]
    least = min((value for value, _ in costs), default=None)
    best = [candidate for value, candidate in costs if value == least]
    if least is None or len(best) != 1:
        return None
    others = f"the other {len(costs) - 1} allowed {what} cost more" if costs[1:] else f"no other {what} are allowed"
    return Best(best[0], least, f"enumeration: one costs {least}, {others}")


@cache
def routes(orders: int) -> tuple[tuple[Stop, ...], ...]:
    """Return each order of the stops in which every order is picked up before it is dropped off."""
    stops = [Stop(order, pickup) for order in range(orders) for pickup in (True, False)]
    return tuple(
        route
        for route in itertools.permutations(stops)
        if all(route.index(Stop(order, True)) < route.index(Stop(order, False)) for order in range(orders))
    )


def arrivals(start: Place, errands: Sequence[Errand], route: Sequence[Stop]) -> list[int]:
    """Return the minute at which each stop of a route is done; a courier waits for an order that is not ready."""
    minute, place, times = 0, start, []
    for stop in route:
        errand = errands[stop.order]
        goal = errand.pickup if stop.pickup else errand.dropoff
        minute += travel_minutes(place, goal)
        if stop.pickup:
            minute = max(minute, errand.ready)
        place = goal
        times.append(minute)
    return times


def finish(start: Place, errands: Sequence[Errand], route: Sequence[Stop]) -> int | None:
    """Return the minute at which a route's last order is dropped off; None if one is late."""
    times = arrivals(start, errands, route)
    late = any(not stop.pickup and time > errands[stop.order].due for stop, time in zip(route, times, strict=True))
    return None if late else times[-1]


def best_route(start: Place, errands: Sequence[Errand]) -> Best | None:
    """Return the only route that ends earliest with no order late; None if there is none or more than one.

    Up to `ENUMERATED_ORDERS` orders are enumerated; more are given to CP-SAT, which proves the optimum and then that no other
    route is as good.

    Raises:
        UserError: there are more orders, and OR-Tools is not installed.
    """
    if len(errands) <= ENUMERATED_ORDERS:
        return only_best(routes(len(errands)), lambda route: finish(start, errands, route), "routes")
    return _solved_route(start, errands)


def _solved_route(start: Place, errands: Sequence[Errand]) -> Best | None:
    found = _solve(start, errands, None, None)
    if found is None:
        return None
    route, cost = found
    if _solve(start, errands, cost, route) is not None:
        return None
    return Best(route, cost, f"CP-SAT: optimum {cost} with closed bound, and no other route reaches it")


def _solve(
    start: Place, errands: Sequence[Errand], limit: int | None, excluded: tuple[Stop, ...] | None
) -> tuple[tuple[Stop, ...], int] | None:
    """Solve the route as a circuit through the stops: node 0 is the start, 1 + 2 i the pick-up of order i, 2 + 2 i its drop-off."""
    cp_model = ortools_cp_model()
    model = cp_model.CpModel()
    places, stops = [start], [Stop(-1, True)]
    for index, errand in enumerate(errands):
        places += [errand.pickup, errand.dropoff]
        stops += [Stop(index, True), Stop(index, False)]
    horizon = max(errand.due for errand in errands)
    times = [model.new_int_var(0, 0 if node == 0 else horizon, f"time {node}") for node in range(len(places))]
    arcs = {}
    for a, b in itertools.permutations(range(len(places)), 2):
        arcs[a, b] = model.new_bool_var(f"from {a} to {b}")
        if b:
            model.add(times[b] >= times[a] + travel_minutes(places[a], places[b])).only_enforce_if(arcs[a, b])
    model.add_circuit([(a, b, used) for (a, b), used in arcs.items()])
    for index, errand in enumerate(errands):
        pickup, dropoff = 1 + 2 * index, 2 + 2 * index
        model.add(times[pickup] >= errand.ready)
        model.add(times[dropoff] <= errand.due)
        model.add(times[dropoff] >= times[pickup] + travel_minutes(errand.pickup, errand.dropoff))
        # both stops of an order may be at one corner: the drop-off still comes after
        model.add(arcs[dropoff, pickup] == 0)
    end = model.new_int_var(0, horizon, "end")
    model.add_max_equality(end, times)
    positions = [model.new_int_var(0, len(places) - 1, f"position {node}") for node in range(len(places))]
    model.add(positions[0] == 0)
    for (a, b), used in arcs.items():
        if b:
            model.add(positions[b] == positions[a] + 1).only_enforce_if(used)
    for index in range(len(errands)):
        model.add(positions[1 + 2 * index] < positions[2 + 2 * index])
    if limit is None:
        model.minimize(end)
    else:
        model.add(end <= limit)
    if excluded is not None:
        nodes = [0, *(stops.index(stop) for stop in excluded)]
        model.add(sum(arcs[pair] for pair in itertools.pairwise(nodes)) <= len(nodes) - 2)
    solver = cp_model.CpSolver()
    solver.parameters.num_workers = 1
    solver.parameters.random_seed = 0
    status = solver.solve(model)
    if status == cp_model.INFEASIBLE:
        return None
    if status != cp_model.OPTIMAL:  # there is no limit of time: anything else is a broken model
        raise RuntimeError(f"CP-SAT ended with {solver.status_name(status)}")
    order = sorted(range(1, len(places)), key=lambda node: solver.value(positions[node]))
    route = tuple(stops[node] for node in order)
    cost = finish(start, errands, route)
    assert cost is not None and cost <= solver.value(end)
    return route, cost


def ortools_cp_model() -> Any:
    """Return the module of CP-SAT.

    Raises:
        UserError: OR-Tools is not installed.
    """
    try:
        from ortools.sat.python import cp_model
    except ImportError:
        raise UserError(f"OR-Tools is not installed; it comes with: {install_command('services')}") from None
    return cp_model
