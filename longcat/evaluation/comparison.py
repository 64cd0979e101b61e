"""Comparison of two checkpoints by the answers they gave to the same items, and curves over several."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from longcat.artifact import Artifact, Facts, Recipe, Workspace, read_manifest, write_json
from longcat.errors import ArtifactError, ConfigError, DataError
from longcat.evaluation import bootstrap
from longcat.evaluation.champion import held_out_text
from longcat.evaluation.gates import is_score, lower_is_better
from longcat.evaluation.held_out import SEQUENCES
from longcat.evaluation.stage import EvaluationFacts
from longcat.interchange.checkpoint_facts import CheckpointFacts
from longcat.provenance import code_of
from longcat.unpacking import parse_json

STAGE_VERSION = 2
SIGNIFICANT = 0.05
_SAMPLES = "samples"


@dataclass(frozen=True)
class Row:
    """A score of both checkpoints, and what the difference is worth."""

    subject: str
    metric: str
    first: float
    second: float
    low: float
    """Lower end of the 95 % interval of second minus first."""
    high: float
    p: float
    """Two-sided, of this comparison alone."""
    adjusted_p: float
    """The same among all comparisons (Holm)."""
    items: int
    gained: int | None
    """Items that only the second one has right; None where an item is not right or wrong."""
    lost: int | None
    """Items that only the first one has right."""
    lower_is_better: bool
    paired: bool
    """Whether both were asked the same items."""

    @property
    def name(self) -> str:
        """Return `SUBJECT/METRIC`."""
        return f"{self.subject}/{self.metric}"

    @property
    def verdict(self) -> str:
        """Return `better` or `worse` of the second one, or `no clear difference`."""
        if self.adjusted_p >= SIGNIFICANT or self.first == self.second:
            return "no clear difference"
        return "better" if (self.second < self.first) is self.lower_is_better else "worse"

    @property
    def effect(self) -> str:
        """Return the difference in words."""
        if self.gained is not None:
            change = f"{self.gained} of {self.items} items gained, {self.lost} lost"
            return f"{change}, {100 * (self.second - self.first):+.1f} percentage points"
        if self.first:
            return f"{100 * (self.second / self.first - 1):+.2f} %"
        return f"{self.second - self.first:+.4g}"


class ComparisonFacts(Facts):
    """What a comparison found."""

    first: str
    """Digest of the first checkpoint."""
    second: str
    """Digest of the second one."""
    better: list[str]
    """Scores that the second one is better by, beyond chance."""
    worse: list[str]
    """Scores that it is worse by, beyond chance."""
    undecided: list[str]
    """Scores that chance alone could explain the difference of."""
    notes: list[str]
    """What could not be compared, and why."""

    @property
    def headline(self) -> str:
        """Return in how many scores the second one is better."""
        return f"{len(self.better)} better, {len(self.worse)} worse, {len(self.undecided)} without clear difference"

    @property
    def figures(self) -> dict[str, float | None]:
        """Return the counts."""
        return {
            "better": float(len(self.better)),
            "worse": float(len(self.worse)),
            "undecided": float(len(self.undecided)),
        }

    def remarks(self, artifact: Path) -> list[str]:
        """Return the notes, and where the page is."""
        return [*self.notes, f"Comparison: {artifact / 'report.html'}"]


Evaluation = Artifact[EvaluationFacts]


def compare(evaluations: Sequence[Evaluation], workspace: Workspace) -> Artifact[ComparisonFacts]:
    """Compare the first two of some evaluations, and draw the curves of all against the tokens trained on.

    Returns:
        A `comparison` artifact: `result.json`, `report.html`, `report.md`.

    Raises:
        DataError: samples cannot be read.
        ConfigError: there is nothing that both were scored by.
    """
    from longcat.evaluation.comparison_page import write

    recipe = Recipe(
        kind="comparison",
        facts=ComparisonFacts,
        version=STAGE_VERSION,
        identity={"resamples": bootstrap.RESAMPLES, "level": bootstrap.LEVEL},
        parents=tuple(evaluations),
        sources=code_of(__name__),
    )

    def build(directory: Path) -> ComparisonFacts:
        first, second = evaluations[:2]
        rows, notes = compare_items(first, second, workspace.path)
        result: dict[str, Any] = {
            "first": describe(first, workspace.path),
            "second": describe(second, workspace.path),
            "rows": [asdict(row) | {"verdict": row.verdict, "effect": row.effect} for row in rows],
            "notes": notes,
            "curves": curves(evaluations, workspace.path),
            "resamples": bootstrap.RESAMPLES,
        }
        write_json(directory / "result.json", result)
        write(result, directory)
        found = {word: [row.name for row in rows if row.verdict == word] for word in ("better", "worse")}
        return ComparisonFacts(
            first=result["first"]["checkpoint"],
            second=result["second"]["checkpoint"],
            better=found["better"],
            worse=found["worse"],
            undecided=[row.name for row in rows if row.verdict not in found],
            notes=notes,
        )

    return workspace.materialize(recipe, build)


def compare_items(first: Evaluation, second: Evaluation, workspace: Path) -> tuple[list[Row], list[str]]:
    """Compare the scores of two evaluations by their items; also returns what could not be compared.

    Raises:
        DataError: samples cannot be read.
        ConfigError: there is nothing that both were scored by.
    """
    rows: list[Row] = []
    notes: list[str] = []
    for found in (_held_out(first, second, workspace), *_tasks(first, second)):
        if isinstance(found, str):
            notes.append(found)
        elif found is not None:
            rows.append(found)
    if not rows:
        raise ConfigError("there is nothing to compare" + (f": {'; '.join(notes)}" if notes else ""))
    adjusted = bootstrap.adjusted([row.p for row in rows])
    return [Row(**(asdict(row) | {"adjusted_p": p})) for row, p in zip(rows, adjusted, strict=True)], notes


def curves(evaluations: Sequence[Evaluation], workspace: Path) -> dict[str, list[list[float]]]:
    """Return each score as pairs of tokens trained on and value, by `SUBJECT/METRIC`; none where tokens are not known.

    Standard errors, chance lines and counts are none of them.
    """
    found: dict[str, list[list[float]]] = {}
    for evaluation in evaluations:
        tokens = describe(evaluation, workspace)["tokens"]
        if tokens:
            for name, value in evaluation.facts.figures.items():
                if value is not None and is_score(name):
                    found.setdefault(name, []).append([float(tokens), value])
    return {name: sorted(points) for name, points in found.items() if len({tokens for tokens, _ in points}) > 1}


def describe(evaluation: Evaluation, workspace: Path) -> dict[str, Any]:
    """Return the digests of an evaluation and of its checkpoint, and what the checkpoint says of itself, if it is here."""
    checkpoint = checkpoint_of(evaluation)
    found: dict[str, Any] = {"evaluation": evaluation.digest, "checkpoint": checkpoint, "tokens": None, "headline": ""}
    try:
        facts = read_manifest(workspace / "checkpoint" / checkpoint, CheckpointFacts).facts
    except ArtifactError:
        return found
    return found | {"tokens": facts.tokens or None, "headline": facts.headline}


def checkpoint_of(evaluation: Evaluation) -> str:
    """Return the digest of the checkpoint that was scored."""
    return next(str(one["digest"]) for one in evaluation.manifest["parents"] if one["kind"] == "checkpoint")


def _held_out(first: Evaluation, second: Evaluation, workspace: Path) -> Row | str | None:
    """Compare bits per byte: by pairs of sequences of the same tokens, and otherwise by all of the same text."""
    paths = [one.path / SEQUENCES for one in (first, second)]
    missing = [path.parent.name[:12] for path in paths if not path.is_file()]
    if len(missing) == 2:
        return None
    if missing:
        return f"held_out: {missing[0]} was not scored by it"
    a, b = ({str(one["sequence"]): one for one in _lines(path)} for path in paths)
    both = sorted(a.keys() & b.keys())
    if both:
        first_bits, second_bits = ([float(of[number]["bits"]) for number in both] for of in (a, b))
        found = bootstrap.paired(first_bits, second_bits, [float(a[number]["bytes"]) for number in both])
    else:
        texts = [held_out_text(one, workspace) for one in (first, second)]
        if texts[0] is None or texts[0] != texts[1]:
            return "held_out: the two have other held-out texts"
        columns = [
            ([float(one["bits"]) for one in of.values()], [float(one["bytes"]) for one in of.values()]) for of in (a, b)
        ]
        found = bootstrap.unpaired(*columns)
    return _row("held_out", "bits_per_byte", found, None, None, paired=bool(both))


def _tasks(first: Evaluation, second: Evaluation) -> Iterator[Row | str]:
    files = [{path.name: path for path in sorted((one.path / _SAMPLES).glob("*.jsonl"))} for one in (first, second)]
    for name in sorted(files[0].keys() | files[1].keys()):
        task = unquote(name.removesuffix(".jsonl"))
        if not all(name in of for of in files):
            yield f"{task}: only one of the two was scored by it"
            continue
        yield from _task(task, *([_item(one, of[name]) for one in _lines(of[name])] for of in files))


def _task(task: str, first: list[dict[str, Any]], second: list[dict[str, Any]]) -> Iterator[Row | str]:
    """Compare the answers to a task, for each metric that says something of each item."""
    asked = [{(one["document"], one["filter"]): one for one in answers} for answers in (first, second)]
    both = [key for key in asked[0] if key in asked[1]]
    if any(asked[0][key]["target"] != asked[1][key]["target"] for key in both):
        yield f"{task}: the two were asked other items under the same numbers"
        return
    if not both:
        yield f"{task}: no item was asked of both"
        return
    if left := len(asked[0].keys() ^ asked[1].keys()):
        yield f"{task}: {left} items were asked of one of the two only, and are left out"
    if changed := sum(asked[0][key]["prompt"] != asked[1][key]["prompt"] for key in both):
        yield f"{task}: {changed} of {len(both)} items were asked by another prompt"
    filters = sorted({of for _, of in both})
    for used in filters:
        keys = [key for key in both if key[1] == used]
        metrics = sorted({name for key in keys for name in asked[0][key]["scores"]})
        for metric in metrics:
            values = [[found[key]["scores"].get(metric) for key in keys] for found in asked]
            if any(not isinstance(value, int | float) for column in values for value in column):
                continue
            a, b = ([float(value) for value in column] for column in values)
            counted = {*a, *b} <= {0.0, 1.0}
            name = metric if used == "none" else f"{metric}.{used}"
            yield _row(
                task,
                name,
                bootstrap.paired(a, b),
                sum(y > x for x, y in zip(a, b, strict=True)) if counted else None,
                sum(y < x for x, y in zip(a, b, strict=True)) if counted else None,
            )


def _row(
    subject: str, metric: str, found: bootstrap.Difference, gained: int | None, lost: int | None, *, paired: bool = True
) -> Row:
    p = found.p if gained is None or lost is None else max(found.p, bootstrap.sign_test(gained, lost))
    return Row(
        subject=subject,
        metric=metric,
        first=found.first,
        second=found.second,
        low=found.low,
        high=found.high,
        p=p,
        adjusted_p=p,
        items=found.items,
        gained=gained,
        lost=lost,
        lower_is_better=lower_is_better(f"{subject}/{metric}"),
        paired=paired,
    )


def _item(sample: dict[str, Any], path: Path) -> dict[str, Any]:
    missing = {"document", "filter", "prompt", "target", "scores"} - sample.keys()
    if missing or not isinstance(sample["scores"], dict):
        raise DataError(f"{path}: a sample has no {', '.join(sorted(missing)) or 'scores by metric'}")
    return sample


def _lines(path: Path) -> list[dict[str, Any]]:
    found = []
    try:
        for number, line in enumerate(path.read_bytes().splitlines(), 1):
            value = parse_json(line)
            if not isinstance(value, dict):
                raise ValueError(f"line {number} is no object")
            found.append(value)
    except (OSError, ValueError) as error:
        raise DataError(f"cannot read {path}: {error}") from None
    return found
