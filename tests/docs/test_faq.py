"""Messages in the list of problems are ones that the code prints."""

import ast
import re

import pytest

from docs.build import PAGES, ROOT

GAP = re.compile(r"…|%s|\{\w+\}")
FAQ = (PAGES / "faq.md").read_text(encoding="utf-8")
MESSAGES = [line for block in re.findall(r"```text\n(.*?)```", FAQ, re.DOTALL) for line in block.splitlines()]


@pytest.fixture(scope="module")
def printed():
    """Pieces of the strings of the code between what varies, as one text."""
    found = []
    for folder in ("longcat", "tasks", "flows"):
        for file in sorted((ROOT / folder).rglob("*.py")):
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                if isinstance(node, ast.JoinedStr):
                    found.append("".join(part.value if isinstance(part, ast.Constant) else "…" for part in node.values))
                elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                    found.append(node.value)
    return "\n".join(GAP.sub("…", text) for text in found)


@pytest.mark.parametrize("message", MESSAGES)
def test_the_code_has_the_message(printed, message):
    if message in printed:
        return
    pieces = [piece.strip(" ;:,.()'/") for piece in re.split("…|, ", message)]
    words = [piece for piece in pieces if len(piece) >= 13]
    assert words
    assert [piece for piece in words if piece not in printed] == []


def test_every_problem_has_a_message_a_reason_and_a_remedy():
    problems = re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", FAQ, re.MULTILINE | re.DOTALL)
    assert len(problems) >= 15
    for title, text in problems:
        assert "```" in text or "No message" in text, title
        assert "**What to do:**" in text, title
