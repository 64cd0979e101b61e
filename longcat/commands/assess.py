"""`longcat assess`: can a training workload move to Ascend, on one page."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from longcat.commands.answers import check_file, write_file
from longcat.commands.options import (
    Json,
    WorkspacePath,
    fine_tuning_option,
    tracking_uri_option,
    trainable_parameters_option,
)
from longcat.errors import ConfigError
from longcat.stores import sqlite_url

_TODAY, _TARGET, _ANSWER = "The workload today", "Where it may go", "The answer"


def assess(
    config: Annotated[
        Path | None,
        typer.Option("--config", "-c", metavar="FILE", help="YAML file with these options by name; see docs/examples."),
    ] = None,
    code: Annotated[
        Path | None,
        typer.Option(metavar="DIR|FILE", help="Program that trains; it is only read.", rich_help_panel=_TODAY),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(metavar="MODEL", help="A config.json, a folder with one, or a preset.", rich_help_panel=_TODAY),
    ] = None,
    log: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Training log, of any tool that longcat mfu reads.", rich_help_panel=_TODAY),
    ] = None,
    mlflow_run: Annotated[
        str | None, typer.Option(metavar="ID", help="Instead of a log: a run in MLflow.", rich_help_panel=_TODAY)
    ] = None,
    tracking_uri: Annotated[str | None, tracking_uri_option(_TODAY)] = None,
    batch_tokens: Annotated[
        int | None,
        typer.Option(help="Tokens per step, over all devices, if the log does not say.", rich_help_panel=_TODAY),
    ] = None,
    fine_tuning: Annotated[bool | None, fine_tuning_option(_TODAY)] = None,
    trainable_parameters: Annotated[float | None, trainable_parameters_option(_TODAY)] = None,
    device: Annotated[
        str | None, typer.Option(metavar="NAME", help="Device, such as a100-80gb.", rich_help_panel=_TODAY)
    ] = None,
    devices: Annotated[int | None, typer.Option(help="Number of devices.", rich_help_panel=_TODAY)] = None,
    sequence_length: Annotated[int | None, typer.Option(help="Tokens of a sequence.", rich_help_panel=_TODAY)] = None,
    tokens: Annotated[
        float | None, typer.Option(help="Tokens to train on, such as 2e12.", rich_help_panel=_TODAY)
    ] = None,
    to: Annotated[
        str | None,
        typer.Option(metavar="NAME:COUNT", help="Target, such as ascend-910b2:128.", rich_help_panel=_TARGET),
    ] = None,
    link: Annotated[
        str | None,
        typer.Option(metavar="LINK", help="Its link between nodes, as of longcat plan.", rich_help_panel=_TARGET),
    ] = None,
    global_batch: Annotated[
        int | None, typer.Option(help="Sequences of a step there.", rich_help_panel=_TARGET)
    ] = None,
    price: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=AMOUNT",
            help="Price of a device-hour, such as 'ascend-910b2=12.5 CNY'; may be repeated.",
            rich_help_panel=_TARGET,
        ),
    ] = None,
    html: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Also write an HTML page.", rich_help_panel=_ANSWER)
    ] = None,
    markdown: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Also write it as Markdown.", rich_help_panel=_ANSWER)
    ] = None,
    workspace: WorkspacePath = Path("workspace"),
    as_json: Json = False,
) -> None:
    """Say whether a training workload can move to Ascend: what changes, how fast, what it costs, how sure that is."""
    from longcat.assess import page
    from longcat.assess.assessment import assess as assess_all
    from longcat.assess.printed import print_assessment
    from longcat.assess.request import read_request
    from longcat.terminal import Display

    given = {
        "code": code,
        "model": model,
        "log": log,
        "mlflow_run": mlflow_run,
        "batch_tokens": batch_tokens,
        "fine_tuning": fine_tuning,
        "trainable_parameters": trainable_parameters,
        "device": device,
        "devices": devices,
        "sequence_length": sequence_length,
        "tokens": tokens,
        "to": to,
        "link": link,
        "global_batch": global_batch,
    }
    for option, file in (("--html", html), ("--markdown", markdown)):
        check_file(option, file)
    if html is not None and markdown is not None and html.resolve() == markdown.resolve():
        raise ConfigError(f"--html and --markdown are both {html}: one would replace the other")
    request = read_request(config, given, price or ())
    store = tracking_uri or sqlite_url(workspace.resolve() / "mlflow.db")

    def read(run: str, names: list[str]) -> Any:
        from longcat.tracking.store import read_run

        return read_run(store, run, names)

    with Display(quiet=as_json) as display:
        result = assess_all(request, read, display)
    written = {}
    for what, option, file, render in (
        ("Page", "--html", html, page.html),
        ("Markdown", "--markdown", markdown, page.markdown),
    ):
        if file is not None:
            write_file(option, file, render(result))
            written[what] = str(file)
    if as_json:
        print(json.dumps(result, indent=2, ensure_ascii=False))
    else:
        print_assessment(result, written)
