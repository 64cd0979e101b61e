"""Dispatchers side by side over one hour: what each costs, how often it chose as well as one could, and what was possible."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from longcat.distribution import install_command
from longcat.evaluation.local_services.dispatcher import ModelDispatcher
from longcat.local_services.city import Scene
from longcat.local_services.greedy import nearest_free
from longcat.local_services.simulation import Choice, Decision, Dispatcher, Hour, Position, cost_of, simulate
from longcat.local_services.solver import Hindsight, best_choice, hindsight
from longcat.printable import counted as number_of

_LEAST_S = 0.1
"""Seconds that the search in hindsight has in any case."""


@dataclass(frozen=True)
class Row:
    """One dispatcher's hour, and how many of its decisions cost no more than the best choice of that moment."""

    name: str
    hour: Hour
    best_decisions: int


@dataclass(frozen=True)
class Comparison:
    """Dispatchers over one hour; `hindsight` is None where OR-Tools is missing."""

    scene: Scene
    rows: tuple[Row, ...]
    hindsight: Hindsight | None
    cut_questions: int = 0
    """Questions that were too long for the model, and lost their beginning."""

    def ratio(self, row: Row) -> float | None:
        """Return how many times the proven bound in hindsight an hour costs; None without a bound, or if it is 0."""
        return row.hour.cost.total / self.hindsight.bound if self.hindsight and self.hindsight.bound else None

    def verdict(self) -> str:
        """Say in a sentence or two by how much the first dispatcher loses, or does not."""
        first, *others = self.rows
        cost = first.hour.cost.total
        parts = [_against(cost, row.hour.cost.total, row.name) for row in others]
        text = f"{first.name.capitalize()} costs {number_of(cost, 'minute')}: {' and '.join(parts)}."
        if self.hindsight is None:
            return f"{text} Without OR-Tools the optimum in hindsight is not known ({install_command('services')})."
        known = (
            f"the optimum in hindsight, {self.hindsight.cost}"
            if self.hindsight.is_proven
            else f"the optimum in hindsight, which lies between {self.hindsight.bound} and {self.hindsight.cost}"
        )
        ratio = self.ratio(first)
        at_most = "" if self.hindsight.is_proven else "at most "
        return text if ratio is None else f"{text} That is {at_most}{ratio:.2f} times {known}."

    def to_json(self) -> dict[str, Any]:
        """Return all figures."""
        scene, found = self.scene, self.hindsight
        return {
            "orders": len(scene.orders),
            "couriers": len(scene.couriers),
            "verdict": self.verdict(),
            "cut_questions": self.cut_questions,
            "hindsight": found and {"cost": found.cost, "bound": found.bound, "proven": found.is_proven},
            "dispatchers": {
                row.name: {
                    "driven_minutes": row.hour.cost.driven,
                    "late_minutes": row.hour.cost.late,
                    "late_orders": [scene.orders[index].id for index in row.hour.late_orders],
                    "cost": row.hour.cost.total,
                    "ratio": self.ratio(row),
                    "best_decisions": row.best_decisions,
                    "decisions": [
                        {"order": order.id, "courier": scene.couriers[courier].id, "added_minutes": added}
                        for order, courier, added in zip(scene.orders, row.hour.choices, row.hour.added, strict=True)
                    ],
                }
                for row in self.rows
            },
        }


def compare(
    scene: Scene,
    model: ModelDispatcher | None = None,
    on_row: Callable[[str], None] = lambda name: None,
    until: float | None = None,
) -> Comparison:
    """Let a model, the greedy dispatcher and the exact one decide the same hour.

    Args:
        scene: the hour.
        model: the one that matters; None compares the other two.
        on_row: hears whose turn it is.
        until: `time.monotonic()` at which the search in hindsight has to end, with what it has found; None gives it the
            same work on each machine.
    """
    dispatchers: dict[str, Dispatcher] = {} if model is None else {"model": model}
    rows = []
    for name, dispatcher in (dispatchers | {"greedy": nearest_free, "exact": best_choice}).items():
        on_row(name)
        rows.append(_row(name, scene, dispatcher))
    on_row("hindsight")
    best = min((row.hour for row in rows), key=lambda hour: hour.cost.total)
    left = None if until is None else max(_LEAST_S, until - time.monotonic())
    return Comparison(scene, tuple(rows), _hindsight(scene, best, left), 0 if model is None else model.cut)


def _row(name: str, scene: Scene, dispatcher: Dispatcher) -> Row:
    good = 0

    def counted(decision: Decision) -> Choice:
        nonlocal good
        choice, best = dispatcher(decision), best_choice(decision)
        good += _added(decision, choice) <= _added(decision, best)
        return choice

    hour = simulate(scene, counted)
    return Row(name, hour, good)


def _added(decision: Decision, choice: Choice) -> int:
    one = decision.couriers[choice.courier]
    after = Position(one.courier, one.place, one.free, choice.route)
    return cost_of(after, decision.orders).total - cost_of(one, decision.orders).total


def _hindsight(scene: Scene, known: Hour, seconds: float | None) -> Hindsight | None:
    try:
        import ortools  # noqa: F401
    except ImportError:
        return None
    return hindsight(scene, known, seconds=seconds)


def _against(cost: int, other: int, name: str) -> str:
    if cost == other:
        return f"as much as {name}"
    return f"{abs(cost - other)} {'more' if cost > other else 'less'} than {name} ({other})"
