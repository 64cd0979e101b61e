"""Arrival time: when is an order delivered, given the queue, the kitchen, the courier and the way?"""

from __future__ import annotations

import random

from longcat.local_services.city import PROMISE_MINUTES, clock, preparation
from longcat.local_services.instance import Draft, Task, around
from longcat.local_services.text import SHOPS, say, ticket

_QUESTION = {
    "zh": [
        "{ordered}{shop}接{ticket}，前{queue}单各{each}分，{ticket}备餐{cook}分；"
        "骑手{courier}到，{blocks}格路每格{pace}分。{ticket}几点送达？",
        "{ordered}下单{ticket}，{shop}先做{queue}单各{each}分，{ticket}做{cook}分。"
        "骑手{courier}到，骑{blocks}格，一格{pace}分。{ticket}何时到？",
    ],
    "en": [
        "{shop} gets order {ticket} at {ordered}; orders before {ticket}: {queue}, {each} min each; "
        "cooking {ticket} takes {cook} min. "
        "The rider is there at {courier} and rides {blocks} blocks, {pace} min each. When does {ticket} arrive?",
        "Order {ticket}, placed at {ordered}: "
        "{shop} first does {queue} more, {each} min each, then {ticket} in {cook} min. "
        "Rider at the shop {courier}, {blocks} blocks to go at {pace} min. Arrival time of {ticket}?",
    ],
}
_STEPS = {
    "zh": "备好{ready}，骑手{courier}到店，{start}出发，骑{ride}分，{end}送达",
    "en": "ready {ready}, rider there {courier}, leaves {start}, rides {ride} min, arrives {end}",
}


def _make(rng: random.Random, language: str, rank: int) -> Draft | None:
    ordered = rng.randint(10 * 60, 21 * 60)
    queue, each, cook = rng.randint(1, 5), rng.randint(2, 6), preparation(rng, 12)
    courier = ordered + rng.randint(5, PROMISE_MINUTES)
    blocks, pace = rng.randint(3, 15), rng.randint(1, 2)
    ready, ride = ordered + queue * each + cook, blocks * pace
    start = max(ready, courier)
    right = start + ride
    slips = [
        min(ready, courier) + ride,
        max(ordered + cook, courier) + ride,
        courier + queue * each + cook + ride,
        start + blocks * (3 - pace),
        max(ordered + each + cook, courier) + ride,
        start + queue + ride,
    ]
    rng.shuffle(slips)
    slips += rng.sample([right + off for off in (-10, -6, -5, -4, -2, 2, 4, 5, 6, 10)], 10)
    wrong = around(rng, right, slips, rank)
    # no choice stands in the question: what does would be seen to be wrong
    if wrong is None or ready == courier or {ordered, courier} & {right, *wrong}:
        return None
    shop = rng.choice(SHOPS)
    number = ticket(rng)
    facts = {
        "ordered": ordered,
        "queue": queue,
        "each": each,
        "cook": cook,
        "courier": courier,
        "blocks": blocks,
        "pace": pace,
    }
    question = say(
        rng,
        _QUESTION[language],
        shop=shop[language],
        ticket=number,
        ordered=clock(ordered),
        queue=queue,
        each=each,
        cook=cook,
        courier=clock(courier),
        blocks=blocks,
        pace=pace,
    )
    steps = _STEPS[language].format(
        ready=clock(ready), courier=clock(courier), start=clock(start), ride=ride, end=clock(right)
    )
    proof = "arithmetic: max(ordered + queue + cooking, courier) + ride"
    return Draft(facts, question, clock(right), [clock(minute) for minute in wrong], steps, proof)


TASK = Task("arrival_time", "time", _make)
