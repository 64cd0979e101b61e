"""Opening hours, range and stock: which of four shops can serve an order now?"""

from __future__ import annotations

import random
from dataclasses import dataclass

from longcat.local_services.city import clock
from longcat.local_services.instance import CHOICES, Draft, Task
from longcat.local_services.text import DISHES, LIST, SHOPS, say, ticket

_QUESTION = {
    "zh": [
        "{ticket}号单{now}下，要{count}份{dish}。{shops}。哪家能接{ticket}？",
        "{shops}。{now}有人要{dish}{count}份，{ticket}号单谁家能送？",
    ],
    "en": [
        "Order {ticket}, placed at {now}, asks for {count} {dish}. {shops}. Which shop can take {ticket}?",
        "{shops}. Someone wants {count} {dish} at {now}. Who can serve order {ticket}?",
    ],
}
_SHOP = {
    "zh": "{name}{opens}开，距{distance}米，送{reach}米内，{closes}关，余{stock}份",
    "en": "{name}: {opens} to {closes}, delivers up to {reach} m, is {distance} m away, {stock} left",
}
_FAULTS = {"zh": ("已打烊", "超出范围", "货不够"), "en": ("closed", "out of range", "short of stock")}
_FINE = {"zh": "可接", "en": "can serve"}


@dataclass(frozen=True)
class _Shop:
    opens: int
    closes: int
    reach_m: int
    distance_m: int
    stock: int

    def faults(self, now: int, count: int) -> list[int]:
        """Return what keeps the shop from serving: 0 closed, 1 out of range, 2 short of stock."""
        open_ = self.opens <= now < self.closes
        return [i for i, fine in enumerate((open_, self.distance_m <= self.reach_m, self.stock >= count)) if not fine]


def _make(rng: random.Random, language: str, rank: int) -> Draft | None:
    # shops open and close at full tens, orders come in between
    now, count = 10 * rng.randint(54, 131) + rng.randint(1, 9), rng.randint(1, 4)
    shops = [_draw(rng, now, count, broken=index != rank) for index in range(CHOICES)]
    serving = [index for index, shop in enumerate(shops) if not shop.faults(now, count)]
    if serving != [rank]:
        return None
    names = [shop[language] for shop in rng.sample(SHOPS, CHOICES)]
    number = ticket(rng)
    told = [
        _SHOP[language].format(
            name=name,
            opens=clock(shop.opens),
            closes=clock(shop.closes),
            reach=shop.reach_m,
            distance=shop.distance_m,
            stock=shop.stock,
        )
        for name, shop in zip(names, shops, strict=True)
    ]
    facts = {
        "now": now,
        "count": count,
        "shops": sorted([s.opens, s.closes, s.reach_m, s.distance_m, s.stock] for s in shops),
    }
    question = say(
        rng,
        _QUESTION[language],
        ticket=number,
        now=clock(now),
        count=count,
        dish=rng.choice(DISHES)[language],
        shops=LIST[language].join(told),
    )
    reasons = [
        f"{name} {', '.join(_FAULTS[language][fault] for fault in shop.faults(now, count)) or _FINE[language]}"
        for name, shop in zip(names, shops, strict=True)
    ]
    proof = "enumeration: of four shops three are closed, out of range or short of stock"
    return Draft(
        facts, question, names[rank], [n for n in names if n != names[rank]], LIST[language].join(reasons), proof
    )


def _draw(rng: random.Random, now: int, count: int, *, broken: bool) -> _Shop:
    """Draw a shop; a broken one fails in one respect, or rarely in two."""
    faults = rng.sample(range(3), rng.choice((1, 1, 1, 2))) if broken else []
    opens, closes = rng.randrange(6 * 60, now - 59, 10), rng.randrange(now // 10 * 10 + 10, 24 * 60, 10)
    if 0 in faults:
        if rng.random() < 0.5:
            closes = rng.randrange(opens + 10, now + 1, 10)
        else:
            opens = rng.randrange(now // 10 * 10 + 10, closes, 10) if closes > now // 10 * 10 + 10 else now + 10
            closes = max(closes, opens + 10)
    reach = 100 * rng.randint(10, 30)
    distance = 10 * (rng.randint(1, 120) + reach // 10 if 1 in faults else rng.randint(20, reach // 10))
    stock = rng.randrange(count) if 2 in faults else rng.randint(count, count + 6)
    return _Shop(opens, closes, reach, distance, stock)


TASK = Task("opening_hours", "name", _make, named=True)
