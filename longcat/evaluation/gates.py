"""Gates: conditions on scores that decide whether a checkpoint becomes the champion."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from glob import escape

from longcat.config.evaluation import Gate
from longcat.errors import ConfigError

_LOWER_IS_BETTER = re.compile(
    r"(^|_)(bits|nats|perplexity|ppl|loss|nll|error|errors|ece|brier|wer|cer|ter|mae|rmse)(_|$)"
)


@dataclass(frozen=True)
class Judgement:
    """What a gate says of a score."""

    passed: bool
    reason: str
    """The score and its bound, in words."""


def lower_is_better(score: str) -> bool:
    """Return whether a lower score is a better one, by the name of its metric."""
    metric = score.rpartition("/")[2].partition(".")[0].lower()
    return _LOWER_IS_BETTER.search(metric) is not None


def is_score(name: str) -> bool:
    """Return whether a figure is a score of a whole, and no part of one, count, chance line or standard error."""
    if name.startswith("intrinsic/bits_per_byte."):
        return False
    metric = name.rpartition("/")[2]
    if metric.endswith(("_stderr", "_chance")) or metric.startswith(("unigram_", "ngram_")):
        return False
    return metric not in (
        "documents",
        "truncated",
        "few_shot",
        "sequences",
        "held_out_documents",
        "bytes",
        "baseline_tokens",
    )


def check_gates(gates: Sequence[Gate], known: Sequence[Sequence[str] | None]) -> None:
    """Refuse a gate on a score that will not be made.

    Args:
        gates: the conditions.
        known: scores of each suite as patterns of `fnmatch`; None for a suite that does not say, which may give any subject that
            no other suite gives.

    Raises:
        ConfigError: names the score, and those that are near.
    """
    patterns = [pattern for some in known if some is not None for pattern in some]
    subjects = {pattern.rpartition("/")[0] for pattern in patterns}
    for gate in gates:
        if any(fnmatchcase(gate.score, pattern) for pattern in patterns):
            continue
        subject = escape(gate.score.rpartition("/")[0])
        if None not in known or subject in subjects:
            raise _no_score(gate, patterns)


def _no_score(gate: Gate, names: Iterable[str]) -> ConfigError:
    listed = sorted(names)
    near = difflib.get_close_matches(gate.score, listed, n=3, cutoff=0.5) or listed
    return ConfigError(f"evaluation.gates: there is no score {gate.score!r}; there are: {', '.join(near)}")


def judge(gates: Sequence[Gate], scores: Mapping[str, float], champion: Mapping[str, float] | None) -> list[Judgement]:
    """Judge scores by every gate; what is no number passes none.

    Args:
        gates: the conditions.
        scores: of the checkpoint, by `SUBJECT/METRIC`.
        champion: those of the present champion; None if there is none.

    Raises:
        ConfigError: a gate asks for a score that was not made.
    """
    for gate in gates:
        if gate.score not in scores:
            raise _no_score(gate, scores)
    return [_judge(gate, scores[gate.score], champion) for gate in gates]


def _judge(gate: Gate, value: float, champion: Mapping[str, float] | None) -> Judgement:
    name = f"{gate.score} {value:.6g}"
    if gate.at_least is not None:
        passed = value >= gate.at_least
        return Judgement(passed, f"{name} is {'at least' if passed else 'not at least'} {gate.at_least:.6g}")
    if gate.at_most is not None:
        passed = value <= gate.at_most
        return Judgement(passed, f"{name} is {'at most' if passed else 'not at most'} {gate.at_most:.6g}")
    if champion is None:
        return Judgement(value == value, f"{name}, and there is no champion yet")
    if gate.score not in champion:
        return Judgement(False, f"{name} cannot be compared: the champion has no such score")
    best = champion[gate.score]
    lower = lower_is_better(gate.score) if gate.lower_is_better is None else gate.lower_is_better
    bound = best + gate.margin if lower else best - gate.margin
    passed = value <= bound if lower else value >= bound
    allowed = f" with a margin of {gate.margin:.6g}" if gate.margin else ""
    return Judgement(passed, f"{name} is {'no worse' if passed else 'worse'} than the champion's {best:.6g}{allowed}")
