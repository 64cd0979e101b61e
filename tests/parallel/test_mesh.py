"""Joining and leaving the groups."""

import pytest


def test_another_number_of_processes_is_refused(monkeypatch):
    from longcat.accelerator import choose
    from longcat.errors import ConfigError
    from longcat.parallel.axes import Degrees
    from longcat.parallel.mesh import join, leave
    from longcat.processes.child import free_port

    variables = {"RANK": 0, "LOCAL_RANK": 0, "WORLD_SIZE": 1, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
    for name, value in variables.items():
        monkeypatch.setenv(name, str(value))
    try:
        with pytest.raises(ConfigError, match="training.processes=2, but torchrun started 1"):
            join(choose("cpu"), Degrees(2), timeout_s=30)
    finally:
        leave()
