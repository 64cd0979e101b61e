"""What a rewrite prints: the next command, as a shell takes it."""

import shlex

from longcat.port.printed import print_rewrite


def test_the_next_command_can_be_pasted(tmp_path, capsys):
    out = tmp_path / "a folder"
    print_rewrite({"rewritten": 1, "changed": ["a.py"], "left": [], "unread": [], "out": out}, to_stderr=False)
    line = capsys.readouterr().out.splitlines()[-1]
    assert shlex.split(line.removeprefix("Next: "))[:4] == ["longcat", "port", "check", str(out)]
