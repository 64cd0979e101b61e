"""Order states: which of four orders is in a given state at a given minute?"""

from __future__ import annotations

import random

from longcat.local_services.city import clock
from longcat.local_services.instance import CHOICES, Draft, Task
from longcat.local_services.text import LIST, say, ticket

# an event, and the state an order is in from then on until its next event
_EVENTS = {
    "zh": ("接单", "备好", "取走", "送达"),
    "en": ("accepted", "ready", "picked up", "delivered"),
}
_STATES = {
    "zh": ("在备餐", "等骑手", "在路上", "已收到"),
    "en": ("in the kitchen", "waiting for its rider", "on its way", "with the customer"),
}
_QUESTION = {
    "zh": ["记录：{log}。{now}时哪单{state}？", "{log}。看{now}这一刻，{state}的是哪单？"],
    "en": ["Log: {log}. Which order is {state} at {now}?", "{log}. At {now}, the order that is {state} is which?"],
}
_STEPS = {"zh": "{now}时：{states}", "en": "At {now}: {states}"}


def state_at(events: list[int], now: int) -> int:
    """Return the index of the last event up to a minute; -1 before the first one."""
    return sum(minute <= now for minute in events) - 1


def _make(rng: random.Random, language: str, rank: int) -> Draft | None:
    now = rng.randint(10 * 60, 21 * 60)
    asked = rng.randrange(4)
    others = rng.choices([state for state in range(4) if state != asked], k=CHOICES - 1)
    wanted = [*others[:rank], asked, *others[rank:]]
    logs = [_log(rng, state, now) for state in wanted]
    if [index for index, log in enumerate(logs) if state_at(log, now) == asked] != [rank]:
        return None
    numbers = [str(ticket(rng)) for _ in range(CHOICES)]
    separator = "、" if language == "zh" else ", "
    told = [
        f"{number} " + separator.join(f"{_EVENTS[language][index]} {clock(minute)}" for index, minute in enumerate(log))
        for number, log in zip(numbers, logs, strict=True)
    ]
    question = say(
        rng, _QUESTION[language], log=LIST[language].join(told), now=clock(now), state=_STATES[language][asked]
    )
    steps = _STEPS[language].format(
        now=clock(now),
        states=LIST[language].join(f"{n} {_STATES[language][s]}" for n, s in zip(numbers, wanted, strict=True)),
    )
    facts = {"now": now, "state": asked, "logs": sorted(logs)}
    proof = "enumeration: one of four orders is in the state"
    return Draft(facts, question, numbers[rank], [n for n in numbers if n != numbers[rank]], steps, proof)


def _log(rng: random.Random, state: int, now: int) -> list[int]:
    """Draw the minutes of an order's events: `state + 1` of them up to `now`, and perhaps some after it."""
    past = sorted(rng.sample(range(now - 40, now), state + 1))
    future = sorted(rng.sample(range(now + 1, now + 40), rng.randint(0, 3 - state)))
    return past + future


TASK = Task("order_state", "name", _make, named=True)
