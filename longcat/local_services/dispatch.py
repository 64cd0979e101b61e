"""Dispatch: which courier takes a new order at the least added time."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from typing import Any

from longcat.local_services.city import Place, travel_minutes
from longcat.local_services.instance import CHOICES, Draft, Task
from longcat.local_services.proof import only_best
from longcat.local_services.text import COURIERS, LIST, say, ticket

_SIDE = 12
_QUESTION = {
    "zh": [
        "{ticket}号单在{pickup}取，送{dropoff}；{ticket}每格一分钟。{couriers}。谁接{ticket}增加的时间最少？",
        "骑手位置：{couriers}。{ticket}走一格一分钟，从{pickup}到{dropoff}。{ticket}给谁多花的时间最少？",
    ],
    "en": [
        "Order {ticket} goes from {pickup} to {dropoff}; a block takes a minute. {couriers}. "
        "Who takes order {ticket} at the least added time?",
        "Positions: {couriers}. One minute per block. Order {ticket}: "
        "pick up at {pickup}, drop off at {dropoff}. Whose route does {ticket} lengthen least?",
    ],
}
_BUSY = {"zh": "{name}在{place}，还要送{stop}", "en": "{name} at {place}, still bound for {stop}"}
_FREE = {"zh": "{name}在{place}，空闲", "en": "{name} at {place}, free"}
_STEPS = {"zh": "增加的时间：{costs}分钟", "en": "Added minutes: {costs}"}


def added_minutes(place: Place, stops: Sequence[Place], pickup: Place, dropoff: Place) -> int:
    """Return the least time by which a new order lengthens a courier's route; the order of its stops is kept.

    Every pair of positions for pick-up and drop-off is tried.
    """
    old = [place, *stops]
    routes = [
        [*old[:first], pickup, *old[first:second], dropoff, *old[second:]]
        for first in range(1, len(old) + 1)
        for second in range(first, len(old) + 1)
    ]
    return min(map(_length, routes)) - _length(old)


def _length(route: Sequence[Place]) -> int:
    return sum(travel_minutes(a, b) for a, b in itertools.pairwise(route))


def _make(rng: random.Random, language: str, rank: int) -> Draft | None:
    def corner() -> Place:
        return Place(rng.randint(0, _SIDE), rng.randint(0, _SIDE))

    pickup, dropoff = corner(), corner()
    staff = [(name, corner(), [corner() for _ in range(rng.randint(0, 1))]) for name in rng.sample(COURIERS, CHOICES)]
    costs = [added_minutes(place, stops, pickup, dropoff) for _, place, stops in staff]
    best = only_best(range(CHOICES), costs.__getitem__, "couriers")
    if best is None or best.answer != rank or pickup == dropoff:
        return None
    number = ticket(rng)
    names = [name[language] for name, _, _ in staff]
    facts: dict[str, Any] = {
        "pickup": [pickup.x, pickup.y],
        "dropoff": [dropoff.x, dropoff.y],
        "couriers": sorted([[p.x, p.y], [[s.x, s.y] for s in stops]] for _, p, stops in staff),
        "best": [[staff[rank][1].x, staff[rank][1].y], [[s.x, s.y] for s in staff[rank][2]]],
    }
    asked = question(
        rng, language, number, pickup, dropoff, [(name[language], place, stops) for name, place, stops in staff]
    )
    steps = _STEPS[language].format(costs=LIST[language].join(f"{n} {c}" for n, c in zip(names, costs, strict=True)))
    return Draft(facts, asked, names[rank], [n for n in names if n != names[rank]], steps, best.proof)


def question(
    rng: random.Random,
    language: str,
    number: int,
    pickup: Place,
    dropoff: Place,
    couriers: Sequence[tuple[str, Place, Sequence[Place]]],
) -> str:
    """Ask who takes an order.

    Args:
        rng: chooses the wording.
        language: `zh` or `en`.
        number: of the order.
        pickup: where the order is.
        dropoff: where it goes.
        couriers: name, place and remaining stops of each.
    """
    told = [
        (_BUSY if stops else _FREE)[language].format(name=name, place=_at(place), stop="".join(map(_at, stops)))
        for name, place, stops in couriers
    ]
    return say(
        rng,
        _QUESTION[language],
        ticket=number,
        pickup=_at(pickup),
        dropoff=_at(dropoff),
        couriers=LIST[language].join(told),
    )


def _at(place: Place) -> str:
    return f"({place.x},{place.y})"


TASK = Task("dispatch", "name", _make, named=True)
