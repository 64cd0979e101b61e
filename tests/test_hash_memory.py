import hashlib
import os
import pickle
import time
from pathlib import Path

import pytest

from longcat.hash_memory import REHASH, HashMemory


class Counting:
    """Hashes files, and counts how often."""

    def __init__(self):
        self.read = []

    def __call__(self, path):
        self.read.append(path.name)
        return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def later(monkeypatch):
    """Let time pass, so that files are no longer fresh."""
    now = time.time_ns
    monkeypatch.setattr("longcat.hash_memory.time.time_ns", lambda: now() + int(3e9))


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "a file"
    path.write_text("content")
    return path


def test_an_unchanged_file_is_hashed_once(file, tmp_path, later):
    hashed, memory = Counting(), HashMemory(tmp_path / "100%? #.db")
    assert memory.sha256(file, hashed) == memory.sha256(file, hashed) == hashlib.sha256(b"content").hexdigest()
    memory.save()
    again = HashMemory(tmp_path / "100%? #.db")
    assert again.sha256(file, hashed) == hashlib.sha256(b"content").hexdigest()
    assert pickle.loads(pickle.dumps(again)).sha256(file, hashed) == hashlib.sha256(b"content").hexdigest()
    assert hashed.read == ["a file"]


def rewritten(file):
    file.write_text("CONTENT")


def rewritten_with_the_old_time(file):
    times = file.stat()
    time.sleep(0.02)  # longer than a tick of the kernel's clock
    file.write_text("CONTENT")
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))


def replaced(file):
    times = file.stat()
    other = file.with_name("other")
    other.write_text("CONTENT")
    os.utime(other, ns=(times.st_atime_ns, times.st_mtime_ns))
    other.replace(file)


def longer(file):
    with file.open("a") as stream:
        stream.write("!")


@pytest.mark.parametrize("change", [rewritten, rewritten_with_the_old_time, replaced, longer])
def test_a_changed_file_is_hashed_again(file, tmp_path, later, change):
    hashed, memory = Counting(), HashMemory(tmp_path / "hashes.db")
    memory.sha256(file, hashed)
    memory.save()
    time.sleep(0.02)
    change(file)
    assert memory.sha256(file, hashed) == hashlib.sha256(file.read_bytes()).hexdigest()
    assert len(hashed.read) == 2


def test_a_fresh_file_is_not_remembered(file, tmp_path):
    hashed, memory = Counting(), HashMemory(tmp_path / "hashes.db")
    for _ in range(2):
        memory.sha256(file, hashed)
    assert len(hashed.read) == 2
    ahead = time.time() + 3600
    os.utime(file, (ahead, ahead))  # of a machine whose clock is ahead
    memory.sha256(file, hashed)
    memory.sha256(file, hashed)
    assert len(hashed.read) == 4


def test_a_file_that_changes_while_it_is_hashed_is_not_remembered(file, tmp_path, later):
    def changing(path):
        longer(path)
        return "0" * 64

    memory, hashed = HashMemory(tmp_path / "hashes.db"), Counting()
    memory.sha256(file, changing)
    assert memory.sha256(file, hashed) == hashlib.sha256(b"content!").hexdigest()


def test_everything_is_hashed_when_that_is_wanted(file, tmp_path, later, monkeypatch):
    hashed, memory = Counting(), HashMemory(tmp_path / "hashes.db")
    memory.sha256(file, hashed)
    monkeypatch.setenv(REHASH, "1")
    memory.sha256(file, hashed)
    monkeypatch.setenv(REHASH, "0")
    memory.sha256(file, hashed)
    assert len(hashed.read) == 2


@pytest.mark.parametrize("content", [b"", b"not a database" * 100, None])
def test_a_database_that_cannot_be_used_costs_time_alone(file, tmp_path, later, content):
    database = tmp_path / "hashes.db"
    if content is None:
        database = Path("/proc/none/hashes.db")
    else:
        database.write_bytes(content)
    hashed = Counting()
    for _ in range(3):
        memory = HashMemory(database)
        assert memory.sha256(file, hashed) == hashlib.sha256(b"content").hexdigest()
        memory.save()
    if content is not None:  # it was made anew
        assert len(hashed.read) < 3


def test_a_missing_file_is_the_callers_to_judge(tmp_path):
    with pytest.raises(FileNotFoundError):
        HashMemory(tmp_path / "hashes.db").sha256(tmp_path / "none", Counting())
