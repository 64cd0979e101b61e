"""An assessment: today's run, the plan on the target, the code to port, what it costs, whose stack it is, and what is not known.

Every section is the answer of a command of its own (`mfu`, `plan`, `port scan`), so that each figure can be had again and
looked into. A section that lacks an input is left out, and the input is named among what could not be known.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from longcat.assess.cost import Speed, training_cost
from longcat.assess.request import Request
from longcat.assess.risks import risks_of
from longcat.assess.sovereignty import Audit, audit, kind_of, stack_of_run
from longcat.errors import ConfigError, UserError
from longcat.printable import counted
from longcat.progress import Reporter, no_progress

if TYPE_CHECKING:
    from longcat.benchmark.logs import Recorded

ReadRun = Callable[[str, list[str]], "Recorded"]
"""Reads parameters and metrics of an MLflow run, by its id and the metrics' names."""
_FORMULAS = {
    "today": "MFU = tokens a second x FLOPs of a token's forward and backward pass, attention as masked / (devices x dense "
    "peak): PaLM, arXiv 2204.02311, appendix B; which FLOPs count is in docs/benchmark.md, and longcat mfu prints them",
    "plan": "time = products, attention and memory by the device's efficiencies, what its links cannot hide, bubbles of the "
    "pipeline, optimizer; memory = weights, gradients, optimizer, activations: docs/plan.md, with the runs that the "
    "efficiencies were fitted on and how far off it is on others; longcat plan prints every part",
    "cost": "days = tokens / tokens a second / 86,400; device-hours = days x 24 x devices; money = device-hours x price given",
    "code": "rules by class, and the operators that torch_npu registers: docs/port.md; longcat port scan prints every place",
    "sovereignty": "maker, country and licence of each component, each with its source: data/sovereignty.yaml",
}


_MOST_UNREAD = 5
"""Files that could not be read and are named."""


@dataclass
class _Sections:
    """What has been found so far, and what could not be."""

    found: dict[str, Any] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)


def assess(request: Request, read_run: ReadRun | None = None, report: Reporter = no_progress) -> dict[str, Any]:
    """Assess a workload; returns JSON values.

    Args:
        request: what is known of it.
        read_run: reads a run that MLflow has recorded; only needed where the request names one.
        report: hears of progress, while code is scanned.

    Raises:
        UserError: an input contradicts another one, cannot be read, or the target cannot hold the model.
    """
    sections = _Sections(missing=list(request.not_known))
    _check_prices(request)
    request, recorded = _recorded(request, read_run)
    _today(request, recorded, sections)
    _plan(request, sections)
    _by_the_planner(request, sections)
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


def _check_prices(request: Request) -> None:
    """Refuse a price of a device that is neither today's nor the target's: it would count for nothing."""
    from longcat.plan.device import find_device

    named = [name for name in (request.device, request.target and request.target[0]) if name]
    known, priced = {find_device(name).name for name in named}, dict[str, str]()
    for device in request.price:
        row = find_device(device).name
        if (other := priced.setdefault(row, device)) != device:
            raise ConfigError(f"--price {device} and --price {other} are both of {row}: give one")
        if row not in known:
            raise ConfigError(
                f"--price {device}: neither --device nor --to is it; there are {' and '.join(named) or 'none'}"
            )


def _recorded(request: Request, read_run: ReadRun | None) -> tuple[Request, Recorded | None]:
    """Read the run that MLflow has recorded; what it says of itself and the request does not, joins the request."""
    from longcat.benchmark.logs import METRICS, TOKENS_SEEN
    from longcat.benchmark.logs.contradictions import RECORDED

    if request.mlflow_run is None:
        return request, None
    if read_run is None:
        raise ConfigError("--mlflow-run needs a tracking server or a workspace")
    run = read_run(request.mlflow_run, [*METRICS, TOKENS_SEEN])
    fields = {"devices": request.devices, "sequence_length": request.sequence_length}
    told = {name: run.params.get(RECORDED[name.replace("_", " ")]) for name in fields}
    found = {name: int(told[name] or 0) for name, given in fields.items() if given is None and told[name]}
    return request.model_copy(update=found), run


def _today(request: Request, recorded: Recorded | None, sections: _Sections) -> None:
    """Read today's speed, and set it among published runs."""
    from longcat.benchmark.mfu_question import answer_question

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
        source = "log" if request.log is not None else "run"
        raise ConfigError(f"the {source} tells a speed; its MFU needs {', '.join(lacking)}, too")
    assert request.device is not None and request.devices is not None and request.sequence_length is not None
    sections.found["today"] = answer_question(
        request.device,
        request.sequence_length,
        model=request.model,
        devices=request.devices,
        batch_tokens=request.batch_tokens,
        fine_tuning=request.fine_tuning,
        trainable_parameters=request.trainable_parameters,
        log=request.log,
        mlflow_run=request.mlflow_run,
        read_run=None if recorded is None else lambda run, names: recorded,
    )


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
    device = find_device(name, request.link)
    if request.model is None:
        sections.missing.append("time, memory and layout on the target: give --model")
        return
    of = setting(read_model(request.model), device)
    batch = batch_of(of.model, request.global_batch, request.sequence_length)
    found = search(of, count, batch)
    if not found.best:
        raise UserError(need_more(of, count, batch, found.least))
    sections.found["plan"] = of_search(of, found, batch, count, request.tokens)


def _by_the_planner(request: Request, sections: _Sections) -> None:
    """Tell what the planner gives for today's devices: its layouts are the best ones, and a run is rarely that."""
    from longcat.plan.device import find_device
    from longcat.plan.judge import setting
    from longcat.plan.layout import batch_of
    from longcat.plan.model import read_model
    from longcat.plan.search import search

    today = sections.found.get("today")
    if today is None or today["mfu"] is None or "plan" not in sections.found:
        return
    assert request.device is not None and request.devices is not None
    try:
        of = setting(read_model(str(request.model)), find_device(request.device))
        found = search(of, request.devices, batch_of(of.model, None, request.sequence_length))
    except ConfigError as error:
        sections.missing.append(f"what the planner gives for today's devices, to compare like with like: {error}")
        return
    if not found.best:
        sections.missing.append(
            "what the planner gives for today's devices, to compare like with like: no layout fits that it knows"
        )
        return
    best = found.best[0]
    tokens_per_second = best.tokens_per_second
    today["planner"] = {
        "tokens_per_second": tokens_per_second,
        "layout": best.layout.sentence(),
        "reached": today["tokens_per_second"] / tokens_per_second,
    }


def _code(request: Request, sections: _Sections, report: Reporter) -> None:
    """Scan the program for what belongs to CUDA."""
    if request.code is None:
        sections.missing.append("what has to be changed in the code: give --code")
        return
    from longcat.port.scanning import scan

    if not request.code.exists():
        raise ConfigError(f"--code {request.code}: there is no such file or folder")
    code = sections.found["code"] = scan(request.code, report=report).as_json()
    if unread := code["unread"]:
        said = [
            f"{one['file']}{', line ' if one['line'] else ''}{one['line'] or ''}: {one['why']}"
            for one in unread[:_MOST_UNREAD]
        ]
        more = len(unread) - len(said)
        sections.missing.append(
            f"what has to be changed in {counted(len(unread), 'file')} of the code that could not be read: {'; '.join(said)}"
            + (f" and {more} more; longcat port scan names them" if more > 0 else "")
        )
    if code["no_operators"]:
        sections.missing.append(
            "which operators of the code have no kernel on the target: no torch_npu can be read here; longcat port scan "
            "--python names a Python that has it"
        )


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
