"""The greedy dispatcher: the nearest courier who is free takes the order."""

from __future__ import annotations

from longcat.local_services.city import blocks
from longcat.local_services.proof import Stop
from longcat.local_services.simulation import Choice, Decision, visits_of


def nearest_free(decision: Decision) -> Choice:
    """Give the order to the courier without stops who is nearest to its pick-up; if none is free, to the one who is first.

    The two new stops come after all others.
    """
    pickup = decision.orders[decision.order].pickup
    free = [
        (blocks(one.place, pickup), one.free, index) for index, one in enumerate(decision.couriers) if not one.route
    ]
    if free:
        courier = min(free)[-1]
    else:
        ends = [list(visits_of(one, decision.orders))[-1].minute for one in decision.couriers]
        courier = ends.index(min(ends))
    old = decision.couriers[courier].route
    return Choice(courier, (*old, Stop(decision.order, True), Stop(decision.order, False)))
