"""Broken windows: which order of a route arrives after the minute that was promised?"""

from __future__ import annotations

import itertools
import random

from longcat.local_services.city import clock
from longcat.local_services.instance import CHOICES, Draft, Task
from longcat.local_services.text import LIST, say, ticket

_QUESTION = {
    "zh": [
        "骑手{start}出发，依次送{route}，各段{legs}分。最晚：{dues}。哪单超时？",
        "最晚送达：{dues}。{start}起依次送{route}，路上分别{legs}分。迟到的是哪一单？",
    ],
    "en": [
        "A rider leaves at {start} and drops off {route} in this order; the legs take {legs} min. "
        "Latest times: {dues}. Which order is late?",
        "Promised until: {dues}. From {start} on the rider serves {route}, {legs} min apart. "
        "Which order breaks its window?",
    ],
}
_STEPS = {"zh": "到达：{times}", "en": "Arrivals: {times}"}


def _make(rng: random.Random, language: str, rank: int) -> Draft | None:
    start = rng.randint(10 * 60, 21 * 60)
    legs = [rng.randint(2, 14) for _ in range(CHOICES)]
    times = list(itertools.accumulate(legs, initial=start))[1:]
    dues = [time + rng.randint(0, 12) for time in times]
    dues[rank] = times[rank] - rng.randint(1, 9)
    late = [index for index, (time, due) in enumerate(zip(times, dues, strict=True)) if time > due]
    numbers = [str(ticket(rng)) for _ in range(CHOICES)]
    if late != [rank] or min(dues) <= start:
        return None
    promised = [f"{number} {clock(due)}" for number, due in zip(numbers, dues, strict=True)]
    question = say(
        rng,
        _QUESTION[language],
        start=clock(start),
        route="、".join(numbers) if language == "zh" else ", ".join(numbers),
        legs="、".join(map(str, legs)) if language == "zh" else ", ".join(map(str, legs)),
        dues=LIST[language].join(rng.sample(promised, CHOICES)),
    )
    steps = _STEPS[language].format(
        times=LIST[language].join(f"{number} {clock(time)}" for number, time in zip(numbers, times, strict=True))
    )
    facts = {"start": start, "legs": legs, "dues": dues}
    proof = "enumeration: one of four arrivals is after its window"
    return Draft(facts, question, numbers[rank], [n for n in numbers if n != numbers[rank]], steps, proof)


TASK = Task("broken_window", "name", _make, named=True)
