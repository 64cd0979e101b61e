"""What every rank of a layout does in test_embedding: each check is a function of its mesh."""

from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.tensor import Shard, distribute_tensor

from longcat.accelerator import choose
from longcat.config import ParallelConfig, load_config
from longcat.corpus.shards import Batch
from longcat.model import LongcatModel
from longcat.model.ngram import Tables
from longcat.model.recomputation import use_recomputation
from longcat.padding import IGNORE, PADDING, is_padding
from longcat.parallel.data import FSDPModel
from longcat.parallel.embedding import SpreadTables
from longcat.parallel.mesh import ProcessMesh
from longcat.parallel.parallelize import parallelize
from longcat.training import checkpoint
from longcat.training.losses import Counts, losses, weighted_total
from longcat.training.trainer import Trainer, global_counts
from tests.checkpoints import write_checkpoint
from tests.parallel.whole import gather_parts, gather_whole, own_part, part_of

EVERYTHING = [
    "model.mtp_num_layers=2",
    "model.ngram={vocab_size_ratio: 2.5, neighbor_num: 3, split_num: 2}",
    "model.sparse_attention={index_n_heads: 2, index_head_dim: 12, index_topk: 8, index_init_tokens: 1, index_local_tokens: 3}",
    "parallel.embedding=true",
]
ROWS, WIDTH = 13, 6


def lookups(mesh: ProcessMesh) -> list[torch.Tensor]:
    """Row numbers of three micro-batches of this process: duplicates here and elsewhere, rows that nobody asks for.

    The last process asks for rows of the first one only, and in the last micro-batch all want one row.
    """
    generator = torch.Generator().manual_seed(mesh.rank)
    numbers = [torch.randint(0, ROWS - 2, (2, 5), generator=generator) for _ in range(2)]
    if mesh.rank == mesh.processes - 1:
        numbers[1] = torch.zeros(2, 5, dtype=torch.long)
    return [*numbers, torch.full((1, 3), ROWS - 1)]


def exchange(mesh: ProcessMesh, rows: int, dense: bool) -> None:
    """Rows and their gradients equal those of a whole table to the bit; factors are whole numbers, so sums are exact."""
    whole = nn.Embedding(rows, WIDTH)
    whole.weight.data = torch.arange(rows * WIDTH, dtype=torch.float32).view(rows, WIDTH)
    tables = Tables(rows, WIDTH)
    tables.weight = nn.Parameter(
        distribute_tensor(whole.weight.data, mesh.table_shards, [Shard(0)], src_data_rank=None)
    )
    spread = SpreadTables(tables, torch.float32, dense, mesh.table_shards.get_group())
    mine = [numbers % rows for numbers in lookups(mesh)]
    waits = [tables.start(numbers) for numbers in mine[:2]]  # several may be under way
    found = [wait() for wait in waits] + [tables.start(mine[2])()]
    factors = [torch.arange(of.numel(), dtype=torch.float32).view_as(of) + mesh.rank for of in found]
    for numbers, of, factor in zip(mine, found, factors, strict=True):
        assert torch.equal(of, whole(numbers))
        (of * factor).sum().backward()
    spread.finish()
    for numbers, parts in zip(everyone(mine), everyone(factors), strict=True):
        for asked, factor in zip(numbers, parts, strict=True):
            (whole(asked) * factor).sum().backward()
    first, share = mesh.rank * spread.share, len(spread.local)
    expected = whole.weight.grad[first : first + share]
    touched = expected.abs().sum(1).nonzero().flatten()
    assert torch.equal(spread.gradient.rows, touched)
    assert torch.equal(spread.gradient.values, expected[touched])
    if dense:
        assert torch.equal(spread.weight.grad.full_tensor(), whole.weight.grad)
    else:
        assert spread.weight.grad is None
    spread.drop_gradient()
    spread.finish()
    assert spread.gradient is None


def batch_of(rows: int, padded: bool) -> tuple[torch.Tensor, ...]:
    tokens = torch.randint(3, 60, (rows, 33), generator=torch.Generator().manual_seed(0))
    batch = tokens[:, :-1], tokens[:, 1:].clone(), torch.zeros(rows, 32, dtype=torch.long)
    if padded:  # processes differ in tokens and targets
        for row in range(rows):
            end = (32, 20, 30, 9)[row % 4]
            batch[2][row, end // 2 :] = 1
            batch[2][row, end:], batch[1][row, end - 1 :] = PADDING, IGNORE
    return batch


def gradients(mesh: ProcessMesh, parts: int, recompute: bool, dense: bool, padded: bool) -> None:
    """Gradients of the parallel model equal those of one process that has the same micro-batches, one after another."""
    config = load_config("smoke", None, [*EVERYTHING, "training.losses.balance_weight=0"])
    model = LongcatModel(config.model)
    model.initialize(0)
    batch = batch_of(parts * mesh.processes, padded)
    counts = Counts((~is_padding(batch[2])).sum(), (batch[1] != IGNORE).sum())
    use_recomputation(model, "full" if recompute else "none")
    parallel = parallelize(model, mesh, torch.float32, settings=ParallelConfig(embedding=True), rows_alone=not dense)
    own = [of[mesh.batch_rank :: mesh.batch_world] for of in batch]
    found = global_counts(own[1], own[2], mesh)
    assert [int(one) for one in found] == [int(one) for one in counts]
    parallel.zero_grad()
    for part in range(parts):
        tokens, targets, documents = (of[part : part + 1] for of in own)
        sums = parallel.sums(tokens, targets, "sparse", documents)
        parallel.backward(weighted_total(losses(sums, counts, config), config), last=part == parts - 1)
    named, table = dict(model.named_parameters()), "model.ngram_embeddings.tables.weight"
    shape = named[table].shape
    if mesh.processes > 1:
        assert isinstance(parallel, FSDPModel)
        assert len(parallel.tables.local) == len(torch.empty(shape[0]).chunk(mesh.processes)[mesh.rank])
    own = {name: part_of(of.grad) for name, of in named.items() if name != table or dense}
    if not dense:
        assert named[table].grad is None
        rows, values = parallel.tables.gradient
        here = torch.zeros_like(parallel.tables.local).index_copy_(0, rows, values)
        assert len(rows) < len(here) / 2
        own[table] = shape, (parallel.tables.first, 0), here
    gradients = gather_parts(own, mesh)
    if mesh.rank > 0:
        return
    whole = LongcatModel(config.model)
    whole.initialize(0)
    for tokens, targets, documents in zip(*(of.split(1) for of in batch), strict=True):
        sums = whole.sums(tokens, targets, "sparse", documents)
        weighted_total(losses(sums, counts, config), config).backward()
    expected = dict(whole.named_parameters())
    assert gradients.keys() == expected.keys()
    for name, gradient in gradients.items():
        close(name, gradient, expected[name].grad)


def same_as_gathered(mesh: ProcessMesh, compute: torch.dtype) -> None:
    """All gradients but the tables' equal those of tables that are gathered whole to the bit."""
    config = load_config("smoke", None, EVERYTHING)
    batch = [of[mesh.batch_rank :: mesh.batch_world] for of in batch_of(2 * mesh.processes, padded=True)]
    counts, found = global_counts(batch[1], batch[2], mesh), []
    for embedding in (False, True):
        model = LongcatModel(config.model)
        model.initialize(0)
        parallel = parallelize(model, mesh, compute, settings=ParallelConfig(embedding=embedding))
        loss = weighted_total(losses(parallel.sums(*batch[:2], "sparse", batch[2]), counts, config), config)
        parallel.backward(loss, last=True)
        found.append(gather_whole({name: of.grad for name, of in model.named_parameters()}, mesh))
    if mesh.rank > 0:
        return
    gathered, spread = found
    table = "model.ngram_embeddings.tables.weight"
    if compute == torch.bfloat16:  # gathered tables add up their gradients in bf16
        assert off(spread.pop(table), gathered.pop(table)) < 2**-6
    elif mesh.processes > 1:
        close(table, spread.pop(table), gathered.pop(table))
    assert all(torch.equal(spread[name], gradient) for name, gradient in gathered.items())


def close(name: str, found: torch.Tensor, expected: torch.Tensor) -> None:
    """A tensor differs by a millionth of its largest number at most; a sum left out is far above it.

    Gradients of indexers and routers are small differences of large numbers, so theirs may differ by more.
    """
    limit = 1e-5 if ".indexer." in name or ".router." in name else 1e-6
    assert off(found, expected) <= limit, (name, off(found, expected))


def off(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Largest difference of a tensor as a fraction of its largest number."""
    return float((found - expected).abs().max()) / max(1e-6, float(expected.abs().max()))


def settings(lazy: bool) -> list[str]:
    return [
        *EVERYTHING, "training.optimizer.learning_rate=0.01", "training.steps=20", "training.micro_batch_sequences=1",
        "training.optimizer.max_gradient_norm=0.5", f"training.optimizer.lazy_ngram_moments={str(lazy).lower()}",
    ]  # fmt: skip


def steps(mesh: ProcessMesh, folder: Path, lazy: bool, rows: int) -> list[float]:
    """Three steps of so many rows, a checkpoint, another step; the step after reading it is the same to the bit.

    Returns norms of the first three steps, loss and norm of the last one, and the held-out loss before it.
    """
    config, accelerator = load_config("smoke", None, settings(lazy)), choose("cpu")
    batches = [np.random.default_rng(step).integers(3, 60, (rows, 33)) for step in range(4)]
    own = [Batch.of_rows(batch[mesh.batch_rank :: mesh.batch_world]) for batch in batches]
    trainer = Trainer(config, mesh, accelerator, "fp32")
    norms = [trainer.step(step, own[step]).gradient_norm for step in range(3)]
    state = folder / f"state-{lazy}"
    write_checkpoint(state, 3, trainer.weights, trainer.optimizers)
    held = gather_whole(tensors(trainer), mesh)
    if mesh.rank == 0:
        torch.save(held, folder / f"held-{lazy}.pt")
    held_out = trainer.held_out_loss(3, own[3])
    last = trainer.step(3, own[3])
    again = Trainer(config, mesh, accelerator, "fp32")
    assert checkpoint.load(state, again.weights, again.optimizers) == 3
    assert again.held_out_loss(3, own[3]) == held_out
    repeated = again.step(3, own[3])
    assert (repeated.loss, repeated.gradient_norm) == (last.loss, last.gradient_norm)
    sample = again.sample([5, 9, 11], 4)
    again.settle_weights()
    trainer.settle_weights()
    expected = tensors(trainer)
    for name, found in tensors(again).items():
        assert torch.equal(own_part(found), own_part(expected[name])), name
    assert again.sample([5, 9, 11], 4) == sample
    return [*norms, last.loss, last.gradient_norm, held_out]


def resumed(mesh: ProcessMesh, other: Path, lazy: bool) -> None:
    """What another number of processes has written is read to the bit."""
    trainer = Trainer(load_config("smoke", None, settings(lazy)), mesh, choose("cpu"), "fp32")
    checkpoint.load(other / f"state-{lazy}", trainer.weights, trainer.optimizers)
    found = gather_whole(tensors(trainer), mesh)
    if mesh.rank == 0:
        held = torch.load(other / f"held-{lazy}.pt")
        assert held.keys() == found.keys()
        assert all(torch.equal(held[name], found[name]) for name in held)


def tensors(trainer: Trainer) -> dict[str, torch.Tensor]:
    """Weights and optimizer state by name."""
    names = {parameter: name for name, parameter in trainer.weights.named_parameters()}
    found = {name: parameter for parameter, name in names.items()}
    for optimizer in trainer.optimizers:
        for parameter, values in optimizer.state.items():
            found |= {f"{names[parameter]} {key}": value for key, value in values.items()}
    return found


def everyone(value: object) -> list:
    """What every process has, in the order of ranks."""
    found = [None] * dist.get_world_size()
    dist.all_gather_object(found, value)
    return found
