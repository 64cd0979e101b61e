"""Promotions: the least that an order costs, over all allowed combinations of reductions, coupons and delivery fee."""

from __future__ import annotations

import itertools
import random
from dataclasses import dataclass

from longcat.local_services.instance import Draft, Task, around
from longcat.local_services.proof import only_best
from longcat.local_services.text import DISHES, say, ticket

_QUESTION = {
    "zh": [
        "{ticket}号单：{first}{price1}元×{count1}，{second}{price2}元×{count2}。"
        "满{tier1}减{off1}，满{tier2}减{off2}；"
        "券满{need1}减{coupon1}、满{need2}减{coupon2}，{ticket}限一张，{rule}。{ticket}配送{fee}元，满{free}免。"
        "{ticket}最少付多少元？",
        "{first}{count1}份每份{price1}元，{second}{count2}份每份{price2}元。"
        "{ticket}满减：{tier1}减{off1}、{tier2}减{off2}。"
        "两券选一：{need1}减{coupon1}、{need2}减{coupon2}，{rule}。{ticket}满{free}免{fee}元运费。"
        "{ticket}最低几元？",
    ],
    "en": [
        "Order {ticket}: {count1} {first} at {price1} yuan, {count2} {second} at {price2}. "
        "{off1} off from {tier1}, {off2} off from {tier2}. One coupon: "
        "{coupon1} off from {need1} or {coupon2} off from {need2}, for {ticket} {rule}. "
        "Delivery {fee}, free from {free}. What does {ticket} cost at least, in yuan?",
        "{count1} {first} ({price1} yuan each) and {count2} {second} ({price2} each). Reductions: "
        "{tier1} less {off1}, {tier2} less {off2}. Coupons, one at most: "
        "{need1} less {coupon1}, {need2} less {coupon2}; {rule}. "
        "For {ticket} the fee of {fee} goes from {free} on. Lowest price of {ticket} in yuan?",
    ],
}
_RULE = {
    "zh": {True: "可与满减同享", False: "不与满减同享"},
    "en": {True: "with any reduction", False: "not with reductions"},
}
_STEPS = {
    "zh": "菜品{subtotal}元，减{reduction}元，券{coupon}元，配送{fee}元，共{total}元",
    "en": "dishes {subtotal}, reduction {reduction}, coupon {coupon}, delivery {fee}: {total} yuan",
}


@dataclass(frozen=True)
class Offer:
    """`off` yuan less from `need` yuan on."""

    need: int
    off: int

    def of(self, subtotal: int) -> int:
        """Return what the offer takes from an order of so many yuan."""
        return self.off if subtotal >= self.need else 0


def _make(rng: random.Random, language: str, rank: int) -> Draft | None:
    first, second = rng.sample(DISHES, 2)
    price1, price2 = rng.randint(8, 38), rng.randint(8, 38)
    count1, count2 = rng.randint(1, 3), rng.randint(1, 2)
    subtotal = price1 * count1 + price2 * count2
    low = 5 * rng.randint(4, 8)
    tiers = (Offer(low, rng.randint(3, 8)), Offer(low + 5 * rng.randint(3, 8), rng.randint(9, 18)))
    coupons = (Offer(5 * rng.randint(3, 9), rng.randint(2, 7)), Offer(5 * rng.randint(8, 16), rng.randint(8, 15)))
    together, fee, free = rng.random() < 0.5, rng.randint(3, 8), 5 * rng.randint(8, 22)
    delivery = 0 if subtotal >= free else fee
    # which reduction and which coupon are used: -1 for none, one that is not reached is not allowed
    used = list(itertools.product((-1, 0, 1), repeat=2))

    def total(pair: tuple[int, int]) -> int | None:
        offers = [group[index] for group, index in zip((tiers, coupons), pair, strict=True) if index >= 0]
        if (len(offers) == 2 and not together) or any(offer.need > subtotal for offer in offers):
            return None
        return subtotal - sum(offer.off for offer in offers) + delivery

    best = only_best(used, total, "combinations")
    if best is None or max(best.answer) < 0:
        return None
    right = best.cost
    reduction = tiers[best.answer[0]].off if best.answer[0] >= 0 else 0
    coupon = coupons[best.answer[1]].off if best.answer[1] >= 0 else 0
    everything = max(tier.off for tier in tiers) + sum(offer.off for offer in coupons)
    slips = [
        right - delivery if delivery else right + fee,
        subtotal - reduction + delivery,
        subtotal - coupon + delivery,
        subtotal - everything + delivery,
        subtotal - tiers[1].off - coupons[1].off + delivery,
        subtotal - tiers[0].off - coupons[0].off + delivery,
        subtotal - tiers[0].off + delivery,
        subtotal - coupons[1].off + delivery,
        right - min(coupons[0].off, coupons[1].off),
        right + tiers[0].off,
    ]
    rng.shuffle(slips)
    slips += rng.sample([right + off for off in range(-9, 10)], 19)
    wrong = around(rng, right, slips, rank, least=1)
    told = {price1, price2, count1, count2, fee, free}
    told |= {number for offer in (*tiers, *coupons) for number in (offer.need, offer.off)}
    # no choice stands in the question: what does would be seen to be wrong
    if wrong is None or told & {right, *wrong}:
        return None
    number = ticket(rng)
    facts = {
        "prices": [[price1, count1], [price2, count2]],
        "tiers": [[offer.need, offer.off] for offer in tiers],
        "coupons": [[offer.need, offer.off] for offer in coupons],
        "together": together,
        "fee": fee,
        "free": free,
    }
    question = say(
        rng,
        _QUESTION[language],
        ticket=number,
        first=first[language],
        second=second[language],
        price1=price1,
        price2=price2,
        count1=count1,
        count2=count2,
        tier1=tiers[0].need,
        off1=tiers[0].off,
        tier2=tiers[1].need,
        off2=tiers[1].off,
        need1=coupons[0].need,
        coupon1=coupons[0].off,
        need2=coupons[1].need,
        coupon2=coupons[1].off,
        rule=_RULE[language][together],
        fee=fee,
        free=free,
    )
    steps = _STEPS[language].format(subtotal=subtotal, reduction=reduction, coupon=coupon, fee=delivery, total=right)
    return Draft(facts, question, str(right), [str(number) for number in wrong], steps, best.proof)


TASK = Task("promotions", "money", _make)
