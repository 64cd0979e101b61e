from types import SimpleNamespace

import pytest

from longcat.evaluation.local_services.comparison import Comparison, Row, compare
from longcat.evaluation.local_services.dispatcher import ModelDispatcher
from longcat.evaluation.local_services.preference import preference_of
from longcat.inference.requests import Likelihood
from longcat.local_services.city import City, Courier, Merchant, Order, Place, Scene, make_scene
from longcat.local_services.simulation import simulate
from longcat.local_services.solver import Hindsight, best_choice, cheapest

SCENE = make_scene(3, start=720, minutes=30, couriers=3, orders_per_hour=12)


class Asked:
    """A runner that finds the last courier likeliest, and keeps what it was asked; a character is a token."""

    def __init__(self, dropped=0):
        self.checkpoint = SimpleNamespace(encode=lambda text: [ord(letter) for letter in text])
        self.questions, self._dropped = [], dropped

    def likelihoods(self, requests):
        self.questions.append([("".join(map(chr, one.context)), "".join(map(chr, one.tokens))) for one in requests])
        return [Likelihood(float(number), False, self._dropped) for number in range(len(requests))]


@pytest.mark.parametrize(
    ("language", "names", "cue"),
    [
        ("zh", ["张师傅", "王师傅", "李师傅"], "\n答案："),
        ("en", [" courier Zhang", " courier Wang", " courier Li"], "\nAnswer:"),
    ],
)
def test_a_model_is_asked_once_an_order_in_the_wording_of_the_task(language, names, cue):
    runner = Asked()
    decisions = []
    model = ModelDispatcher(preference_of(runner), SCENE, language)

    def watched(decision):
        decisions.append(decision)
        choice = model(decision)
        assert choice.route == cheapest(decision, 2).route
        return choice

    hour = simulate(SCENE, watched)
    assert set(hour.choices) == {2}
    assert len(runner.questions) == len(SCENE.orders)
    for decision, question in zip(decisions, runner.questions, strict=True):
        assert [answer for _, answer in question] == names
        (text,) = {context for context, _ in question}
        order = SCENE.orders[decision.order]
        assert text.endswith(cue)
        assert f"({order.pickup.x},{order.pickup.y})" in text
        assert f"({order.dropoff.x},{order.dropoff.y})" in text
        assert all(name.strip() in text for name in names)
    assert model.cut == 0


def test_a_courier_under_way_is_told_with_the_stops_before_him():
    city = City(9, 9, (Merchant("m", Place(2, 2), 5),))
    orders = tuple(Order(f"o{n}", "m", Place(2, 2), Place(7, 8), n, 9, 90) for n in range(2))
    runner = Asked()
    simulate(
        Scene(city, (Courier("c", Place(0, 0), 0),), orders),
        ModelDispatcher(preference_of(runner), Scene(city, (Courier("c", Place(0, 0), 0),), orders), "en"),
    )
    assert "courier Zhang at (0,0), free" in runner.questions[0][0][0]
    assert "courier Zhang at (2,2), still bound for (7,8)" in runner.questions[1][0][0]


def test_questions_that_were_cut_are_counted_and_more_couriers_than_names_keep_their_ids():
    scene = make_scene(3, start=720, minutes=30, couriers=30, orders_per_hour=12)
    runner = Asked(dropped=1)
    model = ModelDispatcher(preference_of(runner), scene, "zh")
    simulate(scene, model)
    assert model.cut == len(scene.orders)
    assert [answer for _, answer in runner.questions[0]] == [courier.id for courier in scene.couriers]


def test_the_comparison_counts_best_decisions_and_says_who_loses():
    found = compare(SCENE)
    greedy, exact = found.rows
    assert exact.best_decisions == len(SCENE.orders) >= greedy.best_decisions
    assert exact.hour == simulate(SCENE, best_choice)
    assert found.hindsight.bound <= min(row.hour.cost.total for row in found.rows)
    assert found.ratio(greedy) == greedy.hour.cost.total / found.hindsight.bound


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (Hindsight(20, 20), "times the optimum in hindsight, 20."),
        (Hindsight(20, 10), "times the optimum in hindsight, which lies between 10 and 20."),
        (Hindsight(0, 0), "minutes: as much as exact."),
        (None, "Without OR-Tools the optimum in hindsight is not known"),
    ],
)
def test_the_verdict_says_what_is_proven(found, words):
    hour = simulate(SCENE, best_choice)
    comparison = Comparison(SCENE, (Row("model", hour, 1), Row("exact", hour, 1)), found)
    assert words in comparison.verdict()
