"""What stays gathered between forward and backward pass, and that freeing it changes no number."""

import pytest
import torch
from torch.distributed.tensor import DTensor

from longcat.config import load_config
from longcat.costs.memory import GATHERED_SHARE
from longcat.model import LongcatModel
from longcat.model.generation import continue_greedily
from longcat.parallel.axes import Degrees
from longcat.parallel.data import gathered_again, reshard
from longcat.parallel.parallelize import parallelize
from longcat.training.losses import Counts
from tests.parallel.parity import EVERYTHING, loss_of
from tests.parallel.whole import whole_tensor

CONFIG = load_config("smoke", overrides=EVERYTHING).model


def numbers(module):
    return sum(parameter.numel() for parameter in module.parameters())


def parts_of(model):
    """Numbers in experts, in the rest of the layers and in the rest of the model."""
    experts = sum(numbers(layer.mlp.experts) for layer in model.blocks)
    layers = sum(numbers(layer) for layer in (*model.blocks, model.model.mtp)) - experts
    return experts, layers, numbers(model) - layers - experts


@pytest.mark.parametrize("compute", [torch.float32, torch.bfloat16])
def test_experts_are_freed_before_layers(compute):
    with torch.device("meta"):
        model = LongcatModel(CONFIG)
    experts, layers, rest = parts_of(model)

    def at(gathered):
        return gathered_again(model, compute, round(gathered * compute.itemsize / GATHERED_SHARE))

    assert gathered_again(model, compute, None) == set()
    assert at(experts + layers + rest) == set()
    assert at(experts + layers + rest - 1) == {"experts"}
    assert at(layers + rest) == {"experts"}
    assert at(layers + rest - 1) == {"experts", "layers"}


def sizes(model):
    """Numbers of each parameter that are in memory here."""
    return {name: (of.to_local() if isinstance(of, DTensor) else of).numel() for name, of in model.named_parameters()}


def gathered(mesh, memory_bytes):
    """Numbers that stay gathered before and after a forward pass; gradients of passes after a text; the text."""
    model = LongcatModel(CONFIG)
    model.initialize(0)
    parallel = parallelize(model, mesh, torch.float32, memory_bytes=memory_bytes)
    shards = sizes(model)

    def whole():
        return sum(size for name, size in sizes(model).items() if size > shards[name])

    parallel.gather()
    counted = [whole()]
    text = continue_greedily(model.eval(), [5, 9, 11], 4)
    reshard(model.train())
    assert whole() == 0
    tokens = torch.randint(3, 512, (2, 33), generator=torch.Generator().manual_seed(mesh.rank))
    batch = tokens[:, :-1], tokens[:, 1:].clone(), torch.zeros(2, 32, dtype=torch.long)
    parallel.zero_grad()
    for last in (False, True):
        loss = loss_of(parallel, batch, Counts(torch.tensor(256), torch.tensor(256)))
        counted.append(whole())
        parallel.backward(loss, last=last)
    gradients = {name: whole_tensor(of.grad).numpy() for name, of in model.named_parameters()}
    assert whole() == 0
    return counted, gradients, text


@pytest.mark.slow
@pytest.mark.parametrize("degrees", [(2, 1), (4, 2)])
def test_memory_is_freed_and_no_number_changes(ranks, degrees):
    with torch.device("meta"):
        model = LongcatModel(CONFIG)
    experts, layers, rest = (number // share for number, share in zip(parts_of(model), (degrees[1], 1, 1), strict=True))
    kept, gradients, text = ranks.on_mesh(Degrees(*degrees), gathered, None, stay=True)[0]
    assert kept == [experts + layers + rest] * 3
    for limit, left in ((layers + rest, layers + rest), (rest, rest)):
        found, same, again = ranks.on_mesh(Degrees(*degrees), gathered, round(limit * 4 / GATHERED_SHARE), stay=True)[0]
        assert found == [left] * 3
        assert again == text
        for name, expected in gradients.items():
            assert (same[name] == expected).all(), name
