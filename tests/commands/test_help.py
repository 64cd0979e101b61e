"""Help of the commands: flags, examples, and terminals of any width."""

import re
import shlex

import pytest
import typer

from longcat import __version__, cli
from longcat.commands.help import EXAMPLES, NARROW

COMMANDS = typer.main.get_command(cli.app).commands


def test_the_version(longcat):
    answer = longcat("--version")
    assert (answer.returncode, answer.stdout, answer.stderr) == (0, f"longcat {__version__}\n", "")


@pytest.mark.parametrize("columns", [NARROW, 40])
@pytest.mark.parametrize("name", ["", *COMMANDS])
def test_help_shows_flags_as_flags(longcat, name, columns):
    answer = longcat(*[name] if name else [], "--help", COLUMNS=str(columns))
    assert answer.returncode == 0
    assert "bool" not in answer.stdout
    assert "…" not in answer.stdout
    if columns == NARROW:
        assert max(map(len, answer.stdout.splitlines())) <= columns
    assert ("╭" in answer.stdout) == (columns >= NARROW)


def test_a_narrow_help_names_options_in_full(longcat):
    shown = longcat("mfu", "--help", COLUMNS="40").stdout
    options = {name for parameter in COMMANDS["mfu"].params for name in parameter.opts}
    assert {name for name in options if name not in shown} == set()


def test_every_command_has_examples_that_it_takes(longcat):
    assert EXAMPLES.keys() == COMMANDS.keys()
    for name, lines in EXAMPLES.items():
        assert all(len(line) <= 76 for line in lines)
        for line in " ".join(lines).replace("\\ ", "").split("longcat " + name)[1:]:
            command, *arguments = shlex.split(name + line.partition(">")[0])
            COMMANDS[command].make_context(command, arguments)
        shown = longcat(name, "--help", COLUMNS="80").stdout
        assert all(line.strip() in shown for line in lines)
        assert len(re.findall(r"(?i)\bexample:", shown)) == 1  # those of the table, and no others in the text
        assert "longcat" in shown and not re.search(r"\\\[", shown)


def test_a_long_help_is_in_groups(longcat):
    for name, panels in {
        "generate": ("How tokens are chosen", "What it computes on"),
        "serve": ("Where it listens", "Limits"),
        "pretrain": ("A dry run", "Settings", "Results"),
        "doctor": ("Settings", "Results", "Several machines"),
        "ui": ("Where they listen", "Results"),
        "clean": ("Results",),
        "mfu": ("The run", "The model", "Fine-tuning", "Its speed", "The answer"),
    }.items():
        assert all(f"─ {panel}" in longcat(name, "--help").stdout for panel in panels)
    shown = longcat("--help").stdout
    assert all(f"─ {panel}" in shown for panel in ("The pipeline", "Models and runs", "The workspace", "The machine"))
