"""Training text: instances of the training split in words, with answer, and often with the reason."""

from __future__ import annotations

import difflib
import random
from collections.abc import Callable, Iterator, Sequence

from longcat.errors import ConfigError
from longcat.local_services.instance import Instance, instances
from longcat.local_services.tasks import TASKS
from longcat.local_services.text import CUE, DELIMITER, LANGUAGES, REASON

VERSION = 1
"""To be increased with every change to a text that some seed makes: artifacts are addressed by it."""


def _listed(instance: Instance) -> str:
    gap, cue = DELIMITER[instance.language], CUE[instance.language]
    return f"{instance.question}\n{instance.options()}{cue}{gap}{instance.target}"


def _explained(instance: Instance) -> str:
    return f"{instance.answered()}\n{_reason(instance)}"


def _reasoned(instance: Instance) -> str:
    gap, cue = DELIMITER[instance.language], CUE[instance.language]
    return f"{instance.question}\n{_reason(instance)}\n{cue}{gap}{instance.target}"


def _reason(instance: Instance) -> str:
    return f"{REASON[instance.language]}{DELIMITER[instance.language]}{instance.steps}"


FORMS: dict[str, Callable[[Instance], str]] = {
    "plain": Instance.answered,
    "listed": _listed,
    "explained": _explained,
    "reasoned": _reasoned,
}
"""Forms of a text, in each of which the question comes first: the answer; the choices, where generation lists them, and the
answer; the answer and the reason; the reason and the answer."""


def training_documents(
    seed: int, language: str, count: int, tasks: Sequence[str] = (), forms: Sequence[str] = ()
) -> Iterator[str]:
    """Yield training texts: a question with its answer, in one of several forms.

    Tasks take turns. No instance has the content of one of the evaluation split, whatever the seeds (`split_of`). What a short
    message asks for comes again after some thousands, in other words and of another order: memory does not grow with `count`.

    Args:
        seed: each makes other texts, and the same ones each time.
        language: `zh` or `en`.
        count: number of texts.
        tasks: names of the tasks that are asked; none takes all.
        forms: names of the forms (`FORMS`) that are drawn from; none takes all.

    Raises:
        ValueError: there is no such language.
        ConfigError: there is no such task or form.
    """
    if language not in LANGUAGES:
        raise ValueError(f"there is no language {language!r}; there are: {', '.join(LANGUAGES)}")
    check_names(tasks, forms)
    rng = random.Random(f"forms {language} {seed}")  # nosec B311 # to make up texts, not secrets
    sources = [instances(TASKS[name], language, "training", seed) for name in tasks or TASKS]
    written = [FORMS[name] for name in forms or FORMS]
    for number in range(count):
        yield rng.choice(written)(next(sources[number % len(sources)]))


def check_names(tasks: Sequence[str], forms: Sequence[str]) -> None:
    """Refuse names of tasks and forms that there are not.

    Raises:
        ConfigError: there is no such task or form.
    """
    for kind, names, known in (("task", tasks, list(TASKS)), ("form", forms, list(FORMS))):
        for name in names:
            if name not in known:
                near = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
                suggestion = f"; did you mean {near[0]!r}?" if near else ""
                raise ConfigError(
                    f"a corpus source of kind 'local_services' has no {kind} {name!r}{suggestion}; there are: {', '.join(known)}"
                )
