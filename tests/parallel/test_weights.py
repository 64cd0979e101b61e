"""Every layout starts from the same weights, of which a rank draws its own part, never a whole table or stack of experts."""

from datetime import timedelta

import pytest
import torch
import torch.distributed as dist
from torch.distributed.tensor import DTensor
from torch.testing._internal.distributed.fake_pg import FakeStore
from torch.utils._python_dispatch import TorchDispatchMode

from longcat.accelerator import choose
from longcat.config import load_config
from longcat.model import LongcatModel
from longcat.model.initialisation import BLOCK_ROWS
from longcat.parallel.axes import Degrees
from longcat.parallel.mesh import ProcessMesh
from longcat.parallel.parallelize import parallelize
from longcat.training.trainer import Trainer
from tests.parallel.parity import EVERYTHING
from tests.parallel.whole import gather_whole

RANKS, EXPERT_PARALLEL, RANK = 2048, 8, 1029


class Largest(TorchDispatchMode):
    """Notes the most numbers of a tensor that has memory."""

    numbers = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        for tensor in made if isinstance(made, (list, tuple)) else [made]:
            if isinstance(tensor, torch.Tensor) and tensor.device.type != "meta" and not isinstance(tensor, DTensor):
                self.numbers = max(self.numbers, tensor.numel())
        return made


@pytest.fixture
def mesh(monkeypatch):
    """A rank's place among 2,048 that are not there."""
    dist.init_process_group("fake", store=FakeStore(), rank=RANK, world_size=RANKS)
    monkeypatch.setattr(dist, "all_reduce", lambda tensor, group: tensor.fill_(group.size()))
    yield ProcessMesh(Degrees(RANKS, EXPERT_PARALLEL), RANK, torch.device("cpu"), timedelta(seconds=60))
    dist.destroy_process_group()


def test_a_rank_draws_only_its_part(mesh):
    """A smoke model with a large n-gram table, and as many experts as keep every expert's matrices cut."""
    config = load_config(
        "smoke",
        overrides=[
            "model.num_layers=1",
            "model.n_routed_experts=64",
            "model.ngram={vocab_size_ratio: 4000.5, neighbor_num: 3, split_num: 2}",
        ],
    ).model
    with torch.device("meta"):
        model = LongcatModel(config)
    whole = {name: parameter.shape for name, parameter in model.named_parameters()}
    with Largest() as largest:
        parallelize(model, mesh, torch.float32, seed=3)
    parts = {name: parameter.to_local() for name, parameter in model.named_parameters()}
    total = sum(shape.numel() for shape in whole.values())
    assert max(shape.numel() for shape in whole.values()) > 100 * largest.numbers
    assert largest.numbers <= max(*(part.numel() for part in parts.values()), BLOCK_ROWS * 256)
    assert sum(part.numel() for part in parts.values()) < 3 * total / RANKS + 1000
    table = parts["model.ngram_embeddings.tables.weight"]
    assert len(table) == -(-whole["model.ngram_embeddings.tables.weight"][0] // RANKS)
    assert 0 < table.std() < 1


def initial(mesh, precision):
    """A trainer's weights and buffers are those of a model in one process, to the bit."""
    config = load_config("smoke", overrides=[*EVERYTHING, "seed=5"])
    weights = Trainer(config, mesh, choose("cpu"), precision).weights
    found = gather_whole({**dict(weights.named_parameters()), **dict(weights.named_buffers())}, mesh)
    if mesh.rank > 0:
        return
    alone = LongcatModel(config.model)
    alone.initialize(5)
    expected = {**dict(alone.named_parameters()), **dict(alone.named_buffers())}
    assert found.keys() == expected.keys()
    for name, tensor in found.items():
        assert torch.equal(tensor, expected[name].detach()), name


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("degrees", [(1, 1), (2, 1), (4, 1), (2, 2), (4, 2), (4, 2, 2)])
def test_every_layout_starts_from_the_weights_of_one_process(ranks, degrees, precision):
    ranks.on_mesh(Degrees(*degrees), initial, precision, stay=True)
