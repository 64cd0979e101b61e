import signal

import pytest

from longcat import memory_limit
from longcat.processes import memory_kills
from longcat.processes.memory_kills import MemoryKills

V2 = "0::/service"
V1 = "4:memory:/job\n0::/\n"


@pytest.fixture
def kernel(tmp_path, monkeypatch):
    """Writes what the kernel counts: of the control group in version 2 or 1, and of the machine."""
    monkeypatch.setattr(memory_limit, "_GROUPS", tmp_path / "cgroup")
    monkeypatch.setattr(memory_limit, "_MEMBERSHIP", tmp_path / "membership")
    monkeypatch.setattr(memory_kills, "_MACHINE", tmp_path / "vmstat")

    def counts(membership, file, of_group, of_machine):
        (tmp_path / "membership").write_text(membership)
        path = tmp_path / "cgroup" / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"low 0\noom 1\noom_kill {of_group}\n")
        (tmp_path / "vmstat").write_text(f"nr_free_pages 1\noom_kill {of_machine}\n")

    return counts


@pytest.mark.parametrize(
    ("membership", "file"),
    [
        (V2, "service/memory.events"),
        (V2, "memory.events"),
        (V1, "memory/job/memory.oom_control"),
        (V1, "memory/memory.oom_control"),
    ],
)
def test_the_limit_of_the_group_is_told_from_a_full_machine_and_from_a_signal(kernel, membership, file):
    kernel(membership, file, 3, 5)
    before = MemoryKills.now()
    assert before == MemoryKills(3, 5)
    assert before.why(-signal.SIGKILL) == " (not by the kernel for lack of memory)"
    kernel(membership, file, 3, 6)
    assert "the kernel has ended a process for it" in before.why(-signal.SIGKILL)
    kernel(membership, file, 4, 6)
    assert "limit of its control group" in before.why(-signal.SIGKILL)
    assert before.why(-signal.SIGSEGV) == before.why(1) == ""


def test_a_kernel_that_counts_nothing_leaves_the_question(tmp_path, monkeypatch):
    for module, name in ((memory_limit, "_GROUPS"), (memory_limit, "_MEMBERSHIP"), (memory_kills, "_MACHINE")):
        monkeypatch.setattr(module, name, tmp_path / "none")
    assert MemoryKills.now() == MemoryKills(None, None)
    assert MemoryKills.now().why(-signal.SIGKILL) == " (out of memory?)"
