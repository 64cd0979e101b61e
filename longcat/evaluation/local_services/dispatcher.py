"""A model as a dispatcher: it is asked who takes an order, and the likeliest of the couriers is its answer."""

from __future__ import annotations

import random

from longcat.inference.requests import Continuation
from longcat.inference.runner import Runner
from longcat.local_services.city import Scene
from longcat.local_services.dispatch import question
from longcat.local_services.simulation import Choice, Decision, stop_place
from longcat.local_services.solver import cheapest
from longcat.local_services.text import COURIERS, CUE, DELIMITER

_FIRST_TICKET = 10_000
"""Number of the first order in the questions: five digits, as in the training text."""


class ModelDispatcher:
    """Asks a model in the wording of the task `dispatch`; it chooses the courier, and the order's place in the route is the cheapest.

    A courier's place is where the next decision can reach him: the corner he is at, or the stop he is on the way to.
    """

    def __init__(self, runner: Runner, scene: Scene, language: str) -> None:
        """Make a dispatcher.

        Args:
            runner: the model.
            scene: whose couriers get names, those of the training text as far as they go.
            language: of the questions, `zh` or `en`.
        """
        self._runner, self._language = runner, language
        names = [name[language] for name in COURIERS]
        ids = [courier.id for courier in scene.couriers]
        self._names = names[: len(ids)] if len(ids) <= len(names) else ids
        self.cut = 0
        """Questions that were too long for the model, and lost their beginning."""

    def prompt(self, decision: Decision) -> str:
        """Return the question up to where the answer begins."""
        order = decision.orders[decision.order]
        couriers = [
            (name, position.place, [stop_place(decision.orders, stop) for stop in position.route])
            for name, position in zip(self._names, decision.couriers, strict=True)
        ]
        wording = random.Random(f"wording {order.id}")  # nosec B311 # to make up texts, not secrets
        asked = question(wording, self._language, _FIRST_TICKET + decision.order, order.pickup, order.dropoff, couriers)
        return f"{asked}\n{CUE[self._language]}"

    def __call__(self, decision: Decision) -> Choice:
        """Return the likeliest courier, and the cheapest way for him to take the order."""
        prompt, checkpoint = self.prompt(decision), self._runner.checkpoint
        context = checkpoint.encode(prompt)
        answers = [
            Continuation(context, checkpoint.encode(f"{prompt}{DELIMITER[self._language]}{name}")[len(context) :])
            for name in self._names
        ]
        found = self._runner.likelihoods(answers)
        self.cut += any(one.dropped for one in found)
        courier = max(range(len(found)), key=lambda index: found[index].nats)
        return Choice(courier, cheapest(decision, courier).route)
