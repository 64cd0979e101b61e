"""Which points of a sweep are trained: all of a grid, or those that Optuna's sampler proposes within ranges.

The sampler is seeded and hears of each score before it is asked again, so the same sweep asks for the same points. One that was
killed goes on in this way: what it has trained is found in the workspace, and its score is told again.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from longcat.distribution import install_command
from longcat.errors import ConfigError
from longcat.training.sweep import Point, split_values

Proposals = Generator[Point, float | None, None]
"""Points; it is sent the score of each, None for one that has failed."""
_NUMBER = r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"
_RANGE = re.compile(rf"({_NUMBER})\.\.({_NUMBER})")
_WIDE = 10.0
"""Ratio of the ends of a range from which on its logarithm is what is sampled."""


@dataclass(frozen=True)
class Range:
    """Numbers between two ends, as they were written; whole ones if both ends are."""

    low: str
    high: str

    @property
    def whole(self) -> bool:
        """Whether it holds whole numbers only."""
        return all(re.fullmatch(r"[+-]?\d+", end) for end in (self.low, self.high))

    @property
    def logarithmic(self) -> bool:
        """Whether the ends are so far apart that their logarithm is sampled."""
        return float(self.low) > 0 and float(self.high) >= _WIDE * float(self.low)

    def suggest(self, trial: Any, key: str) -> str:
        """Ask a trial for a value; returns it with four digits, as it is set and shown."""
        if self.whole:
            return str(trial.suggest_int(key, int(self.low), int(self.high), log=self.logarithmic))
        value = trial.suggest_float(key, float(self.low), float(self.high), log=self.logarithmic)
        rounded = f"{value:.4g}"
        return rounded if float(self.low) <= float(rounded) <= float(self.high) else repr(value)


Choices = Mapping[str, Range | Sequence[str]]
"""A range, or a list of values, for each setting."""


def split_choices(overrides: Iterable[str]) -> tuple[list[str], dict[str, Range | Sequence[str]]]:
    """Divide `KEY=VALUE` overrides into those of one value, and those of a range (`LOW..HIGH`) or of several values.

    Raises:
        ConfigError: there is nothing to choose, a range is empty, a value is empty or there twice, or a key is.
    """
    rest, choices = [], dict[str, Range | Sequence[str]]()
    for override in overrides:
        key, _, text = override.partition("=")
        found = _RANGE.fullmatch(text.strip())
        if found is None:
            rest.append(override)
            continue
        if not float(found[1]) < float(found[2]):
            raise ConfigError(f"--set {override!r}: a range is LOW..HIGH, and {found[1]} is not below {found[2]}")
        if key in choices:
            raise ConfigError(f"--set {key}: two ranges; give one")
        choices[key] = Range(found[1], found[2])
    fixed, lists = split_values(rest)
    if both := sorted(lists.keys() & choices.keys()):
        raise ConfigError(f"--set {both[0]}: a range and a list of values; give one of them")
    if not lists and not choices:
        raise ConfigError(
            "a sweep needs a setting with several values, or a range of them, for example "
            "--set training.optimizer.learning_rate=1e-4..1e-2"
        )
    return fixed, {**choices, **lists}


def range_among(overrides: Iterable[str]) -> str | None:
    """Return the key of the first override that is a range; None if none is."""
    pairs = (override.partition("=") for override in overrides)
    return next((key for key, _, text in pairs if _RANGE.fullmatch(text.strip())), None)


def ends_of(choices: Choices) -> list[Point]:
    """Return the points at the two ends of all ranges and lists, whose configurations can be checked beforehand."""
    low = {key: one.low if isinstance(one, Range) else one[0] for key, one in choices.items()}
    high = {key: one.high if isinstance(one, Range) else one[-1] for key, one in choices.items()}
    return [Point(low), Point(high)]


def all_of(points: Iterable[Point]) -> Proposals:
    """Propose each point of a grid."""
    yield from (point for point in points)  # what is sent ends here


def sampled(choices: Choices, trials: int, seed: int, higher: bool) -> Proposals:
    """Propose points by Optuna's tree-structured Parzen estimator; one that comes again is not proposed again.

    Args:
        choices: what there is to choose.
        trials: how many times the sampler is asked.
        seed: of the sampler.
        higher: whether a higher score is a better one.

    Raises:
        ConfigError: Optuna is not installed.
    """
    if importlib.util.find_spec("optuna") is None:
        raise ConfigError(f"--trials needs Optuna: {install_command('sweep')}")
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(
        sampler=optuna.samplers.TPESampler(seed=seed), direction="maximize" if higher else "minimize"
    )
    known: dict[tuple[str, ...], float | None] = {}
    for _ in range(trials):
        trial = study.ask()
        settings = {
            key: one.suggest(trial, key) if isinstance(one, Range) else trial.suggest_categorical(key, list(one))
            for key, one in choices.items()
        }
        values = tuple(settings.values())
        if values not in known:
            known[values] = yield Point(settings)
        score = known[values]
        if score is None:
            study.tell(trial, state=optuna.trial.TrialState.FAIL)
        else:
            study.tell(trial, score)
