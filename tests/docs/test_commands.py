"""What the pages name is there: commands, their options, settings, tests that marks refer to."""

import re
import shlex
from itertools import pairwise

import pytest
import typer

from docs.build import PAGES
from longcat.cli import app
from longcat.config.load import all_keys
from longcat.config.tree import PipelineConfig
from tests.docs.commands import ROOT, Command, blocks, commands, marks, pages

RUNNABLE = {"longcat", "python", "curl", "cat", "cd", "mkdir", "ls", "tail", "grep", "git"}
"""Programs that the shell of the tests has; a command of another one is marked in its page."""
LONGCAT = typer.main.get_command(app)
KEYS = set(all_keys(PipelineConfig))
SECTIONS = "|".join(
    sorted(key for key in PipelineConfig.model_fields if key not in ("preset", "seed", "accelerator", "experiment"))
)
OTHERS_OPTIONS = {"--all", "--moe-grouped-gemm", "--run-all", "--shm-size"}
"""Options of other programs that pages name without the program."""
OTHERS_COMMANDS = {"rows"}
"""Commands of stages that a page adds by an example."""
SCRIPTS = ("benchmarks", "data")
"""Folders of programs with options of their own."""
_SPAN = re.compile(r"`([^`\n]+)`")


def ids(page):
    return str(page.relative_to(ROOT))


def all_commands():
    for command in LONGCAT.commands.values():
        yield command
        yield from getattr(command, "commands", {}).values()


def options(command):
    return {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}


def mistakes_of(text):
    """What is wrong with a `longcat` command: its name, an option, a setting."""
    try:
        words = shlex.split(text.split(" <<")[0], comments=True)
    except ValueError:
        words = text.split()
    words = [word.strip("[]…") for word in words]
    if not words or not words[0].endswith("longcat"):
        return []
    ends = [place for place, word in enumerate(words) if word in ("|", ">", ">>", "&", "&&", "--")]
    words = words[: min(ends, default=None)]
    if len(words) < 2:
        return []
    name = words[1].rstrip(",.:")
    if name.startswith("-"):
        return [] if name in options(LONGCAT) | {"--help"} else [f"longcat has no option {name}"]
    if name in OTHERS_COMMANDS:
        return []
    if name not in LONGCAT.commands:
        return [] if re.fullmatch(r"[A-Z]+|\.\.\.", name) else [f"there is no command {name!r}"]
    command = LONGCAT.commands[name]
    if getattr(command, "commands", None) and len(words) > 2:
        name, command = f"{name} {words[2]}", command.commands.get(words[2], command)
    known = options(command) | {"--help"}
    found = [
        f"longcat {name} has no option {word}"
        for word in words[2:]
        if re.match(r"--?[a-z]", word) and word.split("=")[0] not in known
    ]
    sets = [after for before, after in pairwise(words) if before in ("--set", "-s")]
    return found + [f"there is no setting {item}" for item in sets if not is_setting(item)]


def is_setting(text):
    """Whether `a.b=c` or `a.b` names a setting, or a part of one that is a mapping."""
    key = text.split("=")[0].split(":")[0].strip()
    return key in KEYS or any(
        key.startswith(f"{known}.") for known in KEYS if known.split(".")[0] in ("corpus", "evaluation", "benchmark")
    )


@pytest.mark.parametrize("page", pages(), ids=ids)
def test_commands_that_are_not_run_are_marked(page):
    unknown = [
        f"{command.where}: {command.text}"
        for command in commands(page)
        if command.is_run and command.file is None and program_of(command) not in RUNNABLE
    ]
    assert not unknown, "mark these with <!-- not run: WHY -->, or with <!-- tested by TEST -->"


def program_of(command: Command) -> str:
    return command.text.split()[0].removeprefix(".venv/bin/")


@pytest.mark.parametrize("page", pages(), ids=ids)
def test_marks_have_reasons_and_name_tests_that_there_are(page):
    used = {mark for command in commands(page) for mark in command.marks}
    for mark in marks(page):
        assert mark in used, f"{page}:{mark.line}: no command is under this mark"
        assert len(mark.text.split()) > 1 or "::" in mark.text, f"{page}:{mark.line}: say why"
        if mark.kind == "tested by":
            file, _, test = mark.text.partition("::")
            assert (ROOT / file).is_file(), f"{page}:{mark.line}: there is no {file}"
            assert not test or f"def {test}(" in (ROOT / file).read_text(), (
                f"{page}:{mark.line}: no test {test} in {file}"
            )


@pytest.mark.parametrize("page", pages(), ids=ids)
def test_longcat_has_the_commands_options_and_settings_that_are_named(page):
    text = page.read_text()
    wrong = [
        f"{command.where}: {wrong}"
        for command in commands(page)
        if command.file is None
        for wrong in mistakes_of(command.text)
        if "longcat " in command.text
    ]
    for block in blocks(text):
        text = text.replace("\n".join(block.lines), "")
    any_option = {option for command in all_commands() for option in options(command)} | {
        "--help",
        "--version",
    }
    for span in _SPAN.findall(text):
        if re.match(r"longcat [a-z-]", span):
            wrong += [f"`{span}`: {mistake}" for mistake in mistakes_of(span)]
        elif (option := re.match(r"--[a-z][a-z-]+", span)) and option[
            0
        ] not in any_option | OTHERS_OPTIONS | of_scripts():
            wrong.append(f"`{span}`: no command has this option")
        elif (
            re.fullmatch(rf"({SECTIONS})\.[a-z_]+(\.[a-z_]+)*( *[=:].*)?", span)
            and not is_module(span)
            and not is_setting(span)
        ):
            wrong.append(f"`{span}`: there is no such setting")
    assert not wrong


def of_scripts():
    """Options of the programs in benchmarks/ and data/, which pages name beside them."""
    texts = (path.read_text() for folder in SCRIPTS for path in (ROOT / folder).rglob("*.py"))
    return {option for text in texts for option in re.findall(r"\"(--[a-z][a-z-]+)\"", text)}


def is_module(text):
    """Whether a dotted name is a file of a room that has the name of a section."""
    first, *rest = text.split(".")
    file = bool(rest) and (ROOT / "longcat" / first / f"{rest[0]}.py").is_file()
    return file or text.endswith((".py", ".md"))


def test_the_page_of_all_commands_has_all():
    text = (PAGES / "commands.md").read_text(encoding="utf-8")
    named = set(re.findall(r"(?:longcat |`)(?!longcat )([a-z]+)\b", text))
    assert set(typer.main.get_command(app).commands) <= named


def test_readme_fits():
    lines = (ROOT / "README.md").read_text().splitlines()
    assert [line for line in lines if len(line) > 100] == []
    assert len(lines) <= 80


def test_a_mistake_in_a_page_is_found(tmp_path, monkeypatch):
    monkeypatch.setattr("tests.docs.commands.ROOT", tmp_path)
    page = tmp_path / "page.md"
    page.write_text(
        "<!-- not run `make`: CI does -->\n```sh\nmake x\nlongcat rnu --steps 3 \\\n  --set training.stesp=1\n```\n\ntext\n\n"
        "    $ longcat ls  # all\n    kind  digest\n"
    )
    first, second, third = commands(page)
    assert (first.is_run, second.is_run, third.shown) == (False, True, ("kind  digest",))
    assert mistakes_of(second.text) == ["there is no command 'rnu'"]
    assert mistakes_of("longcat run --steps 3 --set training.stesp=1") == [
        "longcat run has no option --steps",
        "there is no setting training.stesp=1",
    ]
    assert mistakes_of("longcat run -p smoke --set training.steps=1 | head --lines 3") == []
