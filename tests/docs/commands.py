"""The commands that README.md and the pages below docs/ name, read from their blocks.

A block of commands is fenced as `sh` or `console`, or is any block (fenced without a language, or indented by four) with a
line that begins with a program of `PROGRAMS` and its arguments. Where lines begin with `$ `, the others are what is printed. A block of another
language whose first line is `# FILE` is a file of that name.

Comments before a block say what is otherwise to be known about it; a part of a command in backticks narrows one to the
commands of the block that hold it:

    <!-- not run: takes hours -->
    <!-- not run `make test`: CI runs it -->
    <!-- tested by tests/cluster/test_join.py::test_name -->
    <!-- output varies: sampled text -->
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[2]
PROGRAMS = (
    "longcat", ".venv/bin/longcat", "make", "pip", "python", "torchrun", "lm_eval", "curl", "prefect", ".venv/bin/prefect",
    "vllm", "git", "docker", "source", "sbatch", "srun", "kubectl",
)  # fmt: skip
_SHELLS = ("sh", "console", "shell", "bash")
_FENCE = re.compile(r"(`{3,})\s*([\w-]*)")
_COMMENT = re.compile(r"<!--\s*(not run|tested by|output varies)\b\s*(?:`([^`]*)`)?\s*:?\s*(.*?)\s*-->")
_FILE = re.compile(r"# ([\w./-]+\.\w+)\b")
_HEREDOC = re.compile(r"<<-?\s*(['\"]?)(\w+)\1")


@dataclass(frozen=True)
class Mark:
    """A comment of a page about the commands of the block that follows."""

    kind: str
    part: str | None
    """What a command has to hold for the mark to be about it; None: any."""
    text: str
    line: int


@dataclass(frozen=True)
class Command:
    """A command of a page, or a file that it shows."""

    page: str
    line: int
    text: str
    """As a shell takes it: continued lines and here-documents are whole."""
    shown: tuple[str, ...] = ()
    """The lines of output that the page shows below it."""
    marks: tuple[Mark, ...] = ()
    file: str | None = None
    """The name under which `text` is saved, for a file."""

    @property
    def where(self) -> str:
        return f"{self.page}:{self.line}"

    def mark(self, kind: str) -> str | None:
        """The text of the command's mark of a kind, or None."""
        return next((mark.text for mark in self.marks if mark.kind == kind), None)

    @property
    def is_run(self) -> bool:
        return self.mark("not run") is None and self.mark("tested by") is None


@dataclass
class _Block:
    line: int
    language: str
    lines: list[str]
    marks: list[Mark] = field(default_factory=list)


def pages() -> list[Path]:
    """README.md and all pages below docs/."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def commands(page: Path) -> list[Command]:
    """All commands and files of a page, in its order."""
    name = str(page.relative_to(ROOT))
    return [command for block in blocks(page.read_text()) for command in _commands_of(block, name)]


def marks(page: Path) -> list[Mark]:
    """All marks of a page, also those that no command is under."""
    return [
        _mark(found, number)
        for number, line in enumerate(page.read_text().splitlines(), 1)
        if (found := _COMMENT.search(line))
    ]


def _mark(found: re.Match[str], line: int) -> Mark:
    return Mark(found[1], found[2], found[3], line)


def blocks(text: str) -> list[_Block]:
    """The fenced and indented blocks of a page, each with the marks right before it."""
    found: list[_Block] = []
    waiting: list[Mark] = []
    fence, current, before = "", None, ""
    for number, line in enumerate(text.splitlines(), 1):
        if fence:
            assert current is not None
            if line.strip() == fence:
                fence, current = "", None
            else:
                current.lines.append(line)
        elif opened := _FENCE.match(line.strip()):
            fence = opened[1]
            current = _Block(number + 1, opened[2], [], waiting)
            found.append(current)
            waiting = []
        elif mark := _COMMENT.match(line.strip()):
            waiting.append(_mark(mark, number))
            current = None
        elif line.startswith("    ") and line.strip() and (current is not None or not before):
            if current is None:
                current = _Block(number, "", [], waiting)
                found.append(current)
                waiting = []
            current.lines.append(line[4:])
        elif line.strip():
            current, waiting = None, []
        elif current is not None:
            current.lines.append("")
        before = "" if mark_only(line) else line.strip()
    return found


def mark_only(line: str) -> bool:
    """Whether a line of a page is a comment."""
    return line.strip().startswith("<!--")


def _commands_of(block: _Block, page: str) -> list[Command]:
    if block.lines and block.language not in ("", *_SHELLS) and (name := _FILE.match(block.lines[0])):
        text = "\n".join(block.lines) + "\n"
        return [Command(page, block.line, text, marks=tuple(block.marks), file=name[1])]
    dialogue = any(line.startswith("$ ") for line in block.lines)
    unmarked = not dialogue and block.language not in _SHELLS
    if unmarked and (block.language or not any(line.split(" ")[0] in PROGRAMS and " " in line for line in block.lines)):
        return []
    found: list[Command] = []
    lines = list(enumerate(block.lines, block.line))
    while lines:
        number, line = lines.pop(0)
        if dialogue and not line.startswith("$ "):
            if found:
                found[-1] = Command(page, found[-1].line, found[-1].text, (*found[-1].shown, line), found[-1].marks)
            continue
        text = line.removeprefix("$ ") if dialogue else line
        if not text.strip() or text.startswith("#"):
            continue
        while lines and text.endswith("\\"):
            text += "\n" + lines.pop(0)[1]
        if here := _HEREDOC.search(text):
            while lines:
                text += "\n" + lines.pop(0)[1]
                if text.rsplit("\n", 1)[1] == here[2]:
                    break
        about = tuple(mark for mark in block.marks if mark.part is None or mark.part in text)
        found.append(Command(page, number, text, marks=about))
    return found
