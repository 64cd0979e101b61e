"""Fixtures of tests that train in this process."""

import os

import pytest

from longcat.accelerator import choose
from longcat.config import load_config
from longcat.parallel.axes import Degrees
from longcat.parallel.mesh import join, leave
from longcat.processes.child import free_port
from longcat.training.trainer import Trainer


@pytest.fixture
def mesh(monkeypatch):
    """A group of one process."""
    for name, value in {
        "RANK": 0,
        "LOCAL_RANK": 0,
        "WORLD_SIZE": 1,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": free_port(),
    }.items():
        monkeypatch.setitem(os.environ, name, str(value))
    yield join(choose("cpu"), Degrees(), timeout_s=30)
    leave()


@pytest.fixture
def make_trainer(mesh):
    """Makes trainers in a group of one process."""
    return lambda *overrides, precision="fp32": Trainer(
        load_config("smoke", None, overrides), mesh, choose("cpu"), precision
    )
