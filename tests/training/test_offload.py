"""States on the host change where memory is, and nothing that is computed."""

import numpy as np
import pytest
import torch

from longcat.corpus.shards import Batch
from longcat.parallel.axes import Degrees
from longcat.training import checkpoint, offload
from tests.checkpoints import write_checkpoint
from tests.parallel.training import Case, train

LAZY = [
    "model.ngram={vocab_size_ratio: 2.5, neighbor_num: 3, split_num: 2}",
    "parallel.embedding=true",
    "training.optimizer.lazy_ngram_moments=true",
]


def batch(step):
    return Batch.of_rows(np.random.default_rng(step).integers(3, 512, (2, 33)))


def states(trainer):
    return [of for one in trainer.optimizers for state in one.state.values() for of in state.values() if of.dim()]


def bits(trainer):
    for optimizer in trainer.optimizers:
        optimizer.state_dict()  # brings them
    return [of.clone() for of in (*trainer.weights.state_dict().values(), *states(trainer))]


@pytest.mark.parametrize("overrides", [["training.optimizer.name=adamw"], ["training.optimizer.name=muon"], LAZY])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_training_is_the_same_and_rests_on_the_host(make_trainer, monkeypatch, overrides, precision):
    monkeypatch.setattr(offload, "PIECE_BYTES", 40_000)
    plain = make_trainer(*overrides, precision=precision)
    away = make_trainer(*overrides, "training.optimizer.offload=true", precision=precision)
    stay = (
        0
        if overrides != LAZY
        else sum(of.numel() * 4 for of in away.optimizers[1].state[away.parallel.tables.weight].values() if of.dim())
    )
    for step in range(3):
        assert sum(of.untyped_storage().nbytes() for of in states(away)) == stay
        assert plain.step(step, batch(step)).loss == away.step(step, batch(step)).loss
    assert all(torch.equal(a, b) for a, b in zip(bits(plain), bits(away), strict=True))


def test_one_piece_at_a_time_is_on_the_device(make_trainer, monkeypatch):
    monkeypatch.setattr(offload, "PIECE_BYTES", 40_000)
    trainer = make_trainer("training.optimizer.name=adamw", "training.optimizer.offload=true")
    [adamw], seen = trainer.optimizers, []
    adamw.register_step_pre_hook(lambda *_: seen.append(sum(of.untyped_storage().nbytes() for of in states(trainer))))
    trainer.step(0, batch(0))
    largest = max(2 * of.numel() * 4 for group in adamw.param_groups for of in group["params"])
    assert len(seen) > 3
    assert 0 < max(seen) <= max(40_000, largest)


def test_a_checkpoint_holds_the_states(make_trainer, tmp_path):
    options = ["training.optimizer.name=muon", "training.optimizer.offload=true"]
    first, second, plain = make_trainer(*options), make_trainer(*options), make_trainer(options[0])
    first.step(0, batch(0))
    write_checkpoint(tmp_path, 1, first.weights, first.optimizers)
    for trainer in (second, plain):
        assert checkpoint.load(tmp_path, trainer.weights, trainer.optimizers) == 1
    for trainer in (first, second, plain):
        trainer.step(1, batch(1))
    expected = bits(plain)
    for trainer in (first, second):
        assert sum(of.untyped_storage().nbytes() for of in states(trainer)) == 0
        assert all(torch.equal(a, b) for a, b in zip(bits(trainer), expected, strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_sharded_states_are_the_same(ranks, name):
    settings = (f"training.optimizer.name={name}",)
    plain, away = (
        ranks.on_mesh(Degrees(2, expert=2), train, Case(rows=4, steps=2, overrides=(*settings, *extra)))[0]
        for extra in ((), ("training.optimizer.offload=true",))
    )
    assert plain.losses == away.losses
    assert all(torch.equal(of, away.weights[key]) for key, of in plain.weights.items())
