"""What a checkpoint prefers of the answers to a question: the questions of a dispatcher as likelihoods."""

from __future__ import annotations

from collections.abc import Sequence

from longcat.evaluation.local_services.dispatcher import Ask, Preference
from longcat.inference.opening import OpenCheckpoint
from longcat.inference.requests import Continuation, Likelihood
from longcat.inference.runner import Runner


def continuations(checkpoint: OpenCheckpoint, question: str, answers: Sequence[str]) -> list[Continuation]:
    """Return the answers, each with the sign that parts it from the question, as continuations of the question."""
    context = checkpoint.encode(question)
    return [Continuation(context, checkpoint.encode(question + answer)[len(context) :]) for answer in answers]


def preference(found: Sequence[Likelihood]) -> Preference:
    """Return what likelihoods of the answers to one question say."""
    return Preference([one.nats for one in found], any(one.dropped for one in found))


def preference_of(runner: Runner) -> Ask:
    """Return the function by which a dispatcher asks a model that nobody else is asking."""
    return lambda question, answers: preference(runner.likelihoods(continuations(runner.checkpoint, question, answers)))
