"""Training text: instances of the training split in words, with answer, and often with the reason."""

from __future__ import annotations

import random
from collections.abc import Iterator

from longcat.local_services.instance import Instance, instances
from longcat.local_services.tasks import TASKS
from longcat.local_services.text import CUE, DELIMITER, LANGUAGES, REASON

VERSION = 1
"""To be increased with every change to a text that some seed makes: artifacts are addressed by it."""


def training_documents(seed: int, language: str, count: int) -> Iterator[str]:
    """Yield training texts: a question with its answer, in one of several forms.

    Tasks take turns. No instance has the content of one of the evaluation split, whatever the seeds (`split_of`). What a short
    message asks for comes again after some thousands, in other words and of another order: memory does not grow with `count`.

    Args:
        seed: each makes other texts, and the same ones each time.
        language: `zh` or `en`.
        count: number of texts.

    Raises:
        ValueError: there is no such language.
    """
    if language not in LANGUAGES:
        raise ValueError(f"there is no language {language!r}; there are: {', '.join(LANGUAGES)}")
    rng = random.Random(f"forms {language} {seed}")  # nosec B311 # to make up texts, not secrets
    sources = [instances(task, language, "training", seed) for task in TASKS.values()]
    for number in range(count):
        yield document(rng, next(sources[number % len(sources)]))


def document(rng: random.Random, instance: Instance) -> str:
    """Write an instance in one of four forms: plain, with the choices listed, with the reason after the answer, or before it."""
    gap = DELIMITER[instance.language]
    cue, reason = CUE[instance.language], REASON[instance.language]
    return rng.choice(
        (
            instance.answered(),
            f"{instance.question}\n{instance.options()}{cue}{gap}{instance.target}",
            f"{instance.answered()}\n{reason}{gap}{instance.steps}",
            f"{instance.question}\n{reason}{gap}{instance.steps}\n{cue}{gap}{instance.target}",
        )
    )
