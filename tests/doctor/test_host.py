"""Disk, memory and limits of a machine."""

import resource
from types import SimpleNamespace

import pytest

from longcat.doctor import host


@pytest.mark.parametrize(
    ("kind", "word"), [("tmpfs", "restarts"), ("overlay", "volume"), ("nfs4", None), ("ext4", None)]
)
def test_a_file_system_that_forgets_is_told(tmp_path, monkeypatch, kind, word):
    mounts = [SimpleNamespace(mountpoint="/", fstype="xfs"), SimpleNamespace(mountpoint=str(tmp_path), fstype=kind)]
    monkeypatch.setattr("psutil.disk_partitions", lambda all: mounts)
    facts, _, notes = host.examine_disk(tmp_path / "not" / "yet")
    assert facts["file_system"].startswith(f"{kind}, ")
    assert bool(notes) == (word is not None) and (word or "") in "".join(notes)


def test_limits_are_seen(monkeypatch):
    monkeypatch.setattr(host, "group_limit_bytes", lambda: 2 * 10**9)
    monkeypatch.setattr(host, "memory_bytes", lambda: 2 * 10**9)
    monkeypatch.setattr(resource, "getrlimit", lambda _: (256, 256))
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(total=64 * 10**6))
    monkeypatch.setattr("time.time", lambda: 0.0)
    facts, problems, notes = host.examine_machine()
    assert (facts["memory_limit_gb"], facts["open_files"]) == (2.0, 256)
    said = " ".join(problems)
    assert "2.0 GB of memory" in said and "256 files" in said and "the clock says 1970" in said
    assert "--shm-size" in notes[0]
