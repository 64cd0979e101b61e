"""Training steps under any layout, and their comparison with those of one process: what other tests of layouts build on.

    def test_layout(ranks):
        case = Case(rows=4)
        expected = ranks.on_mesh(Degrees(1), train, case)[0]
        compare(ranks.on_mesh(Degrees(4, replicate=2), train, case)[0], expected)

Micro-batches are of one row everywhere: the balance loss is defined over the rows of a micro-batch, so the same
micro-batches have the same losses under every layout.
"""

import dataclasses
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch.distributed.fsdp import FSDPModule

from longcat.accelerator import choose
from longcat.config import load_config
from longcat.corpus.shards import Batch
from longcat.model.places import take
from longcat.padding import IGNORE, PADDING
from longcat.parallel.axes import Degrees
from longcat.training import checkpoint
from longcat.training import trainer as trainer_module
from longcat.training.trainer import Trainer
from tests.checkpoints import write_checkpoint
from tests.parallel.whole import gather_whole

EVERYTHING = (
    "model.mtp_num_layers=2",
    "model.ngram={vocab_size_ratio: 2.5, neighbor_num: 3, split_num: 2}",
    "model.sparse_attention={index_n_heads: 2, index_head_dim: 12, index_topk: 8, index_init_tokens: 1, index_local_tokens: 3}",
)
SMOOTH = "training.optimizer.epsilon=1e-6"
"""So that AdamW moves no weight by the sign of a gradient that is made of rounding errors."""
EXCHANGES = {
    ("keys", "context"): "gradient norm",
    ("keys", "tensor"): "gradient norm",
    ("heads", "tensor"): "expert loads",
    ("target", "tensor"): "loss indexer",
    ("vocabulary", "tensor"): "loss language_model",
    ("parts", "tensor"): "gradient norm",
    ("indexer", "tensor"): "gradient",
}
"""Sums in a model that can be left out, along which axis, and what is wrong first without them: what the queries of other
processes give to compressed keys (the rotated one, too), what other heads give to a token, the indexer's target, the
softmax over the vocabulary, the gradients of all that each process holds, and those of the indexers alone."""
INDEXERS = set()
"""Parameters of indexers, by id, of all ranks that are threads."""
TOKENS = 32
"""Length of a row."""
LAYOUTS = {
    "shard 2": Degrees(2),
    "expert 2": Degrees(2, expert=2),
    "replicate 2": Degrees(2, replicate=2),
    "replicate 2 x shard 2": Degrees(4, replicate=2),
    "replicate 2 x shard 2, expert 2": Degrees(4, expert=2, replicate=2),
    "replicate 2 x shard 2, expert 4": Degrees(4, expert=4, replicate=2),
    "context 2": Degrees(2, context=2),
    "context 4": Degrees(4, context=4),
    "shard 2 x context 2": Degrees(4, context=2),
    "replicate 2 x context 2, expert 4": Degrees(4, expert=4, replicate=2, context=2),
    "tensor 2": Degrees(2, tensor=2),
    "context 2 x tensor 2": Degrees(4, context=2, tensor=2),
    "shard 2 x tensor 2, expert 4": Degrees(4, expert=4, tensor=2),
    "replicate 2 x tensor 2, expert 2": Degrees(4, expert=2, replicate=2, tensor=2),
}
"""Layouts of up to four ranks."""


@dataclass(frozen=True)
class Case:
    """What is trained, in every layout alike."""

    rows: int
    """Of a batch; a multiple of the processes of all layouts that are compared."""
    overrides: tuple[str, ...] = ()
    """Settings over the preset `smoke`."""
    steps: int = 1
    starve: bool = False
    """Whether no token chooses routed expert 0."""
    padded: bool = False
    """Whether rows end in padding, at different places, and begin a second document."""
    stop: bool = False
    """Whether the last process is asked to stop."""
    tokens: int = TOKENS
    """Of a row."""
    mutation: tuple[str, str] | None = None
    """A reduction that is left out, see `mutate`."""

    @property
    def config(self):
        """The configuration."""
        settings = ("training.micro_batch_sequences=1", f"training.global_batch_sequences={self.rows}")
        limit = ("training.optimizer.max_gradient_norm=0.5",)  # below the first steps' norms, so that a wrong one shows
        return load_config("smoke", None, [*settings, *limit, *self.overrides])

    def batch(self, step):
        """The whole batch of a step."""
        tokens = np.random.default_rng(step).integers(3, 512, (self.rows, self.tokens + 1))
        targets, documents = tokens[:, 1:].copy(), np.zeros((self.rows, self.tokens), np.int64)
        if self.padded:
            for row in range(self.rows):
                end = (self.tokens, 20, 30, 9)[row % 4]
                documents[row, end // 2 :] = 1
                documents[row, end:], targets[row, end - 1 :] = PADDING, IGNORE
        return Batch(tokens[:, :-1].copy(), targets, documents)


MASKED = Case(rows=4, overrides=(*EVERYTHING, "training.mask_documents=true"), padded=True)
"""Everything on, with documents and padding."""


@dataclass
class Outcome:
    """What came of it: whole tensors, whatever the layout."""

    loads: list[list[list[float]]] = field(default_factory=list)
    """Of the experts, by step and layer."""
    losses: list[dict[str, float]] = field(default_factory=list)
    norms: list[float] = field(default_factory=list)
    stops: list[bool] = field(default_factory=list)
    micro_batches: int = 0
    gradients: dict[str, torch.Tensor] = field(default_factory=dict)
    """Of the first step, clipped."""
    weights: dict[str, torch.Tensor] = field(default_factory=dict)
    """After the last step, with the balance state."""
    kept: dict[str, dict] = field(default_factory=dict)
    """Weights and moments when a checkpoint was written, or when it had been read."""

    def after(self, steps):
        """The outcome without the first steps, and without gradients."""
        later = {name: getattr(self, name)[steps:] for name in ("loads", "losses", "norms", "stops")}
        return replace(self, **later, gradients={})


def train(mesh, case, folder=None, save_after=None, resume=False):
    """Train as a case says; with a folder, save a checkpoint after a step, or go on from the one that is there."""
    trainer = Trainer(case.config, mesh, choose(mesh.device.type), "fp32")
    if case.starve:
        for router in trainer.routers:
            router.e_score_correction_bias[0] = -10
    patch = pytest.MonkeyPatch()
    if case.mutation:
        mutate(trainer, mesh, patch, *case.mutation)
    first = checkpoint.load(folder, trainer.weights, trainer.optimizers) if resume else 0
    outcome = Outcome()
    if resume:
        outcome.kept = state_of(trainer, mesh)
    for step in range(first, case.steps):
        whole = case.batch(step)
        own = Batch(*(of[mesh.batch_rank :: mesh.batch_world] for of in (whole.tokens, whole.targets, whole.documents)))
        result = trainer.step(step, own, case.stop and mesh.rank == mesh.processes - 1)
        outcome.loads.append(result.expert_load.tolist())
        outcome.losses.append({"language_model": result.loss, **result.auxiliary})
        outcome.norms.append(result.gradient_norm)
        outcome.stops.append(result.stop)
        if step == first:
            named = trainer.weights.named_parameters()
            outcome.gradients = gather_whole({name: of.grad for name, of in named if of.grad is not None}, mesh)
        if step + 1 == save_after:
            write_checkpoint(folder, step + 1, trainer.weights, trainer.optimizers)
            outcome.kept = state_of(trainer, mesh)
    outcome.micro_batches = trainer.micro_batches
    outcome.weights = weights_of(trainer, mesh)
    if case.mutation:
        dist.barrier()  # ranks that are threads share what is patched
        patch.undo()
        INDEXERS.clear()
    return outcome if mesh.rank == 0 else None


def weights_of(trainer, mesh):
    """Weights, with the balance state: whole, of all stages."""
    return gather_whole(trainer.weights.state_dict(), mesh)


def state_of(trainer, mesh):
    """Weights, with the balance state, and what optimizers know of each parameter: whole, of all stages."""
    for optimizer in trainer.optimizers:
        optimizer.state_dict()  # what lives in the host's memory comes
    names = {parameter: name for name, parameter in trainer.weights.named_parameters()}
    moments = {
        f"{names[parameter]} {name}": of
        for optimizer in trainer.optimizers
        for group in optimizer.param_groups
        for parameter in group["params"]
        for name, of in optimizer.state[parameter].items()
    }
    return {"weights": weights_of(trainer, mesh), "moments": gather_whole(moments, mesh)}


def same(one, other):
    """Whether two tensors, or dictionaries of tensors, are equal to the bit."""
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[name], other[name]) for name in one)
    return torch.equal(one, other)


def check_onward(onward, straight, *, alike):
    """Check that a training which went on from the second step is the one that went straight through; to the bit in a layout `alike`."""
    assert straight.kept["moments"]
    assert same(onward.kept, straight.kept)
    later = straight.after(2)
    assert len(onward.losses) == len(later.losses) == 2
    if alike:
        assert onward.losses == later.losses
        assert same(onward.weights, later.weights)
    compare(replace(onward, gradients={}), later, numbers=1e-5)


def mutate(trainer, mesh, patch, what, axis):
    """Leave out a reduction along an axis: of a quantity, of gradients, or of what is exchanged in a model, see `EXCHANGES`.

    What outlives the trainer goes through `patch`.

    Of the copies of the word embedding in a pipeline: the sum of their gradients, that only one is counted, or that both move.
    """
    from longcat.parallel import context, gradients, vocabulary
    from longcat.parallel.axes import SUMMED_OVER

    if what == "embedding":
        if axis == "sum":
            trainer.parallel._sum_embeddings = lambda: None
        elif axis == "count":
            trainer.parallel.copies = frozenset()
        else:
            trainer.parallel.write_weights = lambda: None
        return
    places = trainer.model.places
    if what in ("keys", "heads"):
        group, scatter = places.group if what == "keys" else places.heads_group, context.scatter

        def own_part(exchange, parts):
            if exchange.group is not group:
                return scatter(exchange, parts)
            return take(parts, exchange.pieces[dist.get_rank(group)])

        patch.setattr(context, "scatter", own_part)
        return
    if what == "target":
        places.mean_over_heads = lambda mean: take(
            mean, places.division.pieces_of_heads(mean.shape[1] // 2)[mesh.rank % 2]
        )
        places.share = dataclasses.replace(places.share, reduce_scatter=lambda parts: 2 * parts[places.share.place])
        return
    if what == "vocabulary":
        patch.setattr(vocabulary, "_combine", lambda size, right, group: (size, right))
        return
    if what in ("parts", "indexer"):
        INDEXERS.update(id(of) for name, of in trainer.weights.named_parameters() if ".indexer." in name)

        def sum_some(parameters, mesh):
            if what == "indexer":
                gradients.sum_parts([of for of in parameters if id(of) not in INDEXERS], mesh)

        patch.setattr(trainer_module, "sum_parts", sum_some)
        return
    if what == "gradients":
        sharded = [module for module in trainer.model.modules() if isinstance(module, FSDPModule)]
        apart = [module for module in sharded if axis in next(module.parameters()).device_mesh.mesh_dim_names]
        assert apart

        def backward(loss, *, last):
            trainer.model.set_requires_gradient_sync(last)
            for module in apart:
                module.set_requires_all_reduce(False, recurse=False)
            loss.backward()
            if last and trainer.parallel.tables is not None:
                trainer.parallel.tables.finish()

        trainer.parallel.backward = backward
        return
    axes = [name for name in SUMMED_OVER[what] if name != axis]
    grid = mesh.degrees.grid_of(axis, *SUMMED_OVER[what])
    group = mesh.share(f"{what} without {axis}", grid.group(mesh.rank, *axes))
    patch.setitem(mesh._sums, what, group)


def error(found, expected):
    """The largest difference, as a fraction of the largest expected number."""
    return float((found - expected).abs().max() / expected.abs().max().clamp_min(1e-30))


def limits(degrees):
    """Largest fractions for `compare` with one process: tokens that are divided have their sums in another order."""
    return {"gradients": 1e-6 if degrees.context * degrees.tensor == 1 else 1e-5}


def compare(found, expected, *, gradients=1e-6, numbers=1e-6, weights=1e-5, later_norms=None):
    """Compare the outcomes of two layouts: loads exactly and first, the rest within fractions of the largest number.

    Raises:
        AssertionError: names what differs.
    """
    assert found.loads == expected.loads, "expert loads differ"
    assert found.stops == expected.stops, "requests to stop differ"
    for step, (mine, theirs) in enumerate(zip(found.losses, expected.losses, strict=True)):
        for name, value in theirs.items():
            # those of importance and indexers are differences near 0
            close = abs(mine[name] - value) <= numbers * max(1, abs(value))
            assert close, f"loss {name} of step {step}: {mine[name]}, not {value}"
    for step, (mine, theirs) in enumerate(zip(found.norms, expected.norms, strict=True)):
        # AdamW's first step divides by itself what is near 0: norms after it may have a limit of their own
        limit = numbers if step == 0 or later_norms is None else later_norms
        assert abs(mine - theirs) <= limit * theirs, f"gradient norm of step {step}: {mine}, not {theirs}"
    for kind, limit in (("gradients", gradients), ("weights", weights)):
        mine, theirs = getattr(found, kind), getattr(expected, kind)
        assert mine.keys() == theirs.keys()
        for name in theirs:
            # a router's gradients are products of whole rows, whose terms cancel
            allowed = 2e-5 if kind == "gradients" and ".router." in name else limit
            wrong = error(mine[name], theirs[name])
            assert wrong <= allowed, f"{kind} of {name}: wrong by {wrong:.1e} of the largest number"
