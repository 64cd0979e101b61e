"""What every rank of a layout does in test_parity: each check is a function of its mesh."""

from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist

from longcat.accelerator import choose
from longcat.config import load_config
from longcat.corpus.loader import Loader
from longcat.corpus.shards import Batch
from longcat.model import LongcatModel
from longcat.model.recomputation import use_recomputation
from longcat.padding import IGNORE, PADDING, is_padding
from longcat.parallel.axes import COPIES, SHARDS, SUMMED_OVER, VIEWS
from longcat.parallel.mesh import ProcessMesh
from longcat.parallel.parallelize import ParallelModel, parallelize
from longcat.training import checkpoint
from longcat.training.losses import Counts
from longcat.training.trainer import Trainer, global_counts
from tests.checkpoints import write_checkpoint
from tests.parallel.whole import gather_whole, own_part

TIMEOUT_S = 67.0
EVERYTHING = [
    "model.mtp_num_layers=2",
    "model.ngram={vocab_size_ratio: 2.5, neighbor_num: 3, split_num: 2}",
    "model.sparse_attention={index_n_heads: 2, index_head_dim: 12, index_topk: 8, index_init_tokens: 1, index_local_tokens: 3}",
]


def gradients(mesh: ProcessMesh, case: str) -> None:
    """Gradients of the parallel model equal those of one process with the whole batch."""
    config = load_config("smoke", overrides=[] if case in ("even", "starve") else EVERYTHING).model
    starve = case == "starve"
    tokens = torch.randint(3, 512, (4, 33), generator=torch.Generator().manual_seed(0))

    def initial() -> LongcatModel:
        model = LongcatModel(config)
        model.initialize(0)
        if starve:  # no token chooses routed expert 0
            for layer in model.blocks:
                layer.mlp.router.e_score_correction_bias[0] = -10
        return model

    spread = initial()
    batch = tokens[:, :-1], tokens[:, 1:].clone(), torch.zeros(4, 32, dtype=torch.long)
    if case == "documents":  # processes differ in tokens and targets
        for row, end in enumerate((32, 20, 30, 9)):
            batch[2][row, end // 2 :] = 1
            batch[2][row, end:], batch[1][row, end - 1 :] = PADDING, IGNORE
    real, learnt = int((~is_padding(batch[2])).sum()), int((batch[1] != IGNORE).sum())
    use_recomputation(spread, "full" if case == "recompute" else "none")
    parallel = parallelize(spread, mesh, torch.float32)
    own = [of[mesh.batch_rank :: mesh.batch_world] for of in batch]
    counts = global_counts(own[1], own[2], mesh)
    assert [int(count) for count in counts] == [real, learnt]
    parallel.zero_grad()
    parallel.backward(loss_of(parallel, own, counts), last=True)
    found = gather_whole({name: of.grad for name, of in spread.named_parameters()}, mesh)
    if mesh.rank > 0:
        return
    whole = initial()
    loss_of(whole, batch, Counts(real, learnt)).backward()
    expected = dict(whole.named_parameters())
    assert found.keys() == expected.keys()
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, expected[name].grad, atol=1e-6, rtol=1e-4, msg=name)
    if starve:
        assert float(whole.blocks[0].mlp.experts.down_proj.grad[0].abs().sum()) == 0


def timeouts(mesh: ProcessMesh) -> None:
    """Every group has the one time limit, a group that is opened later too."""
    pair = tuple(range(mesh.rank // 2 * 2, mesh.rank // 2 * 2 + 2))
    if mesh.processes > 2:
        mesh.open("pair", pair)
    axes = {axis.name for view in VIEWS.values() for axis in view}
    sums = {" x ".join(axes) for axes in SUMMED_OVER.values()}
    assert set(mesh.groups) == axes | sums | ({"pair"} if mesh.processes > 2 else set())
    known = [dist.group.WORLD, *mesh.groups.values()]
    for group in known:
        limit = group._get_backend(mesh.device).options._timeout  # torch has no public way to read it
        assert limit == timedelta(seconds=TIMEOUT_S), (group.group_desc, limit)
    opened = dist.distributed_c10d._world.pg_map  # and there are no groups but these
    assert set(opened) <= set(known)


def shares(mesh: ProcessMesh) -> None:
    """The processes that share experts, or a part of the batch, are those of the table."""
    for view in VIEWS.values():
        for axis in view:
            expected = mesh.degrees.grid(view).group(mesh.rank, axis.name)
            assert dist.get_process_group_ranks(mesh.axis(axis.name).get_group()) == list(expected), axis.name
    for shards, kind in ((mesh.dense_shards, "dense"), (mesh.expert_shards, "expert")):
        copies = mesh.degrees.grid_of(COPIES[kind]).degree(COPIES[kind])
        assert shards.mesh_dim_names == ((COPIES[kind], SHARDS[kind]) if copies > 1 else (SHARDS[kind],))
    parts = everyone((mesh.batch_rank, mesh.batch_world))
    read = [part for part in range(mesh.batch_world) for _ in range(mesh.row_processes)]
    assert sorted(part for part, _ in parts) == read
    sums = mesh.sum(
        {"losses": torch.tensor([1.0, mesh.rank]), "stop": torch.tensor(2.0), "expert_load": torch.ones(2, 3)}
    )
    assert sums["losses"].tolist() == [mesh.processes, sum(range(mesh.processes))]
    assert float(sums["stop"]) == 2 * mesh.processes
    assert torch.equal(sums["expert_load"], torch.full((2, 3), float(mesh.processes)))


class Rows:
    """Rows that hold their own number."""

    def __len__(self) -> int:
        return 24

    def take(self, indices: np.ndarray) -> Batch:
        return Batch(indices[:, None], indices[:, None], np.zeros_like(indices[:, None]))


def loader(mesh: ProcessMesh) -> None:
    """An epoch shows every row once, in the processes that share it."""
    own = Loader(Rows(), 0, 8, rank=mesh.batch_rank, world=mesh.batch_world)
    seen = dict(
        everyone((mesh.batch_rank, [row for step in range(3) for row in own.batch(step).tokens[:, 0].tolist()]))
    )
    assert sorted(number for numbers in seen.values() for number in numbers) == list(range(24))


def steps(mesh: ProcessMesh, folder: Path) -> tuple[list[float], list[list[float]]]:
    """Two steps with Muon, a checkpoint, another step; the step after reading the checkpoint is the same to the bit.

    Returns norms of the first two steps, loss and norm of the last one; and its load of the experts.
    """
    config = load_config("smoke", None, ["training.optimizer.name=muon"])
    accelerator = choose("cpu")
    batches = [np.random.default_rng(step).integers(3, 512, (4, 33)) for step in range(3)]
    own = [Batch.of_rows(rows[mesh.batch_rank :: mesh.batch_world]) for rows in batches]
    trainer = Trainer(config, mesh, accelerator, "fp32")
    norms = [trainer.step(step, own[step]).gradient_norm for step in range(2)]
    write_checkpoint(folder / "state", 2, trainer.weights, trainer.optimizers)
    last = trainer.step(2, own[2])
    again = Trainer(config, mesh, accelerator, "fp32")
    assert checkpoint.load(folder / "state", again.weights, again.optimizers) == 2
    repeated = again.step(2, own[2])
    assert (repeated.loss, repeated.gradient_norm) == (last.loss, last.gradient_norm)
    for (name, found), (_, expected) in zip(
        again.weights.named_parameters(), trainer.weights.named_parameters(), strict=True
    ):
        assert torch.equal(own_part(found), own_part(expected)), name
    return [*norms, last.loss, last.gradient_norm], last.expert_load.tolist()


def loss_of(model: LongcatModel | ParallelModel, batch: Sequence[torch.Tensor], counts: Counts) -> torch.Tensor:
    tokens, targets, documents = batch
    sums = model.sums(tokens, targets, "sparse", documents)
    return (sums.language_model + 0.3 * sums.mtp) / counts.targets + (
        sums.indexer + 1e-3 * sums.hidden_z
    ) / counts.tokens


def everyone(value: object) -> list:
    """What every process has, in the order of ranks."""
    found = [None] * dist.get_world_size()
    dist.all_gather_object(found, value)
    return found
