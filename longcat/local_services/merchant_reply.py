"""Merchant reply: which of four replies agrees with the menu and with what the kitchen can do?"""

from __future__ import annotations

import random

from longcat.local_services.instance import Draft, Task
from longcat.local_services.text import DISHES, LIST, SHOPS, say, ticket

_QUESTION = {
    "zh": [
        "{shop}菜单：{menu}。顾客{ticket}问：{asked}多少钱？{ticket}又问：{wish}吗？回复{ticket}：",
        "{shop}今天：{menu}。{ticket}问{asked}几元一份，{ticket}还问{wish}吗。怎样回{ticket}？",
    ],
    "en": [
        "Menu of {shop}: {menu}. Customer {ticket} asks: how much is the {asked}? Then {ticket} asks: {wish}? "
        "Right reply to {ticket}?",
        "Customer {ticket}: what do you charge for {asked}? And {ticket} adds: {wish}? {shop} has today: {menu}. "
        "Reply to {ticket}:",
    ],
}
_LINE = {"zh": "{dish}{price}元，{ability}", "en": "{dish} {price} yuan, {ability}"}
_REPLY = {
    "zh": {True: "{price}元，可以", False: "{price}元，不行"},
    "en": {True: "{price} yuan, yes", False: "{price} yuan, no"},
}
_STEPS = {"zh": "菜单写着{line}", "en": "the menu says: {line}"}
# a wish, and what the menu says where it can be met and where it cannot
_WISHES = [
    {"zh": ("能不放辣", "可免辣", "必带辣"), "en": ("can you leave the chilli out", "mild on request", "always hot")},
    {
        "zh": ("能去香菜", "香菜另放", "香菜已拌"),
        "en": ("can it come without coriander", "coriander apart", "coriander mixed in"),
    },
    {"zh": ("能做大份", "有大份", "仅小份"), "en": ("is there a large one", "small or large", "small only")},
    {
        "zh": ("花生过敏能吃", "不含花生", "含花生"),
        "en": ("is it safe with a peanut allergy", "without peanuts", "with peanuts"),
    },
    {"zh": ("吃素能点", "素油做", "猪油做"), "en": ("is it fit for a vegetarian", "plant oil", "lard")},
    {"zh": ("现在能做", "现做", "售罄"), "en": ("can you make it now", "made to order", "sold out")},
]


def _make(rng: random.Random, language: str, rank: int) -> Draft | None:
    able, dearer = rank % 2 == 0, rank // 2 == 0
    kind = rng.randrange(len(_WISHES))
    dishes = rng.sample(range(len(DISHES)), 2)
    cheap, dear = sorted(rng.sample(range(6, 60), 2))
    prices = [dear, cheap] if dearer else [cheap, dear]
    wish, can, cannot = _WISHES[kind][language]
    # the other dish differs in both respects, so that the price and the ability of either stand on the menu once
    lines = [
        _LINE[language].format(dish=DISHES[dish][language], price=price, ability=can if ability else cannot)
        for dish, price, ability in zip(dishes, prices, (able, not able), strict=True)
    ]
    question = say(
        rng,
        _QUESTION[language],
        shop=rng.choice(SHOPS)[language],
        menu=LIST[language].join(rng.sample(lines, 2)),
        ticket=ticket(rng),
        asked=DISHES[dishes[0]][language],
        wish=wish,
    )
    replies = {
        (price, ability): _REPLY[language][ability].format(price=price) for price in prices for ability in (True, False)
    }
    right = replies.pop((prices[0], able))
    facts = {"wish": kind, "able": able, "dishes": dishes, "prices": prices}
    proof = "enumeration: one of four replies has the price and the ability of the line of the dish"
    return Draft(facts, question, right, list(replies.values()), _STEPS[language].format(line=lines[0]), proof)


TASK = Task("merchant_reply", "phrase", _make, listed=True)
