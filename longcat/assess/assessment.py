"""An assessment: today's run, the plan on the target, the code to port, what it costs, whose stack it is, and what is not known.

Every section is the answer of a command of its own (`mfu`, `plan`, `port scan`), so that each figure can be had again and
looked into. A section that lacks an input is left out, and the input is named among what could not be known.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from longcat.assess.cost import Speed, training_cost
from longcat.assess.request import Request
from longcat.assess.risks import risks_of
from longcat.assess.sovereignty import Audit, audit, kind_of, stack_of_run
from longcat.errors import ConfigError, UserError
from longcat.progress import Reporter, no_progress

Metrics = Callable[[str, list[str]], Mapping[str, Any]]
"""Returns the histories of metrics of an MLflow run, by id and names."""
_FORMULAS = {
    "mfu": "docs/benchmark.md: useful FLOPs of the tokens a second, over the dense peak of all devices",
    "plan": "docs/plan.md: time and memory of a layout by formulas, with efficiencies fitted on published runs",
    "cost": "tokens / (tokens a second); times devices; times the price of a device-hour",
    "code": "docs/port.md: rules by class, and the operators that torch_npu registers",
    "sovereignty": "data/sovereignty.yaml: maker, country and licence of each component, each with its source",
}


@dataclass
class _Sections:
    """What has been found so far, and what could not be."""

    found: dict[str, Any] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)


def assess(request: Request, metrics: Metrics | None = None, report: Reporter = no_progress) -> dict[str, Any]:
    """Assess a workload; returns JSON values.

    Args:
        request: what is known of it.
        metrics: reads a run that MLflow has recorded; only needed where the request names one.
        report: hears of progress, while code is scanned.

    Raises:
        UserError: an input contradicts another one, cannot be read, or the target cannot hold the model.
    """
    sections = _Sections(missing=list(request.not_known))
    _today(request, metrics, sections)
    _plan(request, sections)
    _code(request, sections, report)
    _cost(request, sections)
    stacks = _stacks(request, sections)
    found = sections.found
    return {
        "name": request.name,
        "asked": request.model_dump(mode="json", exclude_defaults=True),
        **found,
        "sovereignty": {which: one.as_dict() for which, one in stacks.items()},
        "risks": [risk.as_dict() for risk in risks_of(found, stacks)],
        "known": [one.model_dump() for one in request.known],
        "not_known": sections.missing,
        "formulas": {name: text for name, text in _FORMULAS.items() if name in found or name == "sovereignty"},
    }


def _today(request: Request, metrics: Metrics | None, sections: _Sections) -> None:
    """Read today's speed, and set it among published runs."""
    from longcat.benchmark.logs import METRICS, TOKENS_SEEN, read_log, read_metrics
    from longcat.benchmark.logs.throughput import LogContext
    from longcat.benchmark.mfu_answer import Run, answer
    from longcat.benchmark.mfu_inputs import find_workload

    if request.log is None and request.mlflow_run is None:
        sections.missing.append("today's speed: give --log or --mlflow-run")
        return
    needed = {
        "--model": request.model,
        "--device": request.device,
        "--devices": request.devices,
        "--sequence-length": request.sequence_length,
    }
    if lacking := [name for name, value in needed.items() if value is None]:
        raise ConfigError(f"the log tells a speed; its MFU needs {', '.join(lacking)}, too")
    assert request.model is not None and request.device is not None
    assert request.devices is not None and request.sequence_length is not None
    workload = find_workload(request.model)
    context = LogContext(
        request.devices,
        request.sequence_length,
        None,
        non_embedding_parameters=workload.total_parameters - workload.embedding_parameters,
    )
    if request.log is not None:
        logged = read_log(request.log, context)
    else:
        assert request.mlflow_run is not None
        if metrics is None:
            raise ConfigError("--mlflow-run needs a tracking server or a workspace")
        logged = read_metrics(metrics(request.mlflow_run, [*METRICS, TOKENS_SEEN]), request.mlflow_run, context)
    run = Run(request.device, request.devices, request.sequence_length)
    sections.found["today"] = answer(workload, run, logged.tokens_per_second, logged=logged) | {
        "tokens_per_second": logged.tokens_per_second
    }


def _plan(request: Request, sections: _Sections) -> None:
    """Search the layouts of the target."""
    from longcat.plan.answer import of_search
    from longcat.plan.device import find_device
    from longcat.plan.judge import setting
    from longcat.plan.layout import batch_of
    from longcat.plan.model import read_model
    from longcat.plan.search import need_more, search

    if request.target is None:
        sections.missing.append("the target: give --to, such as ascend-910b2:128")
        return
    name, count = request.target
    device = find_device(name)
    if request.model is None:
        sections.missing.append("time, memory and layout on the target: give --model")
        return
    of = setting(read_model(request.model), device)
    batch = batch_of(of.model, None, request.sequence_length)
    found = search(of, count, batch)
    if not found.best:
        raise UserError(need_more(of, count, batch, found.least))
    sections.found["plan"] = of_search(of, found, batch, count, request.tokens)


def _code(request: Request, sections: _Sections, report: Reporter) -> None:
    """Scan the program for what belongs to CUDA."""
    if request.code is None:
        sections.missing.append("what has to be changed in the code: give --code")
        return
    from longcat.port.scanning import scan

    if not request.code.exists():
        raise ConfigError(f"--code {request.code}: there is no such file or folder")
    sections.found["code"] = scan(request.code, report=report).as_json()


def _cost(request: Request, sections: _Sections) -> None:
    """Tell days, device-hours and money, today and on the target."""
    costs = {}
    today, plan = sections.found.get("today"), sections.found.get("plan")
    if today is not None:
        speed = today["tokens_per_second"]
        costs["today"] = training_cost(
            today["device"], today["devices"], Speed(speed, speed, speed), request.tokens, request.price
        ).as_dict()
    if plan is not None:
        best = plan["best"][0]
        tokens = plan["global_batch"] * plan["sequence_length"]
        speeds = Speed(*(tokens / best[name] for name in ("step_seconds_high", "step_seconds", "step_seconds_low")))
        costs["target"] = training_cost(
            plan["device"], plan["devices"], speeds, request.tokens, request.price
        ).as_dict()
    if costs:
        sections.found["cost"] = costs
        if any(cost["price_per_device_hour"] is None for cost in costs.values()):
            sections.missing.append("money: give --price for each device, as ascend-910b2='12.5 CNY'")
        if request.tokens is None:
            sections.missing.append("days and device-hours of the whole training: give --tokens")


def _stacks(request: Request, sections: _Sections) -> dict[str, Audit]:
    """Audit today's stack and the target's."""
    stacks = {}
    if request.stack is not None:
        stacks["today"] = audit(request.stack)
    elif request.device is not None:
        stacks["today"] = audit(stack_of_run(kind_of(request.device), request.device))
    if request.target is not None:
        device = request.target[0]
        stacks["target"] = audit(stack_of_run(kind_of(device), device))
    if not stacks:
        sections.missing.append("whose stack it is: give --device, --to or a stack")
    return stacks
