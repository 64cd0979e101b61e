"""A batch whose loss is not finite changes neither weights nor moments nor balance."""

import os

import numpy as np
import pytest
import torch

from longcat.accelerator import choose
from longcat.config import load_config
from longcat.parallel.mesh import join, leave
from longcat.training.trainer import Trainer


@pytest.fixture
def trainer(monkeypatch):
    from flows.server import free_port

    for name, value in {
        "RANK": 0,
        "LOCAL_RANK": 0,
        "WORLD_SIZE": 1,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": free_port(),
    }.items():
        monkeypatch.setitem(os.environ, name, str(value))
    config = load_config("smoke", None, ["training.optimizer.name=muon"])
    yield Trainer(config, join(choose("cpu"), 1, timeout_s=30), choose("cpu"), "fp32")
    leave()


def snapshot(trainer):
    tensors = [p.detach().full_tensor().clone() for p in trainer.model.parameters()]
    tensors += [router.e_score_correction_bias.clone() for router in trainer.routers]
    for optimizer in trainer.optimizers:
        for state in optimizer.state.values():
            tensors += [value.full_tensor().clone() for value in state.values() if hasattr(value, "full_tensor")]
    return tensors


def test_a_step_that_is_not_finite_changes_nothing(trainer):
    batch = np.random.default_rng(0).integers(3, 512, (4, 33))
    assert not trainer.step(0, batch).skipped
    before = snapshot(trainer)
    forward = trainer.model.model.norm.forward
    trainer.model.model.norm.forward = lambda x: forward(x) * float("nan")
    result = trainer.step(1, batch)
    trainer.model.model.norm.forward = forward
    assert result.skipped
    assert np.isnan(result.loss)
    assert all(torch.equal(a, b) for a, b in zip(before, snapshot(trainer), strict=True))
    after = trainer.step(2, batch)
    assert not after.skipped
    assert np.isfinite(after.loss)
