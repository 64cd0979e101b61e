"""A checkpoint is read by any layout, to the bit; the one that wrote it goes on as if it had not stopped."""

import numpy as np
import pytest
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict

from longcat.accelerator import choose
from longcat.config import load_config
from longcat.corpus.shards import Batch
from longcat.errors import ArtifactError
from longcat.parallel.axes import Degrees
from longcat.training import checkpoint
from longcat.training.trainer import Trainer
from tests.checkpoints import write_checkpoint
from tests.parallel.parity import EVERYTHING
from tests.parallel.whole import whole_tensor

pytestmark = pytest.mark.slow

CONFIG = ["training.optimizer.name=muon", *EVERYTHING]


def made(mesh, seed):
    return Trainer(load_config("smoke", None, [*CONFIG, f"seed={seed}"]), mesh, choose("cpu"), "fp32")


def batch(mesh, step):
    rows = np.random.default_rng(step).integers(3, 512, (4, 33))
    return Batch.of_rows(rows[mesh.batch_rank :: mesh.batch_world])


def state(trainer):
    """Weights, buffers and moments by name, whole, as arrays."""
    found = dict(trainer.weights.state_dict())
    for optimizer in trainer.optimizers:
        for name, moments in get_optimizer_state_dict(trainer.weights, optimizer)["state"].items():
            found |= {f"{name}: {kind}": value for kind, value in moments.items()}
    return {name: whole_tensor(tensor).numpy() for name, tensor in found.items()}


def write(mesh, folder):
    """Two steps, a checkpoint, and a third step."""
    trainer = made(mesh, 0)
    for step in range(2):
        trainer.step(step, batch(mesh, step))
    write_checkpoint(folder, 2, trainer.weights, trainer.optimizers)
    written = state(trainer)
    trainer.step(2, batch(mesh, 2))
    return written, state(trainer)


def read(mesh, folder):
    """The state that is read over other weights, and after the third step."""
    trainer = made(mesh, 1)
    assert checkpoint.load(folder, trainer.weights, trainer.optimizers) == 2
    found = state(trainer)
    trainer.step(2, batch(mesh, 2))
    return found, state(trainer)


@pytest.fixture(scope="module")
def written(ranks, tmp_path_factory):
    """Writes the checkpoint of a layout once; returns its folder, its state and that after another step."""
    done = {}

    def of(layout):
        if layout not in done:
            folder = tmp_path_factory.mktemp("written") / "state"
            done[layout] = folder, ranks.on_mesh(Degrees(*layout), write, folder)
        return done[layout]

    return of


@pytest.mark.parametrize("writers", [(2, 2), (4, 2)])
@pytest.mark.parametrize("readers", [(1, 1), (2, 1), (2, 2), (4, 2), (4, 4), (4, 2, 2)])
def test_every_layout_reads_the_same_state(ranks, written, writers, readers):
    folder, [(expected, expected_next), *_] = written(writers)
    for found, found_next in ranks.on_mesh(Degrees(*readers), read, folder):
        assert found.keys() == expected.keys()
        for name in expected:
            assert np.array_equal(found[name], expected[name]), name
            if readers == writers:
                assert np.array_equal(found_next[name], expected_next[name]), name


def refused(mesh, folder, settings):
    with pytest.raises(ArtifactError) as caught:
        trainer = Trainer(load_config("smoke", None, [*CONFIG, *settings]), mesh, choose("cpu"), "fp32")
        checkpoint.load(folder, trainer.weights, trainer.optimizers)
    return str(caught.value)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["model.num_layers=2"], "has no model.model.layers.1."),
        (["model.hidden_size=32"], "model.model.embed_tokens.weight is [512, 64] there, not [512, 32]"),
        (["model.n_routed_experts=8"], "is of another model"),
        (["training.optimizer.name=adamw"], "of another model or optimizer: it has no optimizer.state."),
    ],
)
def test_a_checkpoint_of_another_model_is_refused_by_every_rank(ranks, written, settings, message):
    folder, _ = written((2, 2))
    for found in ranks.on_mesh(Degrees(2, 2), refused, folder, settings):
        assert message in found
        assert str(folder) in found


def test_a_checkpoint_with_more_layers_is_refused(ranks, tmp_path):
    ranks.on_mesh(Degrees(1), write_layers, tmp_path / "state", 2)
    [found] = ranks.on_mesh(Degrees(1), refused, tmp_path / "state", [])
    assert "it has 2 layers, not model.num_layers=1" in found


def write_layers(mesh, folder, layers):
    trainer = Trainer(load_config("smoke", None, [*CONFIG, f"model.num_layers={layers}"]), mesh, choose("cpu"), "fp32")
    write_checkpoint(folder, 0, trainer.weights, trainer.optimizers)
