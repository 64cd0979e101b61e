"""Intent: what does a customer's message ask for, when other wishes in it are withdrawn?"""

from __future__ import annotations

import random

from longcat.local_services.city import clock
from longcat.local_services.instance import CHOICES, Draft, Task
from longcat.local_services.text import DISHES, say, ticket

# An intent: its name, and wordings that ask for it. A wording has no word (in Chinese no character) of any name, so that
# it has to be understood; a test checks that.
INTENTS = [
    {
        "zh": ("取消订单", ("{dish}吃不上了，别做啦", "那份{dish}我不想要啦")),
        "en": ("cancellation", ("please stop making the {dish}", "I do not want the {dish} any more")),
    },
    {
        "zh": ("更换地址", ("我搬到{n}栋了，往那边送", "人在{n}楼，送到这里来")),
        "en": ("other address", ("I moved, bring it to building {n}", "we sit on floor {n} now, come up here")),
    },
    {
        "zh": ("开具发票", ("公司报账，给我{n}元的凭据", "要报税，给个{n}元凭据")),
        "en": (
            "invoice",
            ("my company wants a tax receipt for {n} yuan", "send proof of the {n} yuan to our accountant"),
        ),
    },
    {
        "zh": ("商品缺失", ("袋子里没看见{dish}", "翻遍袋子也没有{dish}")),
        "en": ("missing item", ("there was no {dish} in the bag", "the bag came without {dish}")),
    },
    {
        "zh": ("餐具需求", ("我们{n}个人吃，多放几双筷子", "{n}个人，勺子筷子多给些")),
        "en": ("cutlery", ("we are {n}, add chopsticks for all", "put in {n} spoons and chopsticks")),
    },
    {
        "zh": ("预约时段", ("{clock}再送来吧", "我{clock}才到家，那会儿再送")),
        "en": ("later delivery", ("come at {clock}, not before", "I get home at {clock}, bring it then")),
    },
    {
        "zh": ("无接触投递", ("放在{n}号柜子上就走，别敲门", "搁门边{n}号架子，不用敲")),
        "en": ("contactless handover", ("leave it on shelf {n}, do not ring", "put the bag into locker {n} and go")),
    },
    {
        "zh": ("催促进度", ("都等{n}分钟了，快点", "过了{n}分钟，怎么这么慢")),
        "en": ("urging", ("I have sat here {n} minutes, be quick", "it has been {n} minutes, why so slow")),
    },
]
QUESTION = {
    "zh": ["顾客{ticket}说：{message}。{ticket}要什么？", "{ticket}留言：{message}。{ticket}想怎样？"],
    "en": [
        "Customer {ticket} writes: {message}. What does {ticket} ask for?",
        "Message of {ticket} to the shop: {message}. What is {ticket} after?",
    ],
}
PLAIN = {"zh": ["{new}", "您好，{new}"], "en": ["{new}", "hello, {new}"]}
FIRST = {
    "zh": ["刚才说“{old}”，{ticket}不算了；{new}", "{ticket}说别管“{old}”，{ticket}说{new}"],
    "en": ['I said "{old}", never mind; {new}', 'forget "{old}", {new}'],
}
LAST = {
    "zh": ["{new}。{ticket}之前那句“{old}”作废", "{new}；{ticket}说“{old}”就算了"],
    "en": ['{new}. My "{old}" no longer holds', '{new}; drop what I said, "{old}"'],
}
_STEPS = {"zh": "有效的话：{new}", "en": "what holds: {new}"}


def _make(rng: random.Random, language: str, rank: int) -> Draft | None:
    rivals = rng.sample(range(len(INTENTS)), CHOICES)
    right, withdrawn = rivals[0], rivals[1]
    slots = {
        "dish": rng.randrange(len(DISHES)),
        "n": rng.randint(2, 99),
        "minute": rng.randint(10 * 60, 22 * 60),
        "wording": rng.randrange(2),
    }
    old_slots = {
        "dish": rng.randrange(len(DISHES)),
        "n": rng.randint(2, 99),
        "minute": rng.randint(10 * 60, 22 * 60),
        "wording": rng.randrange(2),
    }
    new, old = _worded(right, slots, language), _worded(withdrawn, old_slots, language)
    frames = (PLAIN, FIRST, LAST, rng.choice((FIRST, LAST)))[rank]
    number = ticket(rng)
    message = say(rng, frames[language], new=new, old=old, ticket=number)
    names = [INTENTS[index][language][0] for index in rivals]
    # what the message says decides, and no more: a slot that the wording leaves out is no other content
    facts = {"wish": _said(right, slots), "withdrawn": _said(withdrawn, old_slots) if rank else None}
    proof = "enumeration: of the wishes in the message one is not withdrawn"
    question = say(rng, QUESTION[language], ticket=number, message=message)
    return Draft(facts, question, names[0], names[1:], _STEPS[language].format(new=new), proof)


def _worded(intent: int, slots: dict[str, int], language: str) -> str:
    wording = INTENTS[intent][language][1][slots["wording"]]
    return wording.format(dish=DISHES[slots["dish"]][language], n=slots["n"], clock=clock(slots["minute"]))


def _said(intent: int, slots: dict[str, int]) -> list[int]:
    wording = INTENTS[intent]["en"][1][0]
    used = next(name for name in ("dish", "n", "clock") if "{" + name + "}" in wording)
    return [intent, slots["wording"], slots["minute" if used == "clock" else used]]


TASK = Task("intent", "phrase", _make, listed=True)
