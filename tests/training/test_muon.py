"""Orthogonalisation by its law, Muon by a plain matrix-by-matrix one, and on several ranks by one."""

from collections import Counter
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor

from longcat.accelerator import choose
from longcat.config import load_config
from longcat.corpus.shards import Batch
from longcat.parallel.axes import Degrees
from longcat.training import muon
from longcat.training.muon import Muon, cut_of, orthogonalise
from longcat.training.trainer import Trainer


@given(rows=st.integers(2, 40), columns=st.integers(2, 40), scale=st.sampled_from([1e-6, 1.0, 1e4]))
@settings(max_examples=25, deadline=None)
def test_singular_values_come_near_one_and_directions_stay(rows, columns, scale):
    torch.manual_seed(rows * 41 + columns)
    left, _ = torch.linalg.qr(torch.randn(rows, min(rows, columns)))
    right, _ = torch.linalg.qr(torch.randn(columns, min(rows, columns)))
    singular = torch.linspace(0.3, 1, min(rows, columns))
    out = orthogonalise(scale * (left * singular) @ right.T).float()
    values = torch.linalg.svdvals(out)
    assert values.min() > 0.5
    assert values.max() < 1.4
    assert (left.T @ out @ right).diagonal().min() > 0.4


def test_zeros_stay_zeros():
    assert torch.equal(orthogonalise(torch.zeros(3, 4, 5)), torch.zeros(3, 4, 5, dtype=torch.bfloat16))


def test_steps_are_of_the_type_asked_for():
    """On a CPU without bf16 in hardware its products cost several times the rest of a training step."""
    torch.manual_seed(0)
    matrices = torch.randn(3, 16, 24)
    narrow, wide = (orthogonalise(matrices, dtype) for dtype in (torch.bfloat16, torch.float32))
    assert (narrow.dtype, wide.dtype) == (torch.bfloat16, torch.float32)
    torch.testing.assert_close(narrow.float(), wide, atol=0.05, rtol=0.05)
    weights = {dtype: torch.nn.Parameter(matrices[0].clone()) for dtype in (torch.bfloat16, torch.float32)}
    for dtype, parameter in weights.items():
        parameter.grad = matrices[1].clone()
        Muon([parameter], lr=0.1, momentum=0.9, weight_decay=0.0, dtype=dtype).step()
    moved = {dtype: matrices[0] - parameter.detach() for dtype, parameter in weights.items()}
    assert not torch.equal(moved[torch.bfloat16], moved[torch.float32])
    torch.testing.assert_close(moved[torch.bfloat16], moved[torch.float32], atol=0.01, rtol=0.05)


def test_stacked_experts_move_like_single_matrices():
    torch.manual_seed(0)
    stack = torch.nn.Parameter(torch.randn(3, 6, 4))
    singles = [torch.nn.Parameter(stack.data[i].clone()) for i in range(3)]
    batched = Muon([stack], lr=0.1, momentum=0.9, weight_decay=0.1)
    plain = Muon(singles, lr=0.1, momentum=0.9, weight_decay=0.1)
    for _ in range(3):
        stack.grad = torch.randn(3, 6, 4)
        for i, single in enumerate(singles):
            single.grad = stack.grad[i].clone()
        batched.step()
        plain.step()
    torch.testing.assert_close(stack.data, torch.stack([s.data for s in singles]), atol=2e-2, rtol=2e-2)


PARAMETERS = [((64, 48), 0)] * 5 + [((50, 96), 0)] * 3 + [((3, 16), 0)] * 2 + [((24, 8), 1)] * 2
PARAMETERS += [((8, 24, 16), 1)] * 2 + [((2, 10, 32), 2), ((3, 6, 7), 0)]
"""Shapes, and the dimension along which each one is sharded: rows that do not divide, fewer of them than ranks, columns,
experts cut inside, and a stack of whole ones."""


def three_steps(parameters, gradients, dtype):
    optimizer = Muon(parameters, lr=0.02, momentum=0.95, weight_decay=0.1, dtype=dtype)
    for step in gradients:
        for parameter, gradient in zip(parameters, step, strict=True):
            parameter.grad = gradient
        optimizer.step()
    return optimizer


def draws(times):
    generator = torch.Generator().manual_seed(0)
    return [[torch.randn(shape, generator=generator) for shape, _ in PARAMETERS] for _ in range(times)]


def moved_alone(dtype):
    start, *gradients = draws(4)
    parameters = [torch.nn.Parameter(weights) for weights in start]
    three_steps(parameters, gradients, dtype)
    return parameters


def moved_together(mesh, copies, dtype):
    axes = init_device_mesh("cpu", (copies, mesh.processes // copies))

    def spread(tensors):
        pairs = zip(tensors, PARAMETERS, strict=True)
        return [
            distribute_tensor(tensor, axes, [Replicate(), Shard(dim)], src_data_rank=None) for tensor, (_, dim) in pairs
        ]

    start, *gradients = draws(4)
    parameters = [torch.nn.Parameter(weights) for weights in spread(start)]
    optimizer = three_steps(parameters, [spread(step) for step in gradients], dtype)
    for parameter in parameters:
        momentum = optimizer.state[parameter]["momentum"]
        assert momentum.placements == parameter.placements
        assert momentum.to_local().shape == parameter.to_local().shape
    return [parameter.full_tensor().detach() for parameter in parameters]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("copies", "shards", "threads"), [(1, 2, False), (1, 4, True), (1, 7, True), (3, 2, True)])
def test_sharded_parameters_move_as_in_one_process(ranks, copies, shards, threads, dtype):
    expected = moved_alone(dtype)
    for found in ranks.on_mesh(Degrees(copies * shards), moved_together, copies, dtype, threads=threads):
        for one, other, (shape, _) in zip(found, expected, PARAMETERS, strict=True):
            assert torch.equal(one, other), shape


CUT_TWICE = [((64, 48), 0)] * 3 + [((36, 20), 0), ((48, 50), 1), ((20, 36), 1)]
"""Shapes, and the dimension that `tensor` divides; FSDP cuts rows of what that has left, evenly or not."""


def moved_along_two_axes(mesh, dtype):
    """Three steps of matrices that are laid out as those of a model are, and whether their parts are where torch has them."""
    generator = torch.Generator().manual_seed(0)
    start, *gradients = [[torch.randn(shape, generator=generator) for shape, _ in CUT_TWICE] for _ in range(4)]
    module = torch.nn.ParameterList(start)
    if mesh.processes > 1:
        for number, (weights, (_, dimension)) in enumerate(zip(start, CUT_TWICE, strict=True)):
            own = distribute_tensor(weights, mesh.axis("tensor"), [Shard(dimension)], src_data_rank=None)
            module[number] = torch.nn.Parameter(own)
        fully_shard(module, mesh=mesh.dense_shards)
    parameters = list(module)

    def laid_out(whole, parameter):
        if not isinstance(parameter, DTensor):
            return whole
        [chunk] = parameter.__create_chunk_list__()
        own = whole[tuple(slice(at, at + size) for at, size in zip(chunk.offsets, chunk.sizes, strict=True))]
        part = cut_of(parameter, partial(mesh.share, "both")).parts[
            mesh.degrees.grid_of("dense_shard", "tensor").place(mesh.rank, "dense_shard", "tensor")
        ]
        assert torch.equal(part.of(whole), own)
        return DTensor.from_local(
            own.contiguous(), parameter.device_mesh, parameter.placements, shape=whole.shape, stride=whole.stride()
        )

    optimizer = Muon(parameters, 0.02, 0.95, 0.1, dtype, partial(mesh.share, "both"))
    for step in gradients:
        for parameter, gradient in zip(parameters, step, strict=True):
            parameter.grad = laid_out(gradient, parameter)
        optimizer.step()
    return [of.full_tensor().detach() if isinstance(of, DTensor) else of.detach() for of in parameters]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    "degrees",
    [Degrees(2, tensor=2), Degrees(4, tensor=2), Degrees(8, tensor=2, context=2), Degrees(12, tensor=2, replicate=2)],
)
def test_matrices_cut_along_two_axes_move_as_in_one_process(ranks, degrees, dtype):
    [expected] = ranks.on_mesh(Degrees(1), moved_along_two_axes, dtype)
    for found in ranks.on_mesh(degrees, moved_along_two_axes, dtype, threads=degrees.processes > 2):
        for one, other, (shape, _) in zip(found, expected, CUT_TWICE, strict=True):
            assert torch.equal(one, other), shape


def orthogonalised(mesh):
    """A step of a model with Muon in which every matrix that is orthogonalised here is noted."""
    config = load_config("smoke", None, ["training.optimizer.name=muon"])
    trainer = Trainer(config, mesh, choose("cpu"), "fp32")
    noted = Counter()

    def note(matrices, dtype):
        noted.update({tuple(matrices.shape[-2:]): matrices.shape[:-2].numel()})
        return orthogonalise(matrices, dtype)

    rows = torch.randint(3, 512, (4, 33), generator=torch.Generator().manual_seed(0)).numpy()
    muon.orthogonalise = note
    trainer.step(0, Batch.of_rows(rows[mesh.batch_rank :: mesh.batch_world]))
    local = {
        name: (parameter.shape, parameter.to_local().shape)
        for name, parameter in trainer.weights.named_parameters()
        if isinstance(parameter, DTensor) and parameter.dim() == 3
    }
    return noted, local


@pytest.mark.slow
@pytest.mark.parametrize(
    "degrees",
    [
        Degrees(2),
        Degrees(4, 2),
        Degrees(4, replicate=2),
        Degrees(4, 2, 2),
        Degrees(2, tensor=2),
        Degrees(4, 2, tensor=2),
    ],
)
def test_every_matrix_is_orthogonalised_once_and_owners_take_turns(ranks, degrees):
    """Experts included, of which every rank holds an equal part."""
    [(expected, _)] = ranks.on_mesh(Degrees(), orthogonalised)
    found = ranks.on_mesh(degrees, orthogonalised)
    assert sum((noted for noted, _ in found), Counter()) == expected
    shares = [noted.total() for noted, _ in found]
    assert max(shares) - min(shares) <= 2, shares
    for _, local in found:
        assert len(local) == 2
        for whole, own in local.values():
            assert own == (whole[0] // degrees.expert, whole[1] // degrees.expert_shard, whole[2])
