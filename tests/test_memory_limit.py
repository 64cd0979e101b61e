"""The memory that a container leaves to a process."""

import psutil
import pytest

from longcat import memory_limit


@pytest.fixture
def groups(tmp_path, monkeypatch):
    monkeypatch.setattr(memory_limit, "_GROUPS", tmp_path)
    monkeypatch.setattr(memory_limit, "_MEMBERSHIP", tmp_path / "self")
    return tmp_path


@pytest.mark.parametrize(
    ("membership", "file"),
    [("0::/a/b", "a/memory.max"), ("0::/a/b", "a/b/memory.max"), ("4:memory:/c", "memory/c/memory.limit_in_bytes")],
)
def test_the_least_limit_of_all_groups_above_holds(groups, membership, file):
    (groups / "self").write_text(f"9:pids:/x\n{membership}\n")
    assert memory_limit.memory_bytes() == psutil.virtual_memory().total
    (groups / file).parent.mkdir(parents=True)
    (groups / file).write_text("1000000\n")
    assert memory_limit.memory_bytes() == 1_000_000


@pytest.mark.parametrize("text", ["max\n", "9223372036854771712\n", ""])
def test_no_limit_is_none(groups, text):
    (groups / "self").write_text("0::/\n")
    (groups / "memory.max").write_text(text)
    assert memory_limit.group_limit_bytes() is None
