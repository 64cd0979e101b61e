"""Whether the nodes of a run are alike in what they have to be, and which one is not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

ALIKE = ("longcat", "python", "torch", "torch-npu", "cann", "driver", "accelerator", "device", "devices")
"""Facts that have to be equal on all nodes."""
CLOCK_S = 60.0
"""Seconds that a node's clock may be off."""


def disagreements(facts: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Say in what nodes differ, and name those that are unlike most.

    Args:
        facts: of each node, by its name.

    Returns:
        A sentence per fact in which they differ; empty if they are alike.
    """
    found = []
    for name in ALIKE:
        values = {node: _text(of.get(name)) for node, of in facts.items()}
        counts = Counter(values.values())
        if len(counts) == 1:
            continue
        usual, most = counts.most_common(1)[0]
        odd = [node for node, value in values.items() if value != usual]
        if len(odd) >= most:  # nobody is the odd one
            each = ", ".join(f"{node} has {value}" for node, value in values.items())
            found.append(f"the nodes differ in {name}: {each}")
        else:
            each = ", ".join(f"node {node} has {values[node]}" for node in odd)
            found.append(f"the nodes differ in {name}: {each}, the other{'s have' if most > 1 else ' has'} {usual}")
    for node, of in facts.items():
        if abs(skew := float(of.get("clock_ahead_s", 0))) > CLOCK_S:
            ahead = "ahead" if skew > 0 else "behind"
            found.append(f"the clock of node {node} is {abs(skew):.0f} s {ahead}")
    return found


def _text(value: Any) -> str:
    return "none" if value is None else str(value)
