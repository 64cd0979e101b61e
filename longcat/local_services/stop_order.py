"""Stop order: the route that ends earliest with every order picked up before it is dropped off, and none late."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator

from longcat.local_services.city import Place, near
from longcat.local_services.instance import CHOICES, Draft, Task
from longcat.local_services.proof import Errand, Stop, arrivals, best_route, finish
from longcat.local_services.text import LIST, say, ticket

_SIDE = 9
_LABELS = "ABCDE"
_ATTEMPTS = 2000
_QUESTION = {
    "zh": [
        "骑手{ticket}在{start}，{ticket}走一格要一分钟。{ticket}有{orders}。都不超时，{ticket}怎样走完成最早？",
        "{orders}。{ticket}从{start}出发，{ticket}每格走一分钟。{ticket}最快且不迟到的路线是？",
    ],
    "en": [
        "Rider {ticket} is at {start}, one minute per block. Orders of {ticket}: {orders}. "
        "Which route of {ticket} ends earliest with nothing late?",
        "{orders}. Rider {ticket} starts at {start}, {ticket} rides a block a minute. "
        "What is the fastest route of {ticket} in time?",
    ],
}
_ORDER = {
    "zh": "{label}：{pickup}取，{ready}分后备好，{due}分内送{dropoff}",
    "en": "{label}: pick up at {pickup}, ready in {ready} min, drop at {dropoff} within {due} min",
}
_WORDS = {"zh": ("取", "送", " "), "en": ("pick ", "drop ", ", ")}
_STEPS = {
    "zh": "按此路线各站用时{times}分，无一超时",
    "en": "on this route the stops are done after {times} min, none late",
}


def written(route: tuple[Stop, ...], language: str) -> str:
    """Return a route in words."""
    pick, drop, separator = _WORDS[language]
    return separator.join(f"{pick if stop.pickup else drop}{_LABELS[stop.order]}" for stop in route)


def _make(rng: random.Random, language: str, rank: int) -> Draft | None:
    return _of_size(rng, language, rng.choices((2, 3), (3, 1))[0])


def _of_size(rng: random.Random, language: str, orders: int) -> Draft | None:
    """Draw four neighbouring routes, one of them at random to be the right one, and a city in which it is.

    Each of the four may become the right one, and it is kept until there is such a city, however rare that is: so the routes
    say nothing about which of them is right.
    """
    rivals = _rivals(rng, orders)
    target = rng.choice(rivals)
    for _ in range(_ATTEMPTS):
        draft = _with_answer(rng, language, rivals, target)
        if draft is not None:
            return draft
    return None


def _with_answer(
    rng: random.Random, language: str, rivals: list[tuple[Stop, ...]], target: tuple[Stop, ...]
) -> Draft | None:
    orders = len(target) // 2
    start, places = _places(rng, target)
    loose = [
        Errand(places[Stop(order, True)], rng.choice((0, 0, rng.randint(1, 12))), places[Stop(order, False)], 0)
        for order in range(orders)
    ]
    if any(errand.pickup == errand.dropoff for errand in loose):
        return None
    done = dict(zip(target, arrivals(start, loose, target), strict=True))
    slack = rng.choice((3, 8, 20)) if orders <= 3 else 0
    errands = [
        Errand(e.pickup, e.ready, e.dropoff, done[Stop(index, False)] + rng.randint(0, slack))
        for index, e in enumerate(loose)
    ]
    # most of what is drawn ends here, before anything is enumerated or solved
    if any(
        (time := finish(start, errands, route)) is not None and time <= done[target[-1]]
        for route in (*rivals, *_moved(target))
        if route != target
    ):
        return None
    best = best_route(start, errands)
    if best is None or best.answer != target:
        return None
    number = ticket(rng)
    facts = {
        "start": [start.x, start.y],
        "orders": [[e.pickup.x, e.pickup.y, e.ready, e.dropoff.x, e.dropoff.y, e.due] for e in errands],
    }
    told = [
        _ORDER[language].format(
            label=_LABELS[index],
            pickup=f"({e.pickup.x},{e.pickup.y})",
            dropoff=f"({e.dropoff.x},{e.dropoff.y})",
            ready=e.ready,
            due=e.due,
        )
        for index, e in enumerate(errands)
    ]
    question = say(
        rng, _QUESTION[language], ticket=number, start=f"({start.x},{start.y})", orders=LIST[language].join(told)
    )
    steps = _STEPS[language].format(times=", ".join(str(done[stop]) for stop in target))
    wrong = [written(route, language) for route in rivals if route != target]
    return Draft(facts, question, written(target, language), wrong, steps, best.proof)


def _places(rng: random.Random, target: tuple[Stop, ...]) -> tuple[Place, dict[Stop, Place]]:
    """Draw a start and the places of the stops: anywhere for two orders, else each near the one before."""
    side = _SIDE if len(target) <= 6 else 2 * _SIDE
    start = place = Place(rng.randint(0, side), rng.randint(0, side))
    places = {}
    for stop in target:
        if len(target) <= 4:
            place = Place(rng.randint(0, _SIDE), rng.randint(0, _SIDE))
        else:
            place = near(rng, place, 3, side, side)
        places[stop] = place
    return start, places


def _moved(target: tuple[Stop, ...]) -> Iterator[tuple[Stop, ...]]:
    """Yield each possible route that has one stop elsewhere."""
    for at, to in itertools.permutations(range(len(target)), 2):
        other = target.index(Stop(target[at].order, not target[at].pickup))
        if (at < other) == (to <= (other if other < at else other - 1)):
            rest = [*target[:at], *target[at + 1 :]]
            yield (*rest[:to], target[at], *rest[to:])


def _rivals(rng: random.Random, orders: int) -> list[tuple[Stop, ...]]:
    """Draw four routes that are each two swaps of neighbours or less away from one that is drawn first."""
    stops = [Stop(order, pickup) for order in range(orders) for pickup in (True, False)]
    rng.shuffle(stops)
    base = _possible(stops)
    found: dict[tuple[Stop, ...], None] = {}
    while len(found) < CHOICES:
        route = list(base)
        for _ in range(rng.randint(0, 2) if orders > 2 else rng.randint(0, 6)):
            at = rng.randrange(len(route) - 1)
            route[at : at + 2] = route[at : at + 2][::-1]
        found[_possible(route)] = None
    return list(found)


def _possible(stops: list[Stop]) -> tuple[Stop, ...]:
    """Exchange the stops of orders that would be dropped off first."""
    route = list(stops)
    for order in {stop.order for stop in stops}:
        at, back = sorted((route.index(Stop(order, True)), route.index(Stop(order, False))))
        route[at], route[back] = Stop(order, True), Stop(order, False)
    return tuple(route)


def _make_large(rng: random.Random, language: str, rank: int) -> Draft | None:
    return _of_size(rng, language, 5)


TASK = Task("stop_order", "sequence", _make)
LARGE = Task("stop_order", "sequence", _make_large)
"""Five orders, 113,400 routes: proved by CP-SAT."""
