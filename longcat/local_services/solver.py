"""Exact dispatch: the best answer to one decision, and the best that could have been done with a whole hour known beforehand.

The two are different things. `best_choice` knows what a dispatcher knows and minimises what the order at hand adds: the optimum of each
moment, which need not be the best for what comes later. `hindsight` knows all orders from the start, so no dispatcher costs
less than its bound.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from longcat.local_services.city import Order, Place, Scene, travel_minutes
from longcat.local_services.proof import ortools_cp_model
from longcat.local_services.simulation import Choice, Decision, Hour, Position, Route, cost_of, insertions

EFFORT = 6.0
"""Limit of CP-SAT's deterministic time: the same work on each machine, some seconds to a minute."""


@dataclass(frozen=True)
class Hindsight:
    """The least cost that was found for a whole hour, and a proven lower bound of it."""

    cost: int
    bound: int

    @property
    def is_proven(self) -> bool:
        """Return whether the cost is the optimum."""
        return self.cost == self.bound


@dataclass(frozen=True)
class Addition:
    """The cheapest way for a courier to take an order: the new route, and what it costs more than the old one."""

    courier: int
    route: Route
    cost: int


def cheapest(decision: Decision, courier: int) -> Addition:
    """Return how a courier takes the order at the least added cost, by enumeration of all insertions."""
    position, orders = decision.couriers[courier], decision.orders
    before = cost_of(position, orders).total
    additions = [
        Addition(
            courier,
            route,
            cost_of(Position(position.courier, position.place, position.free, route), orders).total - before,
        )
        for route in insertions(position, decision.order)
    ]
    return min(additions, key=lambda addition: addition.cost)


def best_choice(decision: Decision) -> Choice:
    """Return the choice that adds the least cost, by enumeration of all couriers and all insertions into their routes."""
    best = min(
        (cheapest(decision, courier) for courier in range(len(decision.couriers))), key=lambda addition: addition.cost
    )
    return Choice(best.courier, best.route)


def hindsight(scene: Scene, known: Hour, effort: float | None = None, seconds: float | None = None) -> Hindsight:
    """Search for the least cost of a whole hour whose orders are known beforehand.

    One circuit goes through the start of courier 0, his stops, the start of courier 1, and so on. What holds is what holds in the
    simulation, except that routes are free from the first minute on: each simulated hour is a solution.

    Args:
        scene: couriers and orders.
        known: an hour that was simulated, to start from.
        effort: limit of CP-SAT's deterministic time; `EFFORT` if None.
        seconds: limit of its time on the clock, where somebody waits for the answer; what is found then depends on the machine.

    Raises:
        UserError: OR-Tools is not installed.
    """
    cp_model = ortools_cp_model()
    couriers, orders = scene.couriers, scene.orders
    if not orders:
        return Hindsight(0, 0)
    count, nodes = len(couriers), len(couriers) + 2 * len(orders)
    places = [courier.place for courier in couriers] + [
        place for order in orders for place in (order.pickup, order.dropoff)
    ]
    horizon = _horizon(scene.orders, places, max(courier.free for courier in couriers))
    model = cp_model.CpModel()
    courier_of = [model.new_int_var(0, count - 1, f"courier of {node}") for node in range(nodes)]
    minute = [model.new_int_var(0, horizon, f"minute of {node}") for node in range(nodes)]
    carried = [model.new_int_var(0, len(orders), f"carried after {node}") for node in range(nodes)]
    number = [model.new_int_var(0, nodes - 1, f"number of {node}") for node in range(nodes)]
    for index, courier in enumerate(couriers):
        model.add(courier_of[index] == index)
        model.add(minute[index] == courier.free)
        model.add(carried[index] == 0)
    model.add(number[0] == 0)
    arcs = {}
    for a, b in itertools.permutations(range(nodes), 2):
        if b < count and a < count and b != (a + 1) % count:
            continue
        if a >= count and a % 2 != count % 2 and b == a - 1:  # from a drop-off to its own pick-up
            continue
        used = arcs[a, b] = model.new_bool_var(f"from {a} to {b}")
        if b < count:
            model.add(courier_of[a] == (b - 1) % count).only_enforce_if(used)
        else:
            model.add(courier_of[a] == courier_of[b]).only_enforce_if(used)
            model.add(minute[b] >= minute[a] + travel_minutes(places[a], places[b])).only_enforce_if(used)
            model.add(carried[b] == carried[a] + (1 if (b - count) % 2 == 0 else -1)).only_enforce_if(used)
        if b:
            model.add(number[b] == number[a] + 1).only_enforce_if(used)
    if nodes > 1:
        model.add_circuit([(a, b, used) for (a, b), used in arcs.items()])
    lateness = []
    for index, order in enumerate(orders):
        pickup, dropoff = count + 2 * index, count + 2 * index + 1
        model.add(courier_of[pickup] == courier_of[dropoff])
        model.add(number[pickup] < number[dropoff])
        model.add(minute[pickup] >= order.ready)
        model.add(minute[dropoff] >= minute[pickup] + travel_minutes(order.pickup, order.dropoff))
        capacity = model.new_int_var(1, max(courier.capacity for courier in couriers), f"capacity for {index}")
        model.add_element(courier_of[pickup], [courier.capacity for courier in couriers], capacity)
        model.add(carried[pickup] <= capacity)
        late = model.new_int_var(0, horizon, f"lateness of {index}")
        model.add(late >= minute[dropoff] - order.due)
        lateness.append(late)
    driven = sum(travel_minutes(places[a], places[b]) * used for (a, b), used in arcs.items() if b >= count)
    model.minimize(driven + sum(lateness))
    chain = [
        node
        for index, made in enumerate(known.visits)
        for node in (index, *(count + 2 * visit.stop.order + (not visit.stop.pickup) for visit in made))
    ]
    taken = set(itertools.pairwise([*chain, chain[0]]))
    for pair, used in arcs.items():
        model.add_hint(used, pair in taken)
    solver = cp_model.CpSolver()
    solver.parameters.num_workers = 1
    solver.parameters.random_seed = 0
    solver.parameters.max_deterministic_time = EFFORT if effort is None else effort
    if seconds is not None:
        solver.parameters.max_time_in_seconds = seconds
    status = solver.solve(model)
    if status not in (cp_model.OPTIMAL, cp_model.FEASIBLE, cp_model.UNKNOWN):  # what was simulated is a solution
        raise RuntimeError(f"CP-SAT ended with {solver.status_name(status)}")
    bound = max(0, round(solver.best_objective_bound))
    found = known.cost.total if status == cp_model.UNKNOWN else round(solver.objective_value)
    return Hindsight(min(found, known.cost.total), min(bound, found))


def _horizon(orders: Sequence[Order], places: Sequence[Place], free: int) -> int:
    """Return a minute at which any sensible plan is over: one courier who waits for the last order, and then goes everywhere."""
    longest = max(travel_minutes(a, b) for a, b in itertools.product(places, repeat=2))
    return max(free, *(order.ready for order in orders)) + longest * (2 * len(orders) + 1)
