"""Tables on terminals of any width: whole words, or a list."""

import io
import re

import pytest
from rich.console import Console
from rich.table import Table
from rich.text import Text

from longcat import tables


def printed(table, width):
    console = Console(file=io.StringIO(), width=width)
    tables.show(console, table)
    return console.file.getvalue()


def wide_table():
    table = Table(title="figures of two runs", title_justify="left")
    for name in ("", "first", "second", "difference"):
        table.add_column(name, overflow="fold")
    table.add_row("parameters", Text("1,600,000,000"), "[bold]x[/bold] \\[y]", "unchanged")
    return table


def test_a_narrow_terminal_gets_a_list_with_whole_words():
    assert printed(wide_table(), 40).splitlines() == [
        "figures of two runs:",
        "  parameters",
        "    first: 1,600,000,000",
        "    second: x [y]",
        "    difference: unchanged",
    ]


@pytest.mark.parametrize("width", [60, 80, 140])
def test_others_get_the_table(width):
    text = printed(wide_table(), width)
    assert "┃" in text and "parameters" in text
    assert max(map(len, text.splitlines())) <= width


def test_pairs(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "30")
    tables.print_pairs("machine", {"operating system": "Linux-6.1-x86_64-with-a-long-name", "cores": 2})
    assert capsys.readouterr().out.splitlines() == [
        "machine:",
        "  operating system:",
        "      Linux-6.1-x86_64-with-a-long-name",
        "  cores: 2",
    ]


def test_what_is_no_terminal_is_wide_unless_the_user_says_how_wide(monkeypatch):
    monkeypatch.delenv("COLUMNS", raising=False)
    assert tables.wide_console().width == 140
    monkeypatch.setenv("COLUMNS", "72")
    assert tables.wide_console().width == 72


def test_no_word_of_a_narrow_list_is_cut(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "40")
    words = {"tools/metrics per second": "held-out loss 0.123456789", "checkpoint": "a" * 64}
    tables.print_pairs("words", words)
    found = re.findall(r"\S+", capsys.readouterr().out)
    assert {word for text in [*words, *words.values()] for word in text.split()} <= {word.rstrip(":") for word in found}
