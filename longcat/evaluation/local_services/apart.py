"""`python -m longcat.evaluation.local_services.apart PARENT`: dispatchers compared in a process of its own.

Enumerating and solving hold up nobody there, and can be ended at any moment. The process that started it, whose number is the
argument, says on standard input what to compare (`Task`), and answers there what a model prefers: each line is a JSON
object. On standard output this process asks (`Question`), and says in the end what it found (`Comparison.to_json`).
"""

from __future__ import annotations

import json
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from longcat.evaluation.local_services.comparison import compare
from longcat.evaluation.local_services.dispatcher import ModelDispatcher, Preference
from longcat.local_services.city import hour_from_json
from longcat.processes.child import die_with_parent


@dataclass(frozen=True)
class Task:
    """What to compare."""

    scene: dict[str, Any]
    """Of `Scene.to_json`."""
    language: str
    seconds: float
    """In which the search in hindsight has to have ended."""


@dataclass(frozen=True)
class Question:
    """What the model is asked."""

    question: str
    answers: Sequence[str]


def command(parent: int) -> list[str]:
    """Return the command that starts this process, for a parent of this number."""
    return [sys.executable, "-m", "longcat.evaluation.local_services.apart", str(parent)]


def line_of(message: Task | Question | Preference) -> bytes:
    """Return a message as it is sent."""
    return json.dumps(asdict(message)).encode() + b"\n"


def read_line(line: bytes) -> Question | dict[str, Any]:
    """Return what this process has sent: a question, or the figures."""
    values: dict[str, Any] = json.loads(line)
    return Question(**values) if values.keys() == {"question", "answers"} else values


def main() -> None:
    """Compare."""
    die_with_parent(signal.SIGKILL, int(sys.argv[1]))
    began = time.monotonic()
    task = Task(**json.loads(sys.stdin.readline()))
    scene = hour_from_json(task.scene, "orders")

    def ask(question: str, answers: Sequence[str]) -> Preference:
        _say(line_of(Question(question, answers)))
        return Preference(**json.loads(sys.stdin.readline()))

    found = compare(scene, ModelDispatcher(ask, scene, task.language), until=began + task.seconds)
    _say(json.dumps(found.to_json()).encode() + b"\n")


def _say(line: bytes) -> None:
    sys.stdout.buffer.write(line)
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
