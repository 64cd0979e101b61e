"""The tutorial as a reader goes through it: every command in the page's order, and what the page shows is what is printed."""

import pytest

from tests.docs.commands import ROOT, commands
from tests.docs.shell import missing


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_tutorial_is_as_it_says(shell):
    for command in commands(ROOT / "docs" / "tutorial.md"):
        if not command.is_run:
            continue
        printed = shell.run(command)
        if command.mark("output varies") is not None:
            assert printed.strip(), command.where
        else:
            absent = missing(command.shown, printed)
            assert not absent, f"{command.where}: the page shows {absent}, printed was:\n{printed}"
