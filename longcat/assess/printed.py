"""An assessment on a terminal: the figures that answer, risks in order, and what could not be known."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console

from longcat.assess.page import GRADES, cards
from longcat.tables import print_pairs, say


def print_assessment(result: Mapping[str, Any], written: Mapping[str, str]) -> None:
    """Print an assessment.

    Args:
        result: of `assess`.
        written: files that hold all of it, by what they are.
    """
    console = Console()
    print_pairs(result["name"], {label: value for value, label, _ in cards(result)})
    if plan := result.get("plan"):
        say(console, f"Layout: {plan['best'][0]['sentence']}.")
    for risk in result["risks"]:
        say(console, f"Risk, {GRADES[risk['grade']]}: {risk['what']}. What to do: {risk['instead']}.")
    for which, stack in result["sovereignty"].items():
        say(
            console, f"Stack {'today' if which == 'today' else 'on the target'}, {stack['verdict']}: {stack['reason']}."
        )
    for one in result["not_known"]:
        say(console, f"Not known: {one}.")
    for what, path in written.items():
        say(console, f"{what}: {path}")
