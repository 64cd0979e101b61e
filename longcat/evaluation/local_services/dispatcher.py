"""A model as a dispatcher: it is asked who takes an order, and the likeliest of the couriers is its answer."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from longcat.local_services.city import Scene
from longcat.local_services.dispatch import question
from longcat.local_services.simulation import Choice, Decision, stop_place
from longcat.local_services.solver import cheapest
from longcat.local_services.text import COURIERS, CUE, DELIMITER

_FIRST_TICKET = 10_000
"""Number of the first order in the questions: five digits, as in the training text."""


@dataclass(frozen=True)
class Preference:
    """What a model thinks of the answers to a question."""

    nats: Sequence[float]
    """Log-likelihood of each."""
    cut: bool
    """Whether the question was too long for the model, and lost its beginning."""


Ask = Callable[[str, Sequence[str]], Preference]
"""Asks a model a question, and which of some answers it prefers."""


class ModelDispatcher:
    """Asks a model in the wording of the task `dispatch`; it chooses the courier, and the order's place in the route is the cheapest.

    A courier's place is where the next decision can reach him: the corner he is at, or the stop he is on the way to.
    """

    def __init__(self, ask: Ask, scene: Scene, language: str) -> None:
        """Make a dispatcher.

        Args:
            ask: asks the model.
            scene: whose couriers get names, those of the training text as far as they go.
            language: of the questions, `zh` or `en`.
        """
        self._ask, self._language = ask, language
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
        found = self._ask(self.prompt(decision), [f"{DELIMITER[self._language]}{name}" for name in self._names])
        self.cut += found.cut
        courier = max(range(len(found.nats)), key=lambda index: found.nats[index])
        return Choice(courier, cheapest(decision, courier).route)
