"""A city of local-life services: places, travel times, demand over the day, merchants, couriers and orders.

Streets form a square grid, so that the way between two places is their Manhattan distance: over all directions that is on
average 4 / pi = 1.27 times the straight line, between the 1.2 of L. F. Newell's estimate (G. F. Newell, Traffic Flow on
Transportation Networks, 1980) and the 1.34 measured over 300 European cities (doi 10.1177/23998083231168870).
Everything else here is a plain choice of ours, not a fit to anybody's data; docs/local_services.md lists it.

Times are whole minutes since midnight, places are whole blocks.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from typing import Any

from longcat.errors import DataError
from longcat.printable import counted

BLOCK_M = 250
"""Length of a block in metres."""
SPEED_M_PER_MINUTE = 250
"""Speed of a courier on an electric bicycle, stops at lights included: 15 km/h."""
DAY_MINUTES = 24 * 60
_MOST = 1_000_000
"""Largest number in a file: solvers count with limited ones."""
_POSITIVE = {"width", "height", "capacity"}
"""Fields of a file that are at least 1; all other numbers may be 0."""
_MOST_SHOWN = 80
"""Characters of a value that a message shows."""
PROMISE_MINUTES = 30
"""Shortest time between an order and the minute for which its delivery is promised."""

# orders per hour of the day, relative to one another: a peak at noon, a higher and longer one in the evening
HOURLY_DEMAND = (2, 1, 1, 0, 0, 1, 2, 5, 6, 5, 8, 16, 18, 10, 6, 5, 7, 14, 20, 16, 10, 8, 6, 4)


@dataclass(frozen=True, order=True)
class Place:
    """A street corner: `x` blocks to the east and `y` blocks to the north of the city's south-western corner."""

    x: int
    y: int


@dataclass(frozen=True)
class Merchant:
    """A merchant, and the median of the minutes it takes to prepare an order."""

    id: str
    place: Place
    preparation_minutes: int


@dataclass(frozen=True)
class Courier:
    """A courier, who may leave `place` at minute `free`, and who carries at most `capacity` orders at once."""

    id: str
    place: Place
    free: int
    capacity: int = 4


@dataclass(frozen=True)
class Order:
    """An order: placed, ready for pick-up, and promised by these minutes since midnight."""

    id: str
    merchant: str
    pickup: Place
    dropoff: Place
    placed: int
    ready: int
    due: int


@dataclass(frozen=True)
class City:
    """A city of `width` times `height` blocks, and its merchants."""

    width: int
    height: int
    merchants: tuple[Merchant, ...]

    def holds(self, place: Place) -> bool:
        """Return whether a place lies in the city."""
        return 0 <= place.x <= self.width and 0 <= place.y <= self.height


@dataclass(frozen=True)
class Scene:
    """A city, its couriers and the orders of a while, in the order in which they are placed."""

    city: City
    couriers: tuple[Courier, ...]
    orders: tuple[Order, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the form that `scene_from_json` reads."""
        return asdict(self)


def blocks(a: Place, b: Place) -> int:
    """Return the length of the shortest way between two places in blocks."""
    return abs(a.x - b.x) + abs(a.y - b.y)


def travel_minutes(a: Place, b: Place) -> int:
    """Return the time a courier needs between two places, in whole minutes, rounded up."""
    return -(-blocks(a, b) * BLOCK_M // SPEED_M_PER_MINUTE)


def clock(minute: int) -> str:
    """Return a minute since midnight as `HH:MM`; minutes of the next day start again at 00:00."""
    return f"{minute // 60 % 24:02d}:{minute % 60:02d}"


def preparation(rng: random.Random, median: int) -> int:
    """Draw the minutes that a kitchen needs: log-normal round the median, sigma 0.4, between 3 and 45."""
    return min(45, max(3, round(median * math.exp(rng.gauss(0, 0.4)))))


def near(rng: random.Random, centre: Place, spread: float, width: int, height: int) -> Place:
    """Draw a place round another one: normal in both directions with a standard deviation of `spread` blocks."""
    return Place(
        min(width, max(0, round(rng.gauss(centre.x, spread)))), min(height, max(0, round(rng.gauss(centre.y, spread))))
    )


def arrival_minutes(rng: random.Random, start: int, end: int, orders_per_hour: float) -> list[int]:
    """Draw when orders are placed between two minutes: a Poisson process with the demand of `HOURLY_DEMAND`.

    Args:
        rng: source of randomness.
        start: first minute since midnight.
        end: minute after the last one.
        orders_per_hour: rate in the busiest hour of the day; other hours have their share of it.

    Returns:
        Minutes in ascending order.
    """
    busiest, time = max(HOURLY_DEMAND), float(start)
    minutes: list[int] = []
    while True:
        time += rng.expovariate(orders_per_hour / 60)
        if time >= end:
            return minutes
        if rng.random() < HOURLY_DEMAND[int(time) // 60 % 24] / busiest:
            minutes.append(int(time))


def make_city(rng: random.Random, *, width: int = 24, height: int = 24, merchants: int = 30, centres: int = 3) -> City:
    """Draw a city whose merchants gather round a few centres, as shops do."""
    middles = [
        Place(rng.randint(width // 5, width - width // 5), rng.randint(height // 5, height - height // 5))
        for _ in range(centres)
    ]
    shops = tuple(
        Merchant(
            f"m{number}", near(rng, rng.choice(middles), min(width, height) / 10, width, height), rng.randint(6, 18)
        )
        for number in range(1, merchants + 1)
    )
    return City(width, height, shops)


def make_couriers(rng: random.Random, city: City, count: int, *, free: int) -> tuple[Courier, ...]:
    """Draw couriers who wait near merchants, where the work is."""
    return tuple(
        Courier(f"c{number}", near(rng, rng.choice(city.merchants).place, 3, city.width, city.height), free)
        for number in range(1, count + 1)
    )


def make_order(rng: random.Random, city: City, number: int, placed: int) -> Order:
    """Draw an order: customers live within some 2 km of their merchant, and are promised what can be kept.

    The promise is at least `PROMISE_MINUTES` after the order, and leaves 5 to 15 minutes beyond preparation and way.
    """
    merchant = rng.choice(city.merchants)
    dropoff = merchant.place
    while dropoff == merchant.place:
        dropoff = near(rng, merchant.place, 4, city.width, city.height)
    ready = placed + preparation(rng, merchant.preparation_minutes)
    promised = max(PROMISE_MINUTES, ready - placed + travel_minutes(merchant.place, dropoff) + rng.randint(5, 15))
    return Order(f"o{number}", merchant.id, merchant.place, dropoff, placed, ready, placed + promised)


def make_scene(
    seed: int | str, *, start: int, minutes: int, couriers: int, orders_per_hour: float, side: int = 24
) -> Scene:
    """Draw a city of `side` times `side` blocks and what is ordered in it from minute `start` on; the same arguments make the
    same scene.
    """
    rng = random.Random(f"scene {seed}")  # nosec B311 # to make up texts, not secrets
    city = make_city(rng, width=side, height=side)
    staff = make_couriers(rng, city, couriers, free=start)
    times = arrival_minutes(rng, start, start + minutes, orders_per_hour)
    return Scene(city, staff, tuple(make_order(rng, city, number, time) for number, time in enumerate(times, 1)))


def scene_from_json(document: Any, where: str) -> Scene:
    """Read a scene and check that it is possible.

    Args:
        document: what `Scene.to_json` returns, as `json.loads` gives it back.
        where: name of the file, for messages.

    Raises:
        DataError: a field is missing, unknown, of another type or out of range; two things have one id; an order names no
            merchant of the city, starts elsewhere than at its merchant, or is ready before it is placed or due before it is ready.
    """
    _fields(document, Scene, where)
    town = _fields(document["city"], City, f"{where}: city")
    width, height = (_number(town[name], f"{where}: city.{name}") for name in ("width", "height"))
    city = City(width, height, _all(town["merchants"], f"{where}: city.merchants", Merchant))
    scene = Scene(
        city,
        _all(document["couriers"], f"{where}: couriers", Courier),
        _all(document["orders"], f"{where}: orders", Order),
    )
    _check(scene, where)
    return scene


def hour_from_json(document: Any, where: str) -> Scene:
    """Read a scene in which there is something to dispatch, see `scene_from_json`.

    Raises:
        DataError: also where there are no orders.
    """
    scene = scene_from_json(document, where)
    if not scene.orders:
        raise DataError(f"{where}: orders: there is none")
    return scene


def _check(scene: Scene, where: str) -> None:
    shops = {merchant.id: merchant for merchant in scene.city.merchants}
    groups: tuple[tuple[str, tuple[Merchant | Courier | Order, ...]], ...] = (
        ("city.merchants", scene.city.merchants),
        ("couriers", scene.couriers),
        ("orders", scene.orders),
    )
    for name, things in groups:
        seen: dict[str, int] = {}
        for index, thing in enumerate(things):
            if thing.id in seen:
                raise DataError(
                    f"{where}: {name}[{index}].id: {_shown(thing.id)} is that of {name}[{seen[thing.id]}], too"
                )
            seen[thing.id] = index
            for field, place in vars(thing).items():
                if isinstance(place, Place) and not scene.city.holds(place):
                    raise DataError(
                        f"{where}: {name}[{index}]{_named(thing.id)}.{field}: ({place.x}, {place.y}) is outside the city, which reaches "
                        f"from (0, 0) to ({scene.city.width}, {scene.city.height})"
                    )
    if scene.orders and not scene.couriers:
        raise DataError(f"{where}: couriers: there is none who could carry order {_shown(scene.orders[0].id)}")
    for index, order in enumerate(scene.orders):
        place = f"{where}: orders[{index}]{_named(order.id)}"
        if order.merchant not in shops:
            raise DataError(
                f"{place}.merchant: {_shown(order.merchant)} is none of the city's {counted(len(shops), 'merchant')}"
            )
        if order.pickup != shops[order.merchant].place:
            raise DataError(f"{place}.pickup: differs from the place of merchant {_shown(order.merchant)}")
        if order.ready < order.placed:
            raise DataError(f"{place}.ready: {order.ready} is before placed, {order.placed}")
        if order.due < order.ready:
            raise DataError(f"{place}.due: {order.due} is before ready, {order.ready}")


def _fields(value: Any, kind: type, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise DataError(f"{where}: expected an object, found {type(value).__name__}")
    names = {field.name for field in fields(kind)}
    for name in sorted(names - value.keys()):
        raise DataError(f"{where}: field {name!r} is missing")
    for name in sorted(value.keys() - names, key=str):
        raise DataError(f"{where}: unknown field {_shown(name)}; there are: {', '.join(sorted(names))}")
    return value


def _all(value: Any, where: str, kind: Any) -> tuple[Any, ...]:
    if not isinstance(value, list | tuple):
        raise DataError(f"{where}: expected a list, found {type(value).__name__}")
    names = [_named(item.get("id")) if isinstance(item, dict) else "" for item in value]
    return tuple(
        _read(item, kind, f"{where}[{index}]{name}")
        for index, (item, name) in enumerate(zip(value, names, strict=True))
    )


def _named(name: Any) -> str:
    """Return what a message calls a thing beside its number; nothing for what is no name."""
    return f" (id {_shown(name)})" if isinstance(name, str) and name else ""


def _shown(value: Any) -> str:
    """Return a value of a file as it is shown in a message: its beginning, and of lists and objects what they are."""
    if isinstance(value, dict | list):
        return "an object" if isinstance(value, dict) else "a list"
    text = repr(value)
    return text if len(text) <= _MOST_SHOWN else f"{text[:_MOST_SHOWN]}…"


def _number(value: Any, where: str) -> int:
    least = int(where.rpartition(".")[2] in _POSITIVE)
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise DataError(f"{where}: expected a whole number of at least {least}, found {_shown(value)}")
    if value > _MOST:
        raise DataError(f"{where}: {_shown(value)} is more than {_MOST:,}")
    return value


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str) or not value:
        raise DataError(f"{where}: expected a text that is not empty, found {_shown(value)}")
    if any("\ud800" <= letter <= "\udfff" for letter in value):
        raise DataError(f"{where}: {_shown(value)} holds half a character, which is no Unicode")
    return value


def _place(value: Any, where: str) -> Place:
    corner = _fields(value, Place, where)
    return Place(_number(corner["x"], f"{where}.x"), _number(corner["y"], f"{where}.y"))


def _read(value: Any, kind: Any, where: str) -> Any:
    readers: dict[Any, Callable[[Any, str], Any]] = {"str": _text, "int": _number, "Place": _place}
    read = _fields(value, kind, where)
    return kind(
        **{field.name: readers[field.type](read[field.name], f"{where}.{field.name}") for field in fields(kind)}
    )
