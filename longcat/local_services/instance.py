"""Instances: questions with one right answer that is proved, as multiple choice and for generation."""

from __future__ import annotations

import hashlib
import itertools
import json
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from longcat.local_services.text import CUE, DELIMITER, OPTIONS

CHOICES = 4
SPLITS = ("evaluation", "training")
FORMS = ("money", "time", "name", "sequence", "phrase")
_EVALUATION_SHARE = 4
_ATTEMPTS = 20_000


@dataclass(frozen=True)
class Draft:
    """What a task's generator makes, before its choices are put in order.

    Attributes:
        facts: all that decides the answer, the same in each language: numbers, texts and lists of them.
        question: the question, without what precedes an answer.
        right: the right answer.
        wrong: three wrong ones.
        steps: why the answer is right, in a sentence or two.
        proof: how it was proved that there is one right answer.
    """

    facts: dict[str, Any]
    question: str
    right: str
    wrong: Sequence[str]
    steps: str
    proof: str


@dataclass(frozen=True)
class Task:
    """A kind of question.

    Attributes:
        name: its name.
        form: of its answers, one of `FORMS`: how a generated answer is read.
        make: draws an instance in a language, or None if what it drew has no unique answer. Its third argument, 0 to 3, is the
            right answer's place among its rivals: by size if it is a number, otherwise in the question. The maker has to keep it.
        listed: whether generation needs the choices to be listed in the question.
        named: whether the question names all candidates.
    """

    name: str
    form: str
    make: Callable[[random.Random, str, int], Draft | None]
    listed: bool = False
    named: bool = False


@dataclass(frozen=True)
class Instance:
    """A question, its four choices, the index of the right one, and how that was proved."""

    task: str
    language: str
    form: str
    question: str
    choices: tuple[str, ...]
    answer: int
    listed: bool
    steps: str
    proof: str
    facts: dict[str, Any]

    @property
    def target(self) -> str:
        """The right answer."""
        return self.choices[self.answer]

    @property
    def content(self) -> str:
        """Digest of what decides the answer; wording, order of the choices and language are no part of it."""
        return content_of(self.task, self.facts)

    def options(self) -> str:
        """Return the line that lists the choices, with its end of line; empty where the question needs none."""
        opening, separator = OPTIONS[self.language]
        return f"{opening}{separator.join(self.choices)}\n" if self.listed else ""

    def prompt(self) -> str:
        """Return the question up to where the answer begins."""
        return f"{self.question}\n{CUE[self.language]}"

    def answered(self) -> str:
        """Return the question with its answer."""
        return f"{self.prompt()}{DELIMITER[self.language]}{self.target}"


def content_of(task: str, facts: dict[str, Any]) -> str:
    """Return the SHA-256 of a task's facts."""
    canonical = json.dumps([task, facts], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


def split_of(content: str) -> str:
    """Return which split an instance belongs to: the digest of its content decides, so that no content is in both."""
    return "evaluation" if int(content[:8], 16) % _EVALUATION_SHARE == 0 else "training"


def instances(task: Task, language: str, split: str, seed: int) -> Iterator[Instance]:
    """Draw instances without end; no two of the evaluation split have the same content.

    In each 16 in a row the right answer is four times in each position among the choices, and four times on each place
    among its rivals, independently of one another: neither says anything about it.

    Args:
        task: the kind of question.
        language: `zh` or `en`.
        split: `evaluation` or `training`; an instance of one is never drawn in the other.
        seed: each makes another sequence, and the same one each time.

    Raises:
        ValueError: there is no such split.
        RuntimeError: the maker found no instance in 20,000 attempts.
    """
    if split not in SPLITS:
        raise ValueError(f"there is no split {split!r}; there are: {', '.join(SPLITS)}")
    rng = random.Random(f"{split} {task.name} {language} {seed}")  # nosec B311 # to make up texts, not secrets
    seen: set[str] = set()
    while True:
        block = [(position, rank) for position in range(CHOICES) for rank in range(CHOICES)]
        rng.shuffle(block)
        for position, rank in block:
            yield _draw(rng, task, language, split, position, rank, seen)


def _draw(
    rng: random.Random, task: Task, language: str, split: str, position: int, rank: int, seen: set[str]
) -> Instance:
    for _ in range(_ATTEMPTS):
        draft = task.make(rng, language, rank)
        if draft is None or len({draft.right, *draft.wrong}) != CHOICES:
            continue
        content = content_of(task.name, draft.facts)
        if content in seen or split_of(content) != split:
            continue
        if split == "evaluation":
            seen.add(content)
        choices = rng.sample(list(draft.wrong), CHOICES - 1)
        choices.insert(position, draft.right)
        return Instance(
            task.name,
            language,
            task.form,
            draft.question,
            tuple(choices),
            position,
            task.listed,
            draft.steps,
            draft.proof,
            draft.facts,
        )
    raise RuntimeError(f"{task.name}: no new instance of rank {rank} in {_ATTEMPTS} attempts")


def around(rng: random.Random, right: int, slips: Sequence[int], rank: int, *, least: int = 0) -> list[int] | None:
    """Choose three wrong numbers so that the right one is on a given place among the four.

    The numbers are as far apart as likely mistakes are from the right answer, in random order: which of them is right shows
    neither in their order nor in their distances.

    Args:
        rng: source of randomness.
        right: the right answer.
        slips: what comes out of likely mistakes, in order of preference; may have repetitions and the right answer.
        rank: 0 if the right answer is to be the least of the four, 3 if the greatest.
        least: smallest number that looks possible.

    Returns:
        The numbers; None where the slips do not suffice, or where one would be less than `least`.
    """
    distances = list(dict.fromkeys(abs(slip - right) for slip in slips if slip != right))[: CHOICES - 1]
    if len(distances) < CHOICES - 1:
        return None
    rng.shuffle(distances)
    steps = [0, *itertools.accumulate(distances)]
    numbers = [right + step - steps[rank] for step in steps]
    return None if numbers[0] < least else [number for number in numbers if number != right]
