"""`longcat dispatch`: a model's decisions over a simulated hour beside the exact solver's and a greedy dispatcher's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from longcat.commands.options import CHECKPOINT_HELP, AcceleratorName, Json, PrecisionName, WorkspacePath
from longcat.training.named import open_named

if TYPE_CHECKING:
    from longcat.evaluation.local_services.dispatcher import ModelDispatcher
    from longcat.local_services.city import Scene

PAGE, RESULT = "dispatch.html", "dispatch.json"


def dispatch(
    orders: Annotated[
        Path | None, typer.Argument(metavar="ORDERS.json", help="City, couriers and orders (docs/local_services.md).")
    ] = None,
    checkpoint: Annotated[
        str | None, typer.Option(metavar="DIR|DIGEST", help=f"{CHECKPOINT_HELP} Without one, greedy and exact alone.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="DIR", help=f"Folder for {PAGE} and {RESULT}.")
    ] = None,
    language: Annotated[str, typer.Option(help="Language in which the model is asked: zh or en.")] = "zh",
    example: Annotated[bool, typer.Option("--example", help="Print an example of ORDERS.json.")] = False,
    accelerator: AcceleratorName = "auto",
    precision: PrecisionName = "auto",
    workspace: WorkspacePath = Path("workspace"),
    as_json: Json = False,
) -> None:
    """Set a model's dispatch decisions beside a greedy dispatcher's and the exact ones over a simulated hour."""
    from longcat.disk import check_can_be_folder, disk_errors, write_text
    from longcat.errors import UserError
    from longcat.evaluation.local_services.comparison import compare
    from longcat.local_services.city import make_scene
    from longcat.local_services.text import LANGUAGES
    from longcat.printable import counted
    from longcat.progress import Progress
    from longcat.tables import print_dispatch
    from longcat.terminal import Display

    if example:
        if orders is not None:
            raise UserError("--example prints an example, and takes no ORDERS.json")
        made = make_scene("example", start=11 * 60 + 30, minutes=60, couriers=4, orders_per_hour=14, side=12)
        print(json.dumps(made.to_json(), indent=1))
        return
    if orders is None:
        raise UserError("give the orders: longcat dispatch ORDERS.json (longcat dispatch --example prints one)")
    if language not in LANGUAGES:
        raise UserError(f"--language {language!r}: there are {', '.join(LANGUAGES)}")
    scene = _read(orders)
    if output is not None:
        output = output.expanduser().resolve()
        check_can_be_folder(output, "--output")
    model = None if checkpoint is None else _model(checkpoint, accelerator, precision, workspace, scene, language)
    turns = len(("greedy", "exact", "hindsight")) + (model is not None)
    done = 0
    with Display(quiet=as_json) as display:

        def tell(name: str) -> None:
            nonlocal done
            display(Progress("dispatch", done, turns, name))
            done += 1

        found = compare(scene, model, tell)
        if found.cut_questions:
            cut = counted(found.cut_questions, "question")
            display.warn(f"too long for the model, and asked without the beginning: {cut}")
    if output is not None:
        from longcat.evaluation.local_services.dispatch_page import render

        with disk_errors(output, "another --output"):
            output.mkdir(parents=True, exist_ok=True)
            write_text(output / PAGE, render(found))
            write_text(output / RESULT, json.dumps(found.to_json(), indent=1, ensure_ascii=False) + "\n")
    if as_json:
        print(json.dumps(found.to_json(), indent=2))
    else:
        print_dispatch(found, output and output / PAGE)


def _read(path: Path) -> Scene:
    from longcat.errors import DataError
    from longcat.local_services.city import hour_from_json
    from longcat.unpacking import read_json

    try:
        document = read_json(path)
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from None
    except ValueError as error:
        raise DataError(f"{path}: not JSON ({error})") from None
    return hour_from_json(document, str(path))


def _model(
    checkpoint: str, accelerator: str, precision: str, workspace: Path, scene: Scene, language: str
) -> ModelDispatcher:
    from longcat.evaluation.local_services.dispatcher import ModelDispatcher
    from longcat.evaluation.local_services.preference import preference_of
    from longcat.inference.runner import Runner

    runner = Runner(open_named(checkpoint, workspace, accelerator, precision))
    return ModelDispatcher(preference_of(runner), scene, language)
