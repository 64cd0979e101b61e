"""`longcat evaluate` and `longcat benchmark`: the flows, for a checkpoint that is trained or named; and comparisons."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from longcat.commands.options import CHECKPOINT_HELP, ConfigFile, Json, Overrides, Preset, Rehash, WorkspacePath
from longcat.commands.run import flow_summary, run_flow
from longcat.errors import ConfigError
from longcat.printable import printable

Checkpoint = Annotated[
    str | None,
    typer.Option(metavar="DIR|DIGEST", help=f"Take this checkpoint instead of training one. {CHECKPOINT_HELP}"),
]
_COMPARISON = "Comparison"
Compare = Annotated[
    tuple[str, str] | None,
    typer.Option(
        metavar="A B",
        rich_help_panel=_COMPARISON,
        help="Test which of two checkpoints or evaluations is better, by folder or digest; a checkpoint without scores is scored "
        "first. For settings, curves and cost of runs, there is longcat compare.",
    ),
]
More = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[C ...]",
        rich_help_panel=_COMPARISON,
        help="With --compare: more of them, for curves over the tokens trained on.",
    ),
]


def benchmark_command(title: str) -> Callable[..., None]:
    """Make the command `benchmark`, with this help text."""

    def command(
        preset: Preset = None,
        config: ConfigFile = None,
        set_: Overrides = None,
        workspace: WorkspacePath = Path("workspace"),
        checkpoint: Checkpoint = None,
        as_json: Json = False,
        rehash: Rehash = False,
    ) -> None:
        run_flow("benchmark", preset, config, set_, workspace, as_json, checkpoint, rehash)

    command.__doc__ = title
    return command


def evaluate_command(title: str) -> Callable[..., None]:
    """Make the command `evaluate`, with this help text."""

    def command(
        more: More = None,
        preset: Preset = None,
        config: ConfigFile = None,
        set_: Overrides = None,
        workspace: WorkspacePath = Path("workspace"),
        checkpoint: Checkpoint = None,
        compare: Compare = None,
        as_json: Json = False,
        rehash: Rehash = False,
    ) -> None:
        if compare is None:
            if more:
                raise ConfigError(f"{more[0]!r} belongs to --compare A B, or name it by --checkpoint")
            run_flow("evaluate", preset, config, set_, workspace, as_json, checkpoint, rehash)
            return
        if checkpoint is not None:
            raise ConfigError("--checkpoint and --compare exclude each other")

        def score(named: str) -> str:
            from longcat.tracking.names import UNJUDGED

            unjudged = [*(set_ or []), UNJUDGED]  # a comparison makes no champion, and ends for none
            summary = flow_summary("evaluate", preset, config, unjudged, workspace, as_json, named, rehash)
            return str(summary["stages"][-1]["artifact"]["path"])

        _compare([*compare, *(more or [])], workspace, score, as_json)

    command.__doc__ = title
    return command


def _compare(names: list[str], workspace: Path, score: Callable[[str], str], as_json: bool) -> None:
    """Compare evaluations; `score` makes the one of a checkpoint that has none, and returns its folder."""
    from longcat.artifact import Workspace, open_artifact
    from longcat.disk import disk_errors
    from longcat.evaluation.comparison import compare
    from longcat.evaluation.finding import find_evaluation
    from longcat.evaluation.stage import EvaluationFacts
    from longcat.training.given_state import state_as_checkpoint

    space = Workspace(workspace.expanduser().resolve())
    evaluations = []
    for name in names:
        checkpoint = state_as_checkpoint(name, space)
        found = find_evaluation(checkpoint, space)
        evaluations.append(found or open_artifact(Path(score(checkpoint)), EvaluationFacts))
    digests = [one.digest for one in evaluations]
    for number, digest in enumerate(digests):
        if digest in digests[:number]:
            raise ConfigError(f"--compare: {names[digests.index(digest)]} and {names[number]} are the same evaluation")
    with disk_errors(space.path), space.lease():
        made = compare(evaluations, space)
    if as_json:
        print((made.path / "result.json").read_text(encoding="utf-8"), end="")
        return
    print(printable((made.path / "report.md").read_text(encoding="utf-8")))
    print(json.dumps(str(made.path / "report.html"))[1:-1])
