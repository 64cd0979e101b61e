"""`longcat sweep`: train one model for each point of a grid of settings, and compare them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from longcat.commands.options import ConfigFile, Json, Preset, WorkspacePath
from longcat.errors import Cancelled, ConfigError, LongcatError, StorageError, TrainingError, WorkspaceBusyError

if TYPE_CHECKING:
    from longcat.artifact import Artifact, Workspace
    from longcat.config import PipelineConfig
    from longcat.progress import Reporter
    from longcat.tracking import Tracker
    from longcat.training.sweep import Outcome, SweepFacts

Values = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        "-s",
        rich_help_panel="Settings",
        metavar="a.b=c,d",
        help="A setting, and its values divided by commas; may be repeated for a grid.",
    ),
]
Score = Annotated[
    str, typer.Option("--score", metavar="NAME", help="final_loss, held_out_loss, tokens_per_second or mfu.")
]
_ENDS_ALL = Cancelled, StorageError, WorkspaceBusyError
"""Errors that the next point would end with as well."""


def sweep(
    preset: Preset = None,
    config: ConfigFile = None,
    set_: Values = None,
    score: Score = "final_loss",
    workspace: WorkspacePath = Path("workspace"),
    as_json: Json = False,
) -> None:
    """Train a model for each combination of settings, and tell which one is best."""
    from longcat.artifact import Workspace
    from longcat.config import load_config
    from longcat.disk import disk_errors
    from longcat.flows.dag import TRAINING, check, stages_of
    from longcat.tables import print_sweep
    from longcat.terminal import Display, redirected_output
    from longcat.tracking import Tracker
    from longcat.training.given_start import with_start
    from longcat.training.room import doubts
    from longcat.training.sweep import BEST, PICTURE, SCORES, names_of, record_sweep, split_overrides

    if score not in SCORES:
        raise ConfigError(f"--score {score}: there are {', '.join(SCORES)}")
    fixed, points = split_overrides(set_ or ())
    configs = [load_config(preset, config, [*fixed, *point.overrides]) for point in points]
    space = Workspace(workspace.expanduser().resolve())
    configs = [with_start(one, space) for one in configs]
    for one in configs:  # before the first of them is trained
        check(one, stages_of(TRAINING))
    outcomes: list[Outcome] = []
    status, unsent = "FAILED", None
    with (
        disk_errors(space.path),
        space.lease(),
        Display(quiet=as_json) as display,
        redirected_output(space.path / "logs" / "run.log", display.warn),
    ):
        tracker = Tracker(space, configs[0], name=f"sweep-{configs[0].preset}")
        try:
            for doubt in dict.fromkeys(doubt for one in configs for doubt in doubts(one, space.path)):
                display.warn(doubt)
            for name, point, one in zip(names_of(points), points, configs, strict=True):
                outcomes.append(_outcome(name, point.settings, one, space, tracker, display))
                if error := outcomes[-1].error:
                    display.warn(f"{name} failed: {error}")
            made = record_sweep(outcomes, score, space)
            tracker.log_metrics({key: value for key, value in made.facts.figures.items() if value is not None})
            for file in (PICTURE, BEST):
                if (made.path / file).is_file():
                    tracker.log_artifact(made.path / file)
            status = "FINISHED"
        except (Cancelled, KeyboardInterrupt):
            status = "KILLED"
            raise
        finally:
            unsent = tracker.close(status)
        if unsent:
            display.warn(unsent)
    answer = _answer(outcomes, made)
    if as_json:
        print(json.dumps(answer, indent=2, ensure_ascii=False))
    else:
        print_sweep(answer)
    if made.facts.failed == made.facts.points:
        raise TrainingError(f"every point failed; the first one: {outcomes[0].error}")


def _outcome(
    name: str, settings: dict[str, str], config: PipelineConfig, space: Workspace, tracker: Tracker, report: Reporter
) -> Outcome:
    """Train one point, or take what has been trained; an error of its own is its outcome."""
    from longcat.corpus.stage import preprocess
    from longcat.interchange.checkpoint_folder import CheckpointFolder
    from longcat.training.metrics import read_metrics
    from longcat.training.stage import pretrain
    from longcat.training.sweep import SCORES, Outcome

    try:
        with tracker.stage(name) as run:
            run.log_params(config.model_dump(mode="json"))
            tokens = preprocess(config, workspace=space, report=report)
            run.log_input(tokens, context="training")
            made = pretrain(config, tokens, workspace=space, report=report, on_metrics=run.log_records)
            if made.cached:
                run.log_records(read_metrics(CheckpointFolder(made.path).metrics))
            run.set_tags({"artifact": f"{made.kind}/{made.digest}", "cached": str(made.cached).lower()})
            outcome = Outcome(name, settings, config, made)
            run.log_metrics({key: value for key in SCORES if (value := outcome.score(key)) is not None})
            return outcome
    except _ENDS_ALL:
        raise
    except LongcatError as error:
        return Outcome(name, settings, config, error=str(error))


def _answer(outcomes: list[Outcome], made: Artifact[SweepFacts]) -> dict[str, Any]:
    """Return what the command prints: what the sweep holds, and whether each point was trained for it."""
    from longcat.training.sweep import BEST, PICTURE, RESULT
    from longcat.unpacking import read_json

    points = [
        row | {"status": "failed" if one.checkpoint is None else "cached" if one.checkpoint.cached else "run"}
        for row, one in zip(read_json(made.path / RESULT)["points"], outcomes, strict=True)
    ]
    files = {"config": made.path / BEST, "picture": made.path / PICTURE}
    return {
        "score": made.facts.score,
        "best": made.facts.best,
        "best_score": made.facts.best_score,
        **{name: str(path) if path.is_file() else None for name, path in files.items()},
        "sweep": made.digest,
        "workspace": str(made.path.parents[1]),
        "points": points,
    }
