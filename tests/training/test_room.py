"""What training will lack is told before it starts."""

from types import SimpleNamespace

import pytest

from longcat.config import load_config
from longcat.errors import StorageError
from longcat.printable import large_bytes
from longcat.training import room
from longcat.training.room import check_room, checkpoint_bytes, doubts


def disk(monkeypatch, free):
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=free))


def test_where_there_is_room_nothing_is_said(tmp_path):
    assert doubts(load_config("smoke"), tmp_path / "not" / "yet") == []
    check_room(load_config("smoke"), tmp_path)


def test_a_checkpoint_is_three_numbers_a_parameter():
    """2.29 MB lie in `state/` of a checkpoint of smoke, some of it the file format."""
    assert 1.8e6 < checkpoint_bytes(load_config("smoke")) < 2.3e6


def test_all_kept_checkpoints_need_room(tmp_path, monkeypatch):
    settings = ["training.steps=100", "training.checkpoint_every_steps=10", "training.keep_checkpoints=3"]
    config = load_config("smoke", None, settings)
    one = checkpoint_bytes(config)
    disk(monkeypatch, 4 * one)
    assert doubts(config, tmp_path) == []
    disk(monkeypatch, 4 * one - 1)
    (said,) = doubts(config, tmp_path)
    assert f"(4 of {large_bytes(one)})" in said and str(tmp_path) in said and "training.keep_checkpoints" in said
    check_room(config, tmp_path)
    disk(monkeypatch, one - 1)
    with pytest.raises(StorageError, match="a checkpoint of this model takes about"):
        check_room(config, tmp_path)


def test_too_little_memory_for_the_batch_is_a_doubt(tmp_path, monkeypatch):
    device = room.training_device(load_config("smoke"))
    small = device.__class__(**{**device.__dict__, "memory_bytes": 900_000_000, "count": 2})
    monkeypatch.setattr(room, "training_device", lambda _: small)
    (said,) = doubts(load_config("smoke"), tmp_path)
    assert "1.0 GB of memory in 2 processes" in said and "has 0.9 GB" in said and "micro_batch_sequences" in said
