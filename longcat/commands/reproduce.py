"""`longcat reproduce`: make a recorded run again in a fresh workspace, and say which bytes are the same."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from longcat.commands.options import Json, Overrides, WorkspacePath
from longcat.errors import ConfigError

if TYPE_CHECKING:
    from longcat.tracking.record import Record

Output = Annotated[
    Path | None,
    typer.Option(
        "--output", "-o", metavar="DIR", help="Fresh workspace (default: beside the other, with the run's id)."
    ),
]
Check = Annotated[
    bool, typer.Option("--check", help="Run nothing: say what is not as it was; exit code 1 if there is something.")
]
GivenCheckpoint = Annotated[
    str | None,
    typer.Option(
        "--checkpoint", metavar="DIR", help="Folder of the checkpoint that the run was given, where it lies now."
    ),
]


def reproduce(
    run: Annotated[str, typer.Argument(metavar="RUN", help="Id of an MLflow run, its first characters, or its name.")],
    workspace: WorkspacePath = Path("workspace"),
    output: Output = None,
    set_: Overrides = None,
    checkpoint: GivenCheckpoint = None,
    check: Check = False,
    as_json: Json = False,
) -> None:
    """Make a recorded run again in a fresh workspace, and say byte for byte what is the same.

    First it says what is not as it was: code, packages, machine, input and settings. --set names what has moved,
    for example corpus.sources. Exit code 0: nothing differs; 1: something does.
    """
    from longcat.comparing.reproduction import as_json as outcomes_as_json
    from longcat.comparing.reproduction import configuration, outcomes
    from longcat.comparing.reproduction_printed import print_changes, print_outcomes, verdict
    from longcat.comparing.since import changes
    from longcat.tracking.record import find_record

    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    record = find_record(run, workspace.expanduser().resolve(), os.environ.get("MLFLOW_TRACKING_URI"))
    config = configuration(record, set_ or ())
    if any(source.kind == "hub" for source in config.corpus.sources):
        os.environ.pop("HF_HUB_OFFLINE", None)
    found, notes = changes(record, config)
    answer: dict[str, Any] = {
        "run": record.run.id,
        "name": record.run.name,
        "stages": list(record.stages),
        "changes": [asdict(one) for one in found],
        "notes": notes,
    }
    if not as_json:
        print_changes(found, notes)
    if check:
        if as_json:
            print(json.dumps(answer, indent=2, ensure_ascii=False))
        raise typer.Exit(1 if found else 0)
    folder = _folder(output, workspace, record)
    summary = _run(record, folder, set_ or [], checkpoint, as_json)
    made = [f"{row['artifact']['kind']}/{row['artifact']['digest']}" for row in summary["stages"]]
    results = outcomes(record, folder, made)
    if as_json:
        answer |= {"workspace": str(folder), "results": outcomes_as_json(results), "verdict": verdict(results)}
        print(json.dumps(answer, indent=2, ensure_ascii=False))
    else:
        print_outcomes(results)
        print(folder)
    raise typer.Exit(0 if all(one.identical for one in results) else 1)


def _folder(output: Path | None, workspace: Path, record: Record) -> Path:
    named = (record.run.id or record.run.name)[:8]
    beside = workspace.expanduser().resolve()
    folder = beside.with_name(f"{beside.name}-again-{named}") if output is None else output.expanduser().resolve()
    if folder == beside:
        raise ConfigError(f"--output {folder} is the workspace of the run itself; name another one")
    return folder


def _run(record: Record, folder: Path, overrides: list[str], checkpoint: str | None, quiet: bool) -> dict[str, Any]:
    """Run the stages of a record in a workspace of their own; returns the summary."""
    from longcat.commands.run import flow_summary
    from longcat.comparing.reproduction import CONFIG, configuration, given_checkpoint_of, prepare
    from longcat.disk import check_can_be_folder, disk_errors
    from longcat.flows.dag import PIPELINE, STAGES, TRAINING, own_stages

    if len(set(record.stages)) < len(record.stages):
        rows = ", ".join(f"{part.name} ({part.id or 'not sent yet'})" for part in record.run.parts)
        raise ConfigError(f"{record.run.name} is a sweep; name one of its rows: {rows}")
    names = [stage.name for stage in (*STAGES, *own_stages())]
    if lost := [name for name in record.stages if name not in names]:
        raise ConfigError(
            f"{record.run.name} has the stage {lost[0]}, which no package that is installed here registers as a stage"
        )
    ran = [name for name in names if name in record.stages]
    shipped = [stage.name for stage in STAGES]
    flow = PIPELINE if set(shipped) <= set(ran) else ran[-1]
    trained = flow == TRAINING or TRAINING in ran or (record.run.whole is not None and _whole_trained(record, TRAINING))
    given = given_checkpoint_of(record, trained or flow == names[0])
    if given is None and checkpoint is not None:
        raise ConfigError("--checkpoint: the run was given none")
    if given is not None and checkpoint is None:
        there = record.workspace / "checkpoint" / given
        if not there.is_dir():
            raise ConfigError(
                f"the run was given the checkpoint {given}, which is not at {there}; name it by --checkpoint"
            )
        checkpoint = str(there)
    check_can_be_folder(folder, "--output")
    with disk_errors(folder, "another --output"):
        prepare(folder, record)
        configuration(record, overrides, folder)
    return flow_summary(flow, None, folder / CONFIG, [], folder, quiet, checkpoint)


def _whole_trained(record: Record, training: str) -> bool:
    whole = record.run.whole
    return whole is not None and any(part.tags.get("stage") == training for part in whole.parts)
