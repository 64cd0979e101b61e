"""The table of tasks."""

from __future__ import annotations

from longcat.local_services import (
    arrival_time,
    broken_window,
    dispatch,
    intent,
    merchant_reply,
    opening_hours,
    order_state,
    promotions,
    stop_order,
)
from longcat.local_services.instance import Task

TASKS: dict[str, Task] = {
    module.TASK.name: module.TASK
    for module in (
        dispatch,
        stop_order,
        arrival_time,
        promotions,
        opening_hours,
        broken_window,
        merchant_reply,
        intent,
        order_state,
    )
}
