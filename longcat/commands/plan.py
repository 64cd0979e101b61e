"""`longcat plan`: which layout of devices fits a model, and how fast it is, without running anything."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from longcat.commands.answers import check_file, write_file
from longcat.commands.options import Json
from longcat.errors import UserError

if TYPE_CHECKING:
    from longcat.costs.mfu import Recomputation

_WHAT, _LAYOUT, _HOW, _ANSWER = "What is trained, on what", "One layout instead of all", "How it runs", "The answer"


def plan(
    model: Annotated[
        str, typer.Option(metavar="MODEL", help="A config.json, a folder with one, or a preset.", rich_help_panel=_WHAT)
    ],
    device: Annotated[
        str,
        typer.Option(
            metavar="NAME", help="Device name, such as ascend-910b2, a100-80gb or b200.", rich_help_panel=_WHAT
        ),
    ],
    devices: Annotated[int, typer.Option(help="Number of devices.", rich_help_panel=_WHAT)],
    also: Annotated[
        str | None,
        typer.Option(
            metavar="NAME:COUNT",
            help="Further devices of a second kind, such as ascend-910b4:32.",
            rich_help_panel=_WHAT,
        ),
    ] = None,
    global_batch: Annotated[
        int | None,
        typer.Option(help="Sequences of a step; a preset's own, or about 4 M tokens.", rich_help_panel=_WHAT),
    ] = None,
    sequence_length: Annotated[
        int | None, typer.Option(help="Tokens of a sequence; a preset's own, or 4096.", rich_help_panel=_WHAT)
    ] = None,
    tokens: Annotated[
        float | None, typer.Option(help="Tokens to train on, such as 35e12: adds days.", rich_help_panel=_WHAT)
    ] = None,
    link: Annotated[
        str | None,
        typer.Option(
            metavar="SPEED",
            help="Links of a device to other nodes: 25 (GB/s), 200Gbit, or inside=300,between=25.",
            rich_help_panel=_WHAT,
        ),
    ] = None,
    layout: Annotated[
        str | None,
        typer.Option(
            metavar="AXES",
            help="Axes such as tensor=2,pipeline=2; data parallel is what is left.",
            rich_help_panel=_LAYOUT,
        ),
    ] = None,
    micro_batch: Annotated[
        int | None, typer.Option(help="Sequences of a forward pass; 1 if not said.", rich_help_panel=_LAYOUT)
    ] = None,
    recompute: Annotated[
        str, typer.Option(metavar="WHAT", help="none, selective or full.", rich_help_panel=_LAYOUT)
    ] = "none",
    stack: Annotated[
        str,
        typer.Option(metavar="NAME", help="Software, of data/reference/plan/stacks.csv.", rich_help_panel=_HOW),
    ] = "auto",
    kernels: Annotated[
        str,
        typer.Option(
            metavar="NAME", help="Kernels: flash2+norm, flash2, flash1, fused or torch.", rich_help_panel=_HOW
        ),
    ] = "auto",
    calibration: Annotated[
        Path | None,
        typer.Option(
            metavar="RUN",
            help="Result of longcat benchmark on such devices: measured efficiencies.",
            rich_help_panel=_HOW,
        ),
    ] = None,
    html: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Also write an HTML page.", rich_help_panel=_ANSWER)
    ] = None,
    as_json: Json = False,
) -> None:
    """Say which layout of a number of devices fits a model and how fast it trains, without running anything."""
    from longcat.plan.answer import of_layout, of_search
    from longcat.plan.calibration import calibrated
    from longcat.plan.device import find_device
    from longcat.plan.judge import judge, setting
    from longcat.plan.layout import batch_of, read_layout, settle
    from longcat.plan.mixed import mixed
    from longcat.plan.model import read_model
    from longcat.plan.search import need_more, search

    check_file("--html", html)
    _check(devices, global_batch, sequence_length, micro_batch, tokens, recompute)
    if layout is None and (micro_batch is not None or recompute != "none"):
        raise UserError("--micro-batch and --recompute are of one --layout; without it all are tried")
    if layout is not None and also is not None:
        raise UserError("--also searches for layouts itself; leave out --layout")
    found, kind = read_model(model), find_device(device, link)
    if calibration is not None:
        kind = calibrated(kind, calibration)
    of, batch = setting(found, kind, stack, kernels), batch_of(found, global_batch, sequence_length)
    if layout is not None:
        one = settle(found, devices, batch, read_layout(layout), micro_batch, cast("Recomputation", recompute))
        answer = of_layout(of, judge(of, one), tokens)
    else:
        all_found = search(of, devices, batch)
        if not all_found.best and also is None:
            raise UserError(need_more(of, devices, batch, all_found.least))
        answer = of_search(of, all_found, batch, devices, tokens)
        if also is not None:
            name, count = _also(also)
            answer["mixed"] = mixed(of, devices, setting(found, find_device(name, link), stack, kernels), count, batch)
    if html is not None:
        from longcat.plan.page import page

        write_file("--html", html, page(answer))
    if as_json:
        print(json.dumps(answer, indent=2, ensure_ascii=False))
    else:
        from longcat.plan.printed import print_plan

        print_plan(answer)


def _check(
    devices: int,
    global_batch: int | None,
    sequence_length: int | None,
    micro_batch: int | None,
    tokens: float | None,
    recompute: str,
) -> None:
    """Refuse numbers that cannot be."""
    from longcat.plan.layout import MOST_DEVICES, MOST_SEQUENCES, MOST_TOKENS

    for name, number, most in (
        ("--devices", devices, MOST_DEVICES), ("--global-batch", global_batch, MOST_SEQUENCES),
        ("--micro-batch", micro_batch, MOST_SEQUENCES), ("--sequence-length", sequence_length, MOST_SEQUENCES),
        ("--tokens", tokens, MOST_TOKENS),
    ):  # fmt: skip
        if number is not None and not 0 < number <= most:
            raise UserError(f"{name} must be above 0 and at most {most:,.15g}, found {number:,.15g}")
    if recompute not in ("none", "selective", "full"):
        raise UserError(f"--recompute {recompute}: there are none, selective and full")


def _also(text: str) -> tuple[str, int]:
    match = re.fullmatch(r"(.+):([1-9][0-9]{0,6})", text.strip())
    if match is None:
        raise UserError(f"--also {text}: give a device and how many, such as ascend-910b4:32")
    return match[1], int(match[2])
