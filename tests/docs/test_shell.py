"""What counts as the output that a page shows, and what a command becomes before it is run."""

import pytest

from tests.docs.commands import Command
from tests.docs.shell import Shell, masked, missing

PRINTED = """longcat run, preset smoke, 1 min 3 s
┏━━━━━━━┳━━━━━━━┓
┃ stage ┃  time ┃
│ train │ 3.2 s │
└───────┴───────┘
Checkpoint: /tmp/a/workspace/checkpoint/0123456789abcdef
"""


@pytest.mark.parametrize(
    ("shown", "absent"),
    [
        ("longcat run, preset smoke, 9.1 s", False),
        ("longcat run, preset tiny, 9.1 s", True),
        ("│ train │ 27.9 s │", False),
        ("│ train │ 27.9 MB │", True),
        ("┏━━━━━━━━━━━━━━┳━━━━━━━┓", False),
        ("Checkpoint: /home/you/checkpoint/fedcba98", False),
        ("Checkpoint: ...", False),
        ("Evaluation: ...", True),
        ("...", False),
    ],
)
def test_numbers_may_differ_and_words_may_not(shown, absent):
    assert missing((shown,), PRINTED) == [shown] * absent


def test_lines_are_looked_for_in_their_order():
    assert missing(("┃ stage ┃  time ┃", "longcat run, preset smoke, 9 s"), PRINTED) == [
        "longcat run, preset smoke, 9 s"
    ]


def test_signs_digests_and_rules_are_masked():
    assert masked("│ loss │ -0.56 (-14.0 %) │ 6522b4a6e77a │ ━━━━ │") == "│ loss │ N (N %) │ DIGEST │ │"


@pytest.fixture
def shell(tmp_path):
    for number in ("b", "a"):
        made = tmp_path / "workspace" / "checkpoint" / (number * 32)
        made.mkdir(parents=True)
        (made / "manifest.json").touch()
    with Shell(tmp_path) as shell:
        yield shell


def test_what_a_page_leaves_open_is_settled(shell):
    oldest, newest = shell.checkpoints()
    assert shell.settled("longcat compare FIRST SECOND") == f"longcat compare {oldest} {newest}"
    assert shell.settled(".venv/bin/longcat ls DIGEST") == f"longcat ls {newest}"
    assert shell.settled("longcat ls x=DIGEST") == f"longcat ls x={newest}"
    assert shell.settled("longcat pretrain --preset tiny --json") == "longcat pretrain --preset smoke --json"
    assert shell.settled("longcat pretrain --preset tiny --dry-run") == "longcat pretrain --preset tiny --dry-run"
    assert shell.settled("longcat run -c mine.yaml") == "longcat run -c mine.yaml"
    served, asked = shell.settled("longcat serve --checkpoint X"), shell.settled("curl http://127.0.0.1:8000/health")
    assert served.split()[3] == asked.rsplit(":")[2].split("/")[0] != "8000"


def test_a_command_that_fails_fails_with_what_it_said(shell):
    with pytest.raises(AssertionError, match=r"page.md:7: echo no; exit 3\nexit code 3:\nno"):
        shell.run(Command("page.md", 7, "echo no; exit 3"))


def test_commands_share_a_folder(shell):
    for text in ("mkdir -p inside", "cd inside", "pwd > here"):
        shell.run(Command("page.md", 1, text))
    assert shell.run(Command("page.md", 2, "cat here")).endswith("/inside\n")
