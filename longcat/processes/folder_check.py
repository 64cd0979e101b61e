"""The launcher's side of the check of the file system that nodes share (`longcat.processes.shared_folder` is theirs)."""

from __future__ import annotations

import uuid
from collections.abc import Sequence

from longcat.processes import shared_folder
from longcat.processes.head import ANSWER_S, Member


def check_folder(members: Sequence[Member]) -> list[str]:
    """Try out the file system that nodes share; returns what is wrong with it, in sentences."""
    token = uuid.uuid4().hex
    names = "/".join(member.name for member in members)
    problems: list[str] = []
    for step in shared_folder.STEPS:
        if problems and step != "clear":
            continue
        there = [member for member in members if member.lost is None]
        asked = {"hold": members[:1], "try": members[1:], "clear": there}.get(step, members)
        for member in asked:
            member.tell(word="check", step=f"see:{names}" if step == "see" else step, token=token)
        problems += [problem for member in asked if (problem := _answer(member)) is not None]
    return problems


def _answer(member: Member) -> str | None:
    message = member.answer("checked", shared_folder.VISIBLE_S + ANSWER_S)
    if message is None:
        return f"node {member.name} did not answer when the shared file system was tried out ({member.lost or 'no answer'})"
    problem = message.get("problem")
    return None if problem is None else str(problem)
