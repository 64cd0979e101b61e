"""A simulated while of dispatch: orders come one by one, and each is given to a courier when it is placed.

What holds for every dispatcher: a courier finishes the way to the stop that is next, and the wait for an order there, before the
route can change; carries at most `capacity` orders; picks an order up before dropping it off, and not before it is ready; and stays
at the last stop once nothing is left to do. The cost of it all is the minutes that are driven plus the minutes that orders are late.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from longcat.local_services.city import Courier, Order, Place, Scene, travel_minutes
from longcat.local_services.proof import Stop

Route = tuple[Stop, ...]
"""Stops in the order in which they are made; orders are named by their index in the scene."""


@dataclass(frozen=True)
class Position:
    """A courier at the moment of a decision: can leave `place` at minute `free`, with the stops of `route` before him."""

    courier: Courier
    place: Place
    free: int
    route: Route = ()


@dataclass(frozen=True)
class Cost:
    """Minutes driven, and minutes that orders are late."""

    driven: int
    late: int

    @property
    def total(self) -> int:
        """Return the sum of both."""
        return self.driven + self.late


@dataclass(frozen=True)
class Decision:
    """What a dispatcher is asked: who takes order `order`, an index, at the minute it is placed."""

    orders: Sequence[Order]
    order: int
    couriers: tuple[Position, ...]


@dataclass(frozen=True)
class Choice:
    """What a dispatcher answers: the courier, an index, and the courier's new route."""

    courier: int
    route: Route


Dispatcher = Callable[[Decision], Choice]


@dataclass(frozen=True)
class Visit:
    """A stop that was made: where, and at which minute it was done."""

    stop: Stop
    place: Place
    minute: int


@dataclass(frozen=True)
class Hour:
    """What came of a simulation.

    Attributes:
        choices: index of the courier of each order.
        visits: by courier, the stops in the order they were made.
        cost: of all.
        late_orders: indices of the orders that came late.
        added: minutes driven that each choice added when it was made, by order.
    """

    choices: tuple[int, ...]
    visits: tuple[tuple[Visit, ...], ...]
    cost: Cost
    late_orders: tuple[int, ...]
    added: tuple[int, ...]


def simulate(scene: Scene, dispatcher: Dispatcher) -> Hour:
    """Let a dispatcher decide each order of a scene, in the order in which they are placed.

    Raises:
        ValueError: the dispatcher answers with what cannot be done.
    """
    orders = scene.orders
    couriers = [Position(courier, courier.place, courier.free) for courier in scene.couriers]
    visits: list[list[Visit]] = [[] for _ in couriers]
    choices, added = [0] * len(orders), [0] * len(orders)
    for order in sorted(range(len(orders)), key=lambda index: (orders[index].placed, index)):
        for index, position in enumerate(couriers):
            couriers[index] = advance(position, orders, orders[order].placed, visits[index])
        choice = dispatcher(Decision(orders, order, tuple(couriers)))
        before = couriers[choice.courier]
        if choice.route not in insertions(before, order):
            raise ValueError(f"order {orders[order].id}: courier {before.courier.id} cannot make {choice.route}")
        after = Position(before.courier, before.place, before.free, choice.route)
        choices[order] = choice.courier
        added[order] = cost_of(after, orders).driven - cost_of(before, orders).driven
        couriers[choice.courier] = after
    for index, position in enumerate(couriers):
        advance(position, orders, None, visits[index])
    driven = sum(
        travel_minutes(a, b)
        for courier, made in zip(scene.couriers, visits, strict=True)
        for a, b in _legs(courier.place, made)
    )
    lateness = {
        visit.stop.order: visit.minute - orders[visit.stop.order].due
        for made in visits
        for visit in made
        if not visit.stop.pickup
    }
    late = {order: minutes for order, minutes in lateness.items() if minutes > 0}
    return Hour(
        tuple(choices),
        tuple(map(tuple, visits)),
        Cost(driven, sum(late.values())),
        tuple(sorted(late)),
        tuple(added),
    )


def stop_place(orders: Sequence[Order], stop: Stop) -> Place:
    """Return where a stop is made."""
    return orders[stop.order].pickup if stop.pickup else orders[stop.order].dropoff


def visits_of(position: Position, orders: Sequence[Order]) -> Iterator[Visit]:
    """Yield the stops of a courier's route with the minutes at which they are done."""
    place, minute = position.place, position.free
    for stop in position.route:
        goal = stop_place(orders, stop)
        minute += travel_minutes(place, goal)
        if stop.pickup:
            minute = max(minute, orders[stop.order].ready)
        place = goal
        yield Visit(stop, place, minute)


def cost_of(position: Position, orders: Sequence[Order]) -> Cost:
    """Return what a courier's route still costs."""
    made = list(visits_of(position, orders))
    return Cost(
        sum(travel_minutes(a, b) for a, b in _legs(position.place, made)),
        sum(max(0, visit.minute - orders[visit.stop.order].due) for visit in made if not visit.stop.pickup),
    )


def insertions(position: Position, order: int) -> list[Route]:
    """Return all routes that make an order's two stops as well, keep the order of the others, and never carry too much."""
    old = position.route
    routes = [
        (*old[:first], Stop(order, True), *old[first:second], Stop(order, False), *old[second:])
        for first in range(len(old) + 1)
        for second in range(first, len(old) + 1)
    ]
    return [route for route in routes if most_carried(route) <= position.courier.capacity]


def most_carried(route: Route) -> int:
    """Return the most orders carried at once; those that a route only drops off are carried from its beginning."""
    fetched = {stop.order for stop in route if stop.pickup}
    carried = most = sum(not stop.pickup and stop.order not in fetched for stop in route)
    for stop in route:
        carried += 1 if stop.pickup else -1
        most = max(most, carried)
    return most


def advance(position: Position, orders: Sequence[Order], minute: int | None, made: list[Visit]) -> Position:
    """Return a courier at a later minute, and note the stops that were begun before it; None goes on to the end."""
    done = 0
    place, free = position.place, position.free
    for visit in visits_of(position, orders):
        if minute is not None and free >= minute:
            break
        made.append(visit)
        place, free, done = visit.place, visit.minute, done + 1
    route = position.route[done:]
    return Position(position.courier, place, free if route or minute is None else max(free, minute), route)


def _legs(start: Place, made: Sequence[Visit]) -> Iterator[tuple[Place, Place]]:
    places = [start, *(visit.place for visit in made)]
    return itertools.pairwise(places)
