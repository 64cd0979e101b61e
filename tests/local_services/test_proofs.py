"""Every kind of question, solved again by another method than its generator's, from what the question says."""

import itertools
import re
import sys

import pytest

from longcat.distribution import install_command
from longcat.errors import UserError
from longcat.local_services import intent, stop_order
from longcat.local_services.city import Place
from longcat.local_services.instance import instances
from longcat.local_services.merchant_reply import _WISHES
from longcat.local_services.proof import Errand, best_route, finish, only_best, routes
from longcat.local_services.tasks import TASKS
from longcat.local_services.text import COURIERS, DISHES, LANGUAGES, SHOPS

COUNT = 48
PLACE = r"\((\d+),(\d+)\)"


def minutes(text):
    hour, minute = text.split(":")
    return 60 * int(hour) + int(minute)


def distance(a, b):
    return sum(abs(int(x) - int(y)) for x, y in zip(a, b, strict=True))


def solve_dispatch(item):
    """Every way to visit a courier's stops and the two new ones, as permutations, the old stops in their order."""
    new = (
        re.search(rf"单在{PLACE}取，送{PLACE}|分钟，从{PLACE}到{PLACE}", item.question)
        or re.search(rf"goes from {PLACE} to {PLACE}|up at {PLACE}, drop off at {PLACE}", item.question)
    ).groups()
    numbers = [number for number in new if number is not None]
    pickup, dropoff = tuple(numbers[:2]), tuple(numbers[2:])
    costs = {}
    names = "|".join(person[item.language] for person in COURIERS)
    for name, *numbers in re.findall(
        rf"({names})(?:在| at ){PLACE}(?:，还要送{PLACE}|, still bound for {PLACE})?", item.question
    ):
        numbers = [number for number in numbers if number]
        start, old = tuple(numbers[:2]), [tuple(numbers[2:])] if numbers[2:] else []
        ways = [
            way
            for way in itertools.permutations([*old, pickup, dropoff])
            if way.index(pickup) < len(way) - 1 - way[::-1].index(dropoff)
        ]
        length = min(sum(itertools.starmap(distance, itertools.pairwise([start, *way]))) for way in ways)
        costs[name] = length - (distance(start, old[0]) if old else 0)
    assert len(costs) == 4
    assert sorted(costs.values())[0] < sorted(costs.values())[1]
    return min(costs, key=costs.get)


def solve_stop_order(item):
    """Walk through all permutations of the stops, minute by minute."""
    start = re.search(rf"(?:在|从|is at |starts at ){PLACE}", item.question).groups()
    if item.language == "zh":
        found = re.findall(rf"([A-E])：{PLACE}取，(\d+)分后备好，(\d+)分内送{PLACE}", item.question)
        orders = {name: ((px, py), int(ready), int(due), (dx, dy)) for name, px, py, ready, due, dx, dy in found}
    else:
        found = re.findall(
            rf"([A-E]): pick up at {PLACE}, ready in (\d+) min, drop at {PLACE} within (\d+) min", item.question
        )
        orders = {name: ((px, py), int(ready), int(due), (dx, dy)) for name, px, py, ready, dx, dy, due in found}
    ends = {}
    for way in itertools.permutations([(kind, name) for name in orders for kind in "pd"]):
        clock, here, carried = 0, start, set()
        for kind, name in way:
            pickup, ready, due, dropoff = orders[name]
            if kind == "p":
                clock, here = max(ready, clock + distance(here, pickup)), pickup
                carried.add(name)
                continue
            clock, here = clock + distance(here, dropoff), dropoff
            if name not in carried or clock > due:
                break
        else:
            ends[way] = clock
    best = [way for way, end in ends.items() if end == min(ends.values())]
    assert len(best) == 1
    kinds = {"zh": {"p": "取", "d": "送"}, "en": {"p": "pick ", "d": "drop "}}[item.language]
    return (" " if item.language == "zh" else ", ").join(f"{kinds[kind]}{name}" for kind, name in best[0])


def solve_arrival_time(item):
    """Let the minutes of the day pass."""
    facts = item.facts
    minute, work = facts["ordered"], facts["queue"] * facts["each"] + facts["cook"]
    while work or minute < facts["courier"]:
        minute, work = minute + 1, max(0, work - 1)
    for _ in range(facts["blocks"]):
        minute += facts["pace"]
    return f"{minute // 60:02d}:{minute % 60:02d}"


def solve_promotions(item):
    facts = item.facts
    dishes = sum(price * count for price, count in facts["prices"])
    fee = 0 if dishes >= facts["free"] else facts["fee"]
    off = [max([o for need, o in facts[kind] if need <= dishes], default=0) for kind in ("tiers", "coupons")]
    return str(dishes + fee - (sum(off) if facts["together"] else max(off)))


def solve_opening_hours(item):
    now = minutes(re.search(r"(?:号单|。|at )(\d\d:\d\d)", item.question)[1])
    count = int(
        re.search(r"要(?:[^\d：，。]*?)(\d)份|(?:asks for|wants) (\d)", item.question).group(1)
        or re.search(r"(?:asks for|wants) (\d)", item.question)[1]
    )
    names = "|".join(shop[item.language] for shop in SHOPS)
    zh = rf"({names})(?P<opens>\d\d:\d\d)开，距(?P<away>\d+)米，送(?P<reach>\d+)米内，(?P<closes>\d\d:\d\d)关，余(?P<stock>\d+)份"
    en = rf"({names}): (?P<opens>\d\d:\d\d) to (?P<closes>\d\d:\d\d), delivers up to (?P<reach>\d+) m, is (?P<away>\d+) m away, (?P<stock>\d+) left"
    shops = list(re.finditer(zh if item.language == "zh" else en, item.question))
    assert len(shops) == 4
    [serving] = [
        shop[1]
        for shop in shops
        if now in range(minutes(shop["opens"]), minutes(shop["closes"]))
        and int(shop["away"]) <= int(shop["reach"])
        and int(shop["stock"]) >= count
    ]
    return serving


def solve_broken_window(item):
    start = minutes(re.search(r"(?:骑手|。|at |From )(\d\d:\d\d)", item.question)[1])
    dues = dict(re.findall(r"(\d{5}) (\d\d:\d\d)", item.question))
    route = [number for number in re.findall(r"\d{5}(?! \d\d:)", item.question) if number in dues]
    legs = [
        int(n)
        for n in re.search(
            r"(?:各段|分别|legs take |\d{5}, )((?:\d{1,2}(?:、|, )){3}\d{1,2})(?:分| min)", item.question
        )[1]
        .replace("、", ",")
        .split(",")
    ]
    assert len(route) == len(legs) == 4
    late = []
    for number, leg in zip(route, legs, strict=True):
        start += leg
        if start > minutes(dues[number]):
            late.append(number)
    assert len(late) == 1
    return late[0]


def solve_merchant_reply(item):
    """Read the line of the menu that has the dish that is asked for."""
    wish = next(w[item.language] for w in _WISHES if w[item.language][0] in item.question)
    [dish] = [
        dish[item.language]
        for dish in DISHES
        if re.search(
            rf"问：{dish['zh']}多少钱|问{dish['zh']}几元|much is the {dish['en']}\?|charge for {dish['en']}\?",
            item.question,
        )
    ]
    pattern = rf"{dish}(\d+)元，(\S+?)[；。]" if item.language == "zh" else rf"{dish} (\d+) yuan, (.+?)[;.]"
    price, ability = re.search(pattern, item.question).groups()
    assert ability in wish[1:]
    yes, no = ("{}元，可以", "{}元，不行") if item.language == "zh" else ("{} yuan, yes", "{} yuan, no")
    return (yes if ability == wish[1] else no).format(price)


def solve_intent(item):
    """Strike out what is quoted, and see whose wording is left."""
    left = re.sub(r'“.*?”|".*?"', "", item.question)
    names = {
        kind[item.language][0]
        for kind in intent.INTENTS
        for wording in kind[item.language][1]
        if re.search(re.sub(r"\\{\w+\\}", ".+", re.escape(wording)), left)
    }
    [name] = names
    return name


def solve_order_state(item):
    now = minutes(re.findall(r"(?:。|看|at |At )(\d\d:\d\d)", item.question)[-1])
    events = {"zh": ("接单", "备好", "取走", "送达"), "en": ("accepted", "ready", "picked up", "delivered")}[
        item.language
    ]
    states = {
        "zh": ("在备餐", "等骑手", "在路上", "已收到"),
        "en": ("in the kitchen", "waiting for its rider", "on its way", "with the customer"),
    }[item.language]
    [asked] = [index for index, state in enumerate(states) if state in item.question]
    current = {}
    for number, log in re.findall(r"(\d{5}) ([^；;。]+?)(?=；|;|。|\. )", item.question):
        for index, event in enumerate(events):
            time = re.search(rf"{event} (\d\d:\d\d)", log)
            if time and minutes(time[1]) <= now:
                current[number] = index
    [number] = [number for number, state in current.items() if state == asked]
    return number


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("name", TASKS)
def test_another_method_finds_the_same_answer(name, language):
    solve = globals()[f"solve_{name}"]
    for item in itertools.islice(instances(TASKS[name], language, "evaluation", 5), COUNT):
        assert solve(item) == item.target, item.prompt()


@pytest.mark.parametrize("name", ["arrival_time", "promotions"])
@pytest.mark.parametrize("language", LANGUAGES)
def test_the_question_says_all_that_the_answer_depends_on(name, language):
    for item in itertools.islice(instances(TASKS[name], language, "evaluation", 5), COUNT):
        said = re.sub(r"(\d\d):(\d\d)", lambda m: str(60 * int(m[1]) + int(m[2])), item.question)
        numbers = [int(number) for number in re.findall(r"\d+", said)]
        for value in re.findall(r"\d+", str(list(item.facts.values()))):
            assert int(value) in numbers, (value, item.question)


def test_a_tie_has_no_only_best():
    assert only_best([1, 2, 3], lambda n: abs(n - 2), "numbers").answer == 2
    assert only_best([1, 2, 3], lambda n: abs(n - 2) or 1, "numbers") is None
    assert only_best([1, 2], lambda n: None, "numbers") is None


def test_there_are_as_many_routes_as_there_should_be():
    assert [len(routes(orders)) for orders in (1, 2, 3)] == [1, 6, 90]


def test_cp_sat_agrees_with_enumeration(monkeypatch):
    pytest.importorskip("ortools")
    from longcat.local_services import proof

    found = 0
    for item in itertools.islice(instances(TASKS["stop_order"], "en", "training", 2), 24):
        start = Place(*item.facts["start"])
        errands = [Errand(Place(a, b), ready, Place(c, d), due) for a, b, ready, c, d, due in item.facts["orders"]]
        enumerated = best_route(start, errands)
        with monkeypatch.context() as patch:
            patch.setattr(proof, "ENUMERATED_ORDERS", 0)
            solved = best_route(start, errands)
            assert (solved.answer, solved.cost) == (enumerated.answer, enumerated.cost)
            assert best_route(start, [*errands[:-1], Errand(start, 0, Place(99, 99), 3)]) is None
            twice = [Errand(Place(3, 3), 0, Place(5, 5), 50), Errand(Place(3, 3), 0, Place(5, 5), 50)]
            assert best_route(Place(0, 0), twice) is None
        found += 1
    assert found == 24


@pytest.mark.slow
def test_a_route_of_five_orders_is_the_best_of_all(monkeypatch):
    pytest.importorskip("ortools")
    item = next(instances(stop_order.LARGE, "en", "evaluation", 1))
    start = Place(*item.facts["start"])
    errands = [Errand(Place(a, b), ready, Place(c, d), due) for a, b, ready, c, d, due in item.facts["orders"]]
    best = best_route(start, errands)
    assert stop_order.written(best.answer, "en") == item.target
    assert finish(start, errands, best.answer) == best.cost
    assert extended(start, errands, best.cost) == 1


def extended(start, errands, limit):
    """Count the routes that end by `limit` with nothing late, by going on from each beginning that is not late yet."""

    def count(place, minute, waiting, carried):
        if not waiting and not carried:
            return 1
        total = 0
        for index in (*waiting, *carried):
            errand = errands[index]
            goal, ready = (errand.pickup, errand.ready) if index in waiting else (errand.dropoff, 0)
            time = max(ready, minute + abs(place.x - goal.x) + abs(place.y - goal.y))
            if time > (limit if index in waiting else min(limit, errand.due)):
                continue
            rest = (waiting - {index}, carried | {index}) if index in waiting else (waiting, carried - {index})
            total += count(goal, time, *rest)
        return total

    return count(start, 0, frozenset(range(len(errands))), frozenset())


def test_without_or_tools_the_message_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "ortools", None)
    monkeypatch.setitem(sys.modules, "ortools.sat.python", None)
    errand = Errand(Place(0, 0), 0, Place(1, 1), 9)
    assert best_route(Place(0, 0), [errand]).cost == 2
    with pytest.raises(UserError, match=re.escape(install_command("services"))):
        best_route(Place(0, 0), [errand] * 4)
