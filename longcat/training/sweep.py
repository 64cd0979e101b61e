"""A sweep over settings: the points of a grid or of a sampler (`search.py`), what each of them came to, and which one was best.

`sweep/DIGEST/` holds result.json (a row for each point), sweep.png (the score over the first setting) and best.yaml, the
configuration of the best one. Its parents are the checkpoints of all points that were trained.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from longcat.artifact import Artifact, Facts, Recipe, Workspace, write_json
from longcat.config import PipelineConfig
from longcat.errors import ConfigError
from longcat.figures import BLUE, GREEN, GREY, ORANGE, VIOLET, canvas, canvas_of, legend, png
from longcat.interchange.checkpoint_facts import CheckpointFacts
from longcat.provenance import code_of

SCORES = {"final_loss": False, "held_out_loss": False, "tokens_per_second": True, "mfu": True}
"""Facts of a checkpoint that points can be judged by, and whether more is better."""
RESULT, PICTURE, BEST = "result.json", "sweep.png", "best.yaml"
STAGE_VERSION = 1
_PANELS = 4
_DECADES = 50
"""Ratio of numbers from which on a panel has a logarithmic axis: below it there would be one number on the axis."""
_COLOURS = (BLUE, ORANGE, GREEN, VIOLET, GREY)


@dataclass(frozen=True)
class Point:
    """One combination of values."""

    settings: dict[str, str]
    """Value of each swept setting, by its key, as it was written."""

    @property
    def overrides(self) -> list[str]:
        """Return the settings as `--set` takes them."""
        return [f"{key}={value}" for key, value in self.settings.items()]


@dataclass(frozen=True)
class Outcome:
    """What a point came to."""

    name: str
    """What differs between the points, in short."""
    settings: dict[str, str]
    config: PipelineConfig
    checkpoint: Artifact[CheckpointFacts] | None = None
    error: str | None = None
    """Why there is no checkpoint, or no evaluation that was asked for."""
    evaluation: Artifact[Any] | None = None
    """Scores of the checkpoint, where the sweep asks for them."""

    def score(self, name: str) -> float | None:
        """Return a fact of `SCORES`, or a score of the evaluation, `SUBJECT/METRIC`; None where there is none."""
        if name not in SCORES:
            found = {} if self.evaluation is None else self.evaluation.facts.figures
            value = found.get(name)
        else:
            value = None if self.checkpoint is None else getattr(self.checkpoint.facts, name)
        return None if value is None or not math.isfinite(value) else float(value)


class SweepFacts(Facts):
    """Key figures of a sweep."""

    score: str
    """Name of the fact that points are judged by."""
    points: int
    """Combinations of settings."""
    failed: int
    """Combinations whose training failed."""
    best: str | None
    """Name of the best point; none if no point has a score."""
    best_score: float | None
    """Score of the best point."""

    @property
    def headline(self) -> str:
        """The best point and its score."""
        return "no point has a score" if self.best is None else f"{self.best}: {self.score} {self.best_score:.4g}"

    @property
    def figures(self) -> dict[str, float | None]:
        """The best score."""
        return {f"best/{self.score}": self.best_score}


def split_overrides(overrides: Iterable[str]) -> tuple[list[str], list[Point]]:
    """Divide `KEY=VALUE` overrides into those of one value, and the grid of all combinations of those with several.

    Raises:
        ConfigError: none has several values; see `split_values` for others.
    """
    fixed, swept = split_values(overrides)
    if not swept:
        raise ConfigError(
            "a sweep needs a setting with several values, for example --set training.optimizer.learning_rate=1e-3,2e-3,4e-3"
        )
    return fixed, [Point(dict(zip(swept, one, strict=True))) for one in itertools.product(*swept.values())]


def split_values(overrides: Iterable[str]) -> tuple[list[str], dict[str, list[str]]]:
    """Divide `KEY=VALUE` overrides into those of one value, and the lists of those with several, by their keys.

    Values are divided by commas; one within brackets, braces or quotes belongs to its value.

    Raises:
        ConfigError: a value is empty or there twice, or a key is there twice.
    """
    fixed, swept = [], dict[str, list[str]]()
    for override in overrides:
        key, _, text = override.partition("=")
        values = [value.strip() for value in _divided(text)]
        if len(values) < 2:
            fixed.append(override)
            continue
        if key in swept:
            raise ConfigError(f"--set {key}: two lists of values; give all of them in one")
        if repeated := [value for value, count in Counter(values).items() if count > 1 or not value]:
            raise ConfigError(f"--set {override!r}: the value {repeated[0]!r} is empty or there twice")
        swept[key] = values
    return fixed, swept


def names_of(points: Sequence[Point]) -> list[str]:
    """Return a short name for each point: the last parts of its keys, as many as tell them apart, with their values."""
    keys = list(points[0].settings)
    short = {key: key.rpartition(".")[2] for key in keys}
    if len(set(short.values())) < len(keys):
        short = dict(zip(keys, keys, strict=True))
    return [", ".join(f"{short[key]}={value}" for key, value in point.settings.items()) for point in points]


def best_of(outcomes: Sequence[Outcome], score: str, higher: bool) -> Outcome | None:
    """Return the outcome with the best score, the highest or the lowest, the first of equal ones; None if none has it."""
    scored = [(value, one) for one in outcomes if (value := one.score(score)) is not None]
    if not scored:
        return None
    sign = -1 if higher else 1
    return min(scored, key=lambda of: sign * of[0])[1]


def record_sweep(
    outcomes: Sequence[Outcome], score: str, workspace: Workspace, higher: bool | None = None, sampled: bool = False
) -> Artifact[SweepFacts]:
    """Make the artifact of a sweep, or return the one of the same outcomes.

    Args:
        outcomes: of its points, in the order in which they were trained.
        score: name of the fact, or of the evaluation's score, that they are judged by.
        workspace: where the artifact goes.
        higher: whether a higher score is a better one; by default as `SCORES` has it.
        sampled: whether the points are those of a sampler, and no grid.
    """
    higher = SCORES[score] if higher is None else higher
    rows = [
        {
            "name": one.name,
            "settings": one.settings,
            "checkpoint": None if one.checkpoint is None else one.checkpoint.digest,
            "error": one.error,
            **{name: one.score(name) for name in dict.fromkeys((*SCORES, score))},
            **({} if one.evaluation is None else {"evaluation": one.evaluation.digest}),
        }
        for one in outcomes
    ]
    best = best_of(outcomes, score, higher)
    unusual = {} if higher == SCORES.get(score) and not sampled else {"higher": higher, "sampled": sampled}
    recipe = Recipe(
        kind="sweep",
        facts=SweepFacts,
        version=STAGE_VERSION,
        identity={"score": score, "points": rows, **unusual},
        parents=tuple(made for one in outcomes for made in (one.checkpoint, one.evaluation) if made is not None),
        sources=code_of(__name__),
    )

    def build(directory: Path) -> SweepFacts:
        write_json(directory / RESULT, {"score": score, "best": None if best is None else best.name, "points": rows})
        if best is not None:
            text = yaml.safe_dump(best.config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
            (directory / BEST).write_text(text, encoding="utf-8")
            (directory / PICTURE).write_bytes(_scatter(outcomes, score, best) if sampled else _picture(outcomes, score))
        return SweepFacts(
            score=score,
            points=len(outcomes),
            failed=sum(one.error is not None for one in outcomes),
            best=None if best is None else best.name,
            best_score=None if best is None else best.score(score),
        )

    return workspace.materialize(recipe, build)


def _picture(outcomes: Sequence[Outcome], score: str) -> bytes:
    """Draw the score over the first setting, a line for each combination of the others."""
    first = next(iter(outcomes[0].settings))
    values = list(dict.fromkeys(one.settings[first] for one in outcomes))
    numbers = _numbers(values)
    figure, axes = canvas(3.6, narrow=False)
    lines: dict[str, list[tuple[float, float]]] = {}
    for one in outcomes:
        value = one.score(score)
        if value is not None:
            others = ", ".join(f"{key.rpartition('.')[2]}={of}" for key, of in one.settings.items() if key != first)
            place = values.index(one.settings[first])
            lines.setdefault(others, []).append((float(place) if numbers is None else numbers[place], value))
    for number, (label, points) in enumerate(lines.items()):
        axes.plot(*zip(*sorted(points), strict=True), "o-", color=_COLOURS[number % len(_COLOURS)], label=label)
    if numbers is not None and min(numbers) > 0 and max(numbers) >= 4 * min(numbers):
        axes.set_xscale("log")
    axes.set_xticks(range(len(values)) if numbers is None else numbers, values)
    axes.minorticks_off()
    axes.set_xlabel(first)
    axes.set_ylabel(score.replace("_", " "))
    if len(lines) > 1:
        legend(figure, columns=3)
    return png(figure)


def _scatter(outcomes: Sequence[Outcome], score: str, best: Outcome) -> bytes:
    """Draw the score of each point over each setting, side by side, with the best one marked."""
    settings = list(best.settings)[:_PANELS]
    figure = canvas_of(3.6, narrow=False)
    panels = figure.subplots(1, len(settings), sharey=True, squeeze=False)[0]
    scored = [(one, value) for one in outcomes if (value := one.score(score)) is not None]
    for axes, setting in zip(panels, settings, strict=True):
        values = list(dict.fromkeys(one.settings[setting] for one, _ in scored))
        numbers = _numbers(values)
        places = dict(zip(values, numbers or map(float, range(len(values))), strict=True))
        for one, value in scored:
            mark = {"color": ORANGE, "s": 70, "marker": "*", "zorder": 3} if one is best else {"color": BLUE, "s": 22}
            axes.scatter(places[one.settings[setting]], value, **mark)
        if numbers is None:
            axes.set_xticks(range(len(values)), values)
            axes.set_xlim(-0.5, len(values) - 0.5)
        elif min(numbers) > 0 and max(numbers) >= _DECADES * min(numbers):
            axes.set_xscale("log")
        axes.set_xlabel(setting if len(settings) == 1 else setting.rpartition(".")[2])
        axes.grid(alpha=0.3)
    panels[0].set_ylabel(score.replace("_", " "))
    return png(figure)


def _numbers(values: Sequence[str]) -> list[float] | None:
    try:
        return [float(value) for value in values]
    except ValueError:
        return None


def _divided(text: str) -> list[str]:
    """Divide a text at the commas that are in no brackets, braces or quotes."""
    parts, depth, quote = [""], 0, ""
    for letter in text:
        if quote:
            quote = "" if letter == quote else quote
        elif letter in "'\"":
            quote = letter
        else:
            depth += (letter in "[{(") - (letter in "]})")
        if letter == "," and not depth and not quote:
            parts.append("")
        else:
            parts[-1] += letter
    return parts
