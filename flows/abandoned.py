"""Closing of flow runs in a workspace's Prefect database whose process is gone."""

from __future__ import annotations

from datetime import datetime

from prefect import get_client
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterDeploymentId,
    FlowRunFilterExpectedStartTime,
    FlowRunFilterState,
    FlowRunFilterStateType,
    TaskRunFilter,
    TaskRunFilterFlowRunId,
    TaskRunFilterState,
    TaskRunFilterStateType,
)
from prefect.client.schemas.objects import StateType
from prefect.states import Crashed

_OPEN = [StateType.RUNNING, StateType.PENDING, StateType.CANCELLING]
_AT_ONCE = 200
"""Runs that one run closes."""


def close_abandoned(before: datetime) -> None:
    """Give flow runs that have not ended, and their task runs, the state "Crashed".

    A run of a deployment has a worker, which looks after it. Every other run in a workspace's own database was started
    by a process that had the workspace for itself, so whoever has it now may close them.

    Args:
        before: time at which the workspace was taken; runs that were started later are left alone.
    """
    flow_runs = FlowRunFilter(
        state=FlowRunFilterState(type=FlowRunFilterStateType(any_=_OPEN)),
        expected_start_time=FlowRunFilterExpectedStartTime(before_=before),
        deployment_id=FlowRunFilterDeploymentId(is_null_=True),
    )
    state = Crashed(message="The process of this run ended without telling Prefect how.")
    client = get_client(sync_client=True)
    for run in client.read_flow_runs(flow_run_filter=flow_runs, limit=_AT_ONCE):
        task_runs = TaskRunFilter(
            flow_run_id=TaskRunFilterFlowRunId(any_=[run.id]),
            state=TaskRunFilterState(type=TaskRunFilterStateType(any_=_OPEN)),
        )
        for task_run in client.read_task_runs(task_run_filter=task_runs):
            client.set_task_run_state(task_run.id, state, force=True)
        client.set_flow_run_state(run.id, state, force=True)
