"""Descriptions of runs, in Markdown: MLflow shows them on the page of a run, Prefect as an artifact."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from shlex import quote
from typing import Any

from longcat.artifact import Artifact
from longcat.printable import duration, markdown_text, printable

_MOST_FIGURES = 10


def stage_note(
    artifact: Artifact[Any],
    seconds: float,
    figures: Mapping[str, float],
    prefect: str | None,
    report: str | None = None,
) -> str:
    """Describe the run of a stage: what came of it, where it is, and a command that goes on from there.

    Args:
        artifact: what it has made or reused.
        seconds: that it took.
        figures: results, by name.
        prefect: address of the flow run's page, if it is known.
        report: name of a file of the artifact that the run has as well.
    """
    how = f"reused; it took {duration(artifact.seconds)}" if artifact.cached else f"made in {duration(seconds)}"
    shown = list(figures.items())[:_MOST_FIGURES]  # beside each other, as MLflow shows the first lines only
    results = (
        table([markdown_text(name) for name, _ in shown], [[f"{value:.6g}" for _, value in shown]]) if shown else ""
    )
    parts = [f"**{markdown_text(artifact.facts.headline)}** ({how})", results]
    if left := len(figures) - len(shown):
        parts.append(f"{left} more are among the metrics.")
    parts += [markdown_text(line) for line in artifact.facts.remarks(artifact.path)]
    parts += [_list([f"Result: {code(artifact.path)}", *_links(prefect), *([] if report is None else [f"Report: {code(report)}, among the artifacts of this run"])])]  # fmt: skip
    parts += ["Next:", code_block(next_commands(artifact.kind, artifact.digest, artifact.path))]
    return "\n\n".join(part for part in parts if part) + "\n"


def flow_note(
    rows: Sequence[Mapping[str, Any]],
    workspace: str,
    *,
    command: str | None = None,
    prefect: str | None = None,
    runs: Mapping[str, str | None] | None = None,
    error: str | None = None,
) -> str:
    """Describe the run of a flow: what each stage came to, and where that is.

    Args:
        rows: a row of the summary for each stage that has ended.
        workspace: folder of the results.
        command: that runs it again.
        prefect: address of the flow run's page, if it is known.
        runs: address of each stage's run in MLflow, None for one that MLflow has not been sent yet; without them there is no column.
        error: why it ended early.
    """
    columns = ["stage", "result", "time", *([] if runs is None else ["MLflow run"])]
    cells = []
    for row in rows:
        took = "cached" if row["status"] == "cached" else duration(row["seconds"])
        cell = [row["stage"], markdown_text(row["headline"]), took]
        if runs is not None:
            address = runs.get(row["stage"])
            cell.append("not sent yet" if address is None else f"[open]({address})")
        cells.append(cell)
    parts = [] if error is None else [f"**Stopped:** {markdown_text(error)}"]
    if rows:
        parts.append(f"**{markdown_text(rows[-1]['headline'])}**")
        parts.append(table(columns, cells))
    places = [f"{row['artifact']['kind']}: {code(row['artifact']['path'])}" for row in rows]
    parts.append(_list([*places, *_links(prefect)]))
    made = [row["artifact"] for row in rows]
    commands = [] if command is None else [command]
    for one in made[-1:] + [other for other in made[:-1] if other["kind"] == "checkpoint"]:
        commands += next_commands(one["kind"], one["digest"], Path(one["path"]))
    commands.append(f"longcat ui --workspace {quote(workspace)}")
    parts += ["Again, and next:" if command else "Next:", code_block(list(dict.fromkeys(commands)))]
    return "\n\n".join(part for part in parts if part) + "\n"


def next_commands(kind: str, digest: str, path: Path) -> list[str]:
    """Return commands that go on from a result."""
    show = f"longcat show {digest[:12]} --workspace {quote(str(path.parents[1]))}"
    if kind == "checkpoint":
        return [f"longcat generate --checkpoint {quote(str(path))} --prompt 'def main('", show]
    return [show]


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table of Markdown; the cells are Markdown."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def code(text: object) -> str:
    """Return a text as code in a line of Markdown."""
    return f"`{printable(str(text)).replace('`', ' ')}`"


def code_block(lines: Iterable[str]) -> str:
    """Return lines as a block of code, which can be copied."""
    return "\n".join(f"    {printable(line)}" for line in lines)


def _links(prefect: str | None) -> list[str]:
    return [] if prefect is None else [f"[Flow run in Prefect]({prefect})"]


def _list(lines: Iterable[str]) -> str:
    return "\n".join(f"* {line}" for line in lines)
