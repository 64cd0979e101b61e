"""`longcat sweep`: train one model for each point of a grid of settings, and compare them."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import replace
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
    from longcat.training.search import Choices
    from longcat.training.sweep import Outcome, Point, SweepFacts

Values = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        "-s",
        rich_help_panel="Settings",
        metavar="a.b=c,d",
        help="A setting, and its values divided by commas (or with --trials LOW..HIGH); may be repeated.",
    ),
]
_SCORES = "final_loss, held_out_loss, tokens_per_second, mfu, or a score of longcat evaluate, as held_out/bits_per_byte"
Score = Annotated[
    str | None,
    typer.Option("--score", metavar="NAME", help=f"What points are judged by (default: final_loss): {_SCORES}."),
]
Minimize = Annotated[
    str | None, typer.Option("--minimize", metavar="NAME", help="As --score; the lowest is the best, whatever it is.")
]
Maximize = Annotated[
    str | None, typer.Option("--maximize", metavar="NAME", help="As --score; the highest is the best.")
]
Trials = Annotated[
    int | None,
    typer.Option(
        "--trials", metavar="N", min=1, help="Have Optuna choose N points in lists and ranges, as a.b=1e-4..1e-2."
    ),
]
_ENDS_ALL = Cancelled, StorageError, WorkspaceBusyError
"""Errors that the next point would end with as well."""


def sweep(
    preset: Preset = None,
    config: ConfigFile = None,
    set_: Values = None,
    score: Score = None,
    minimize: Minimize = None,
    maximize: Maximize = None,
    trials: Trials = None,
    workspace: WorkspacePath = Path("workspace"),
    as_json: Json = False,
) -> None:
    """Train a model for each combination of settings, or for those that Optuna chooses, and tell which one is best."""
    from longcat.artifact import Workspace
    from longcat.config import load_config
    from longcat.disk import disk_errors
    from longcat.flows.dag import TRAINING, check, stages_of
    from longcat.tables import print_sweep
    from longcat.terminal import Display, redirected_output
    from longcat.tracking import Tracker
    from longcat.tracking.names import run_name
    from longcat.training.given_start import with_start
    from longcat.training.room import doubts
    from longcat.training.search import all_of, sampled
    from longcat.training.sweep import BEST, PICTURE, SCORES, names_of, record_sweep
    from longcat.ui_pages import pages_of_mlflow, run_page

    config_file = None if config is None else str(config)
    score, higher = _aim(score, minimize, maximize)
    fixed, points, grid = _points(set_ or (), trials)

    def config_of(point: Point) -> PipelineConfig:
        return load_config(preset, config, [*fixed, *point.overrides])

    configs = [config_of(point) for point in points]
    space = Workspace(workspace.expanduser().resolve())
    configs = [with_start(one, space) for one in configs]
    for one in configs:  # before the first of them is trained
        check(one, stages_of(TRAINING))
    if score not in SCORES:
        _check_score(configs[0], score)
    if grid is None:
        proposals = all_of(points)
    else:
        proposals = sampled(grid, trials or 0, configs[0].seed, higher)
    first = next(proposals)
    outcomes: list[Outcome] = []
    status, unsent = "FAILED", None
    with (
        disk_errors(space.path),
        space.lease(),
        Display(quiet=as_json) as display,
        redirected_output(space.path / "logs" / "run.log", display.warn),
    ):
        tracker = Tracker(space, configs[0], "sweep", config_file, set_ or ())
        try:
            for doubt in dict.fromkeys(doubt for one in configs for doubt in doubts(one, space.path)):
                display.warn(doubt)
            point: Point | None = first
            while point is not None:
                [name] = names_of([point])
                one = with_start(config_of(point), space)
                shown = run_name(TRAINING, one.preset, config_file, [*fixed, *point.overrides])
                outcomes.append(_outcome(name, shown, point.settings, one, space, tracker, display, score))
                if error := outcomes[-1].error:
                    display.warn(f"{name} failed: {error}")
                try:
                    point = proposals.send(outcomes[-1].score(score))
                except StopIteration:
                    point = None
            made = record_sweep(outcomes, score, space, higher, sampled=grid is not None)
            tracker.run.log_metrics({key: value for key, value in made.facts.figures.items() if value is not None})
            tracker.run.set_note(_note(outcomes, made, tracker.command))
            for file in (PICTURE, BEST):
                if (made.path / file).is_file():
                    tracker.run.log_artifact(made.path / file)
            status = "FINISHED"
        except (Cancelled, KeyboardInterrupt):
            status = "KILLED"
            raise
        finally:
            unsent = tracker.close(status)
        if unsent:
            display.warn(unsent)
    answer = _answer(outcomes, made) | {"mlflow_page": None}
    if tracker.experiment_id is not None and (run := tracker.run_id()) is not None:
        answer["mlflow_page"] = run_page(pages_of_mlflow(space.path), tracker.experiment_id, run)
    if as_json:
        print(json.dumps(answer, indent=2, ensure_ascii=False))
    else:
        print_sweep(answer)
    if made.facts.failed == made.facts.points:
        raise TrainingError(f"every point failed; the first one: {outcomes[0].error}")


def _outcome(
    name: str,
    shown: str,
    settings: dict[str, str],
    config: PipelineConfig,
    space: Workspace,
    tracker: Tracker,
    report: Reporter,
    score: str,
) -> Outcome:
    """Train one point, or take what has been trained; an error of its own is its outcome.

    Args:
        name: of the point.
        shown: what its run in MLflow is called.
        settings: what differs between the points.
        config: of this point.
        space: where it is made.
        tracker: of the sweep.
        report: hears of progress.
        score: what points are judged by.
    """
    from longcat.corpus.stage import preprocess
    from longcat.flows.dag import TRAINING
    from longcat.interchange.checkpoint_folder import CheckpointFolder
    from longcat.progress import Progress
    from longcat.tracking.record import log_manifests
    from longcat.training.metrics import read_metrics
    from longcat.training.stage import pretrain
    from longcat.training.sweep import SCORES, Outcome

    try:
        with tracker.stage(name, shown) as run, run.watch_machine(space.path):
            run.set_tags({"stage": TRAINING})
            run.log_params(config.model_dump(mode="json"))
            tokens = preprocess(config, workspace=space, report=report)
            run.log_input(tokens, context="training")
            made = pretrain(config, tokens, workspace=space, report=report, on_metrics=run.log_records)
            report(Progress(TRAINING, 1, 1, f"{name}: {'reused: ' if made.cached else ''}{made.facts.headline}"))
            if made.cached:
                run.log_records(read_metrics(CheckpointFolder(made.path).metrics))
            run.set_tags({"artifact": f"{made.kind}/{made.digest}", "cached": str(made.cached).lower()})
            log_manifests(run, made)
            run.log_artifact(CheckpointFolder(made.path).metrics)
            outcome = Outcome(
                name, settings, config, made, evaluation=_scores(config, tokens, made, space, report, score)
            )
            told = {key: value for key in (*SCORES, score) if (value := outcome.score(key)) is not None}
            run.log_metrics(told)
            if score not in told:
                outcome = replace(outcome, error=f"it has no {score}")
            return outcome
    except _ENDS_ALL:
        raise
    except LongcatError as error:
        return Outcome(name, settings, config, error=str(error))


def _note(outcomes: list[Outcome], made: Artifact[SweepFacts], command: str | None) -> str:
    """Describe a sweep for MLflow's page of it."""
    from longcat.printable import markdown_text
    from longcat.tracking.notes import code, code_block, next_commands, table
    from longcat.training.sweep import SCORES

    rows = []
    for one in outcomes:
        values = [one.score(name) for name in SCORES]
        cells = ["-" if value is None else f"{value:.6g}" for value in values]
        rows.append([markdown_text(one.name), *cells, "" if one.error is None else markdown_text(one.error)])
    commands = [*([] if command is None else [command]), *next_commands(made.kind, made.digest, made.path)]
    return "\n\n".join(
        [
            f"**{markdown_text(made.facts.headline)}**",
            table(["point", *(name.replace("_", " ") for name in SCORES), "error"], rows),
            f"* Result: {code(made.path)}",
            code_block(commands),
        ]
    )


def _scores(
    config: PipelineConfig, tokens: Artifact[Any], made: Artifact[Any], space: Workspace, report: Reporter, score: str
) -> Artifact[Any] | None:
    """Evaluate a point, if it is judged by a score of the evaluation."""
    from longcat.evaluation.stage import evaluate, refuse_failures
    from longcat.training.sweep import SCORES

    if score in SCORES:
        return None
    scored = evaluate(config, tokens, made, workspace=space, report=report)
    refuse_failures(scored)
    return scored


def _aim(score: str | None, minimize: str | None, maximize: str | None) -> tuple[str, bool]:
    """Return the name that points are judged by, and whether a higher one is better."""
    from longcat.evaluation.gates import lower_is_better
    from longcat.training.sweep import SCORES

    given = {"--score": score, "--minimize": minimize, "--maximize": maximize}
    named = {option: name for option, name in given.items() if name is not None}
    if len(named) > 1:
        raise ConfigError(f"{' and '.join(named)} exclude one another")
    [(option, name)] = named.items() or [("--score", "final_loss")]
    if name not in SCORES and "/" not in name:
        raise ConfigError(
            f"{option} {name}: there are {', '.join(SCORES)}, and scores of longcat evaluate as held_out/bits_per_byte"
        )
    if option != "--score":
        return name, option == "--maximize"
    return name, SCORES[name] if name in SCORES else not lower_is_better(name)


def _check_score(config: PipelineConfig, score: str) -> None:
    """Refuse a score that the evaluation will not give."""
    from longcat.config.evaluation import Gate
    from longcat.evaluation.checks import check_evaluation

    gated = config.evaluation.model_copy(update={"gates": [Gate(score=score, at_least=0)]})
    try:
        check_evaluation(config.model_copy(update={"evaluation": gated}))
    except ConfigError as error:
        raise ConfigError(str(error).removeprefix("evaluation.gates: ")) from None


def _points(overrides: Iterable[str], trials: int | None) -> tuple[list[str], list[Point], Choices | None]:
    """Return the settings of one value; the points to check beforehand, which are all of a grid; and what a sampler chooses of."""
    from longcat.training.search import ends_of, range_among, split_choices
    from longcat.training.sweep import split_overrides

    if trials is not None:
        fixed, choices = split_choices(overrides)
        return fixed, ends_of(choices), choices
    if key := range_among(overrides):
        raise ConfigError(f"--set {key}: a range needs --trials N; a grid needs values divided by commas")
    fixed, points = split_overrides(overrides)
    return fixed, points, None


def _answer(outcomes: list[Outcome], made: Artifact[SweepFacts]) -> dict[str, Any]:
    """Return what the command prints: what the sweep holds, and whether each point was trained for it."""
    from longcat.training.sweep import BEST, PICTURE, RESULT
    from longcat.unpacking import read_json

    points = [
        row
        | {"status": "failed" if one.checkpoint is None or one.error else "cached" if one.checkpoint.cached else "run"}
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
