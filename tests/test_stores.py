"""Databases are whole under their name, whenever whoever makes them is killed, and broken ones are kept aside."""

import logging
import os
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import suppress

import pytest

from longcat.stores import is_sound, made_whole, put_back, set_aside, set_aside_if_damaged, sqlite_path, sqlite_url

MAKE = {
    "mlflow.db": "from longcat.tracking.forwarding import prepare_store; prepare_store(path)",
    "prefect.db": "from longcat.flows.prefect_server import make; make(path)",
}
"""How each store is made."""


def database(path, rows=200):
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE runs (text)")
        connection.executemany("INSERT INTO runs VALUES (?)", [("x" * 100,)] * rows)
    connection.close()


@pytest.mark.parametrize(
    "name", ["plain", "a b", "ü#ñ", "q?a=1&b", "100%", "%41", '\'"quotes"', "+;:@,[]{}|", "l" * 200]
)
def test_a_url_leads_to_its_file_whatever_the_path(tmp_path, name):
    sqlalchemy = pytest.importorskip("sqlalchemy")
    path = tmp_path / name / "store.db"
    path.parent.mkdir()
    assert sqlite_path(sqlite_url(path)) == path
    engine = sqlalchemy.create_engine(sqlite_url(path))
    with engine.begin() as connection:
        connection.execute(sqlalchemy.text("CREATE TABLE t (x)"))
    engine.dispose()
    assert [file.relative_to(tmp_path).as_posix() for file in tmp_path.rglob("*.db")] == [f"{name}/store.db"]
    assert is_sound(path)


def test_ordinary_paths_are_written_as_they_are(tmp_path):
    assert sqlite_url(tmp_path / "a.db") == f"sqlite:///{tmp_path / 'a.db'}"
    assert sqlite_path("http://127.0.0.1:5000") is None


def damage_the_middle(path):
    data = bytearray(path.read_bytes())
    data[4096:12288] = os.urandom(8192)
    path.write_bytes(data)


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(b"no database" * 100),
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(path.read_bytes()[:5000]),
        damage_the_middle,
    ],
    ids=["other", "empty", "cut", "middle"],
)
def test_a_damaged_database_is_set_aside_by_name(tmp_path, caplog, damage):
    path = tmp_path / "store.db"
    database(path)
    assert is_sound(path)
    set_aside_if_damaged(path)
    assert path.exists()
    damage(path)
    damaged = path.read_bytes()
    assert not is_sound(path)
    set_aside_if_damaged(path)
    assert not path.exists()
    (aside,) = tmp_path.iterdir()
    assert aside.read_bytes() == damaged
    (record,) = [r for r in caplog.records if r.levelno == logging.WARNING]
    assert str(path) in record.getMessage()
    assert aside.name in record.getMessage()


def test_a_database_that_others_write_is_sound(tmp_path):
    path = tmp_path / "store.db"
    database(path)
    with sqlite3.connect(path) as writer:
        writer.execute("PRAGMA journal_mode = WAL")
        writer.execute("BEGIN IMMEDIATE")
        assert is_sound(path)
    writer.close()


def test_databases_set_aside_in_one_second_do_not_replace_one_another(tmp_path):
    path = tmp_path / "store.db"
    for content in ("one", "two", "three"):
        path.write_text(content)
        (tmp_path / "store.db-wal").write_text(f"journal of {content}")
        set_aside(path, "is damaged")
    kept = {file.read_text() for file in tmp_path.iterdir()}
    assert kept == {"one", "two", "three", "journal of one", "journal of two", "journal of three"}


def test_a_database_put_back_is_as_it_was(tmp_path):
    path = tmp_path / "store.db"
    path.write_text("old")
    aside = set_aside(path, "lets the server end")
    path.write_text("new")
    (tmp_path / "store.db-wal").write_text("journal of new")
    put_back(aside, path)
    assert {file.name: file.read_text() for file in tmp_path.iterdir()} == {"store.db": "old"}


def test_one_that_is_not_finished_never_gets_the_name(tmp_path):
    path = tmp_path / "store.db"
    with pytest.raises(ValueError, match="stop"), made_whole(path) as new:
        database(new)
        raise ValueError("stop")
    assert list(tmp_path.iterdir()) == []
    with made_whole(path) as new:
        connection = sqlite3.connect(new)
        connection.execute("PRAGMA journal_mode = WAL")
        database(new)
        assert not path.exists()
        connection.close()
    assert [file.name for file in tmp_path.iterdir()] == ["store.db"]
    assert is_sound(path)


def test_what_is_half_made_is_cleared_away_unless_its_maker_lives(tmp_path):
    """Told by a lock, not by numbers of processes, which other containers have, too."""
    path = tmp_path / "store.db"
    left = tmp_path / f".store.db.half-made-{os.getpid()}"
    left.mkdir()
    (left / "store.db").touch()
    with made_whole(path) as new:
        assert not left.exists()
        clear = "import sys, pathlib; from longcat.stores import clear_half_made as c; c(pathlib.Path(sys.argv[1]))"
        subprocess.run([sys.executable, "-c", clear, str(path)], check=True, timeout=300)
        database(new)
    assert [file.name for file in tmp_path.iterdir()] == ["store.db"]
    assert is_sound(path)


@pytest.mark.slow
@pytest.mark.parametrize("store", MAKE)
def test_a_kill_while_a_store_is_made_leaves_nothing_broken(tmp_path, store):
    """At several moments: before the file is there, and when it has grown to some sizes."""
    path = tmp_path / "w" / store
    command = [sys.executable, "-c", f"import sys, pathlib; path = pathlib.Path(sys.argv[1]); {MAKE[store]}", str(path)]
    environment = {**os.environ, "PREFECT_HOME": str(tmp_path / "home"), "MLFLOW_DISABLE_TELEMETRY": "true"}

    def size():
        total = 0
        with suppress(FileNotFoundError):  # a database's journal, and at the end the folder, come and go
            for file in path.parent.glob(f".{store}.*/*"):
                total += file.stat().st_size
        return total

    for bytes_there in (1, 200_000, 600_000):
        process = subprocess.Popen(command, env=environment, start_new_session=True)
        end = time.monotonic() + 300
        while process.poll() is None and size() < bytes_there and time.monotonic() < end:
            time.sleep(0.002)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(60)
        assert not path.exists() or is_sound(path)
    assert subprocess.run(command, env=environment, timeout=300, check=True)
    assert [file.name for file in path.parent.iterdir()] == [store]
    assert is_sound(path)
    with sqlite3.connect(path) as connection:
        assert connection.execute("SELECT count(*) FROM alembic_version").fetchone() == (1,)
    connection.close()
