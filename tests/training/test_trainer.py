"""What one step changes: nothing if it is not finite, and in each phase of sparse attention what is meant to learn."""

import numpy as np
import pytest
import torch
from torch.distributed.checkpoint import FileSystemReader

from longcat.corpus.shards import Batch
from longcat.padding import IGNORE
from longcat.training import checkpoint
from longcat.training.held_out import held_out_batch
from tests.checkpoints import write_checkpoint


@pytest.fixture
def trainer(make_trainer):
    return make_trainer("training.optimizer.name=muon")


def snapshot(trainer):
    tensors = [p.detach().clone() for p in (*trainer.model.parameters(), *trainer.weights.parameters())]
    tensors += [router.e_score_correction_bias.clone() for router in trainer.routers]
    for optimizer in trainer.optimizers:
        for parameter in (one for group in optimizer.param_groups for one in group["params"]):
            state = sorted(optimizer.state[parameter].items())
            tensors += [value.clone() for _, value in state if isinstance(value, torch.Tensor)]
    return tensors


def test_a_step_that_is_not_finite_changes_nothing(trainer):
    batch = Batch.of_rows(np.random.default_rng(0).integers(3, 512, (4, 33)))
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


LAZY = [
    "model.ngram={vocab_size_ratio: 2.5, neighbor_num: 3, split_num: 2}",
    "parallel.embedding=true",
    "training.optimizer.lazy_ngram_moments=true",
]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_step_that_is_not_finite_leaves_late_rows_alone(make_trainer, precision):
    trainer = make_trainer(*LAZY, precision=precision)
    batches = [Batch.of_rows(np.random.default_rng(step).integers(3, 60, (4, 33))) for step in range(3)]
    weight = trainer.parallel.tables.weight
    assert weight.dtype == torch.float32  # rows are rounded as they are read, the tables have no copy
    assert dict(trainer.weights.named_parameters())["model.ngram_embeddings.tables.weight"] is weight
    before = snapshot(trainer)
    assert not trainer.step(0, batches[0]).skipped
    rows = trainer.parallel.tables.gradient.rows
    moved = (weight.detach() != before[[p is weight for p in trainer.model.parameters()].index(True)]).any(1)
    assert torch.equal(moved.nonzero().flatten(), rows)
    before = snapshot(trainer)
    forward = trainer.model.model.norm.forward
    trainer.model.model.norm.forward = lambda x: forward(x) * float("nan")
    assert trainer.step(1, batches[1]).skipped
    trainer.model.model.norm.forward = forward
    assert all(torch.equal(a, b) for a, b in zip(before, snapshot(trainer), strict=True))
    assert np.isfinite(trainer.step(2, batches[2]).loss)


def test_late_rows_rest_while_the_indexers_learn_alone(make_trainer):
    settings = ["training.dense_attention_steps=1", "training.indexer_warmup_steps=2"]
    trainer = make_trainer(*LAZY, SPARSE, *settings)
    tables, batch = trainer.parallel.tables, Batch.of_rows(np.random.default_rng(0).integers(3, 60, (4, 33)))
    trainer.step(0, batch)
    before = {name: value.clone() for name, value in trainer.optimizers[1].state[tables.weight].items()}
    weight = tables.weight.detach().clone()
    for step in (1, 2):
        trainer.step(step, batch)
        assert tables.gradient is None
    assert torch.equal(tables.weight, weight)
    assert all(torch.equal(value, before[name]) for name, value in trainer.optimizers[1].state[tables.weight].items())
    trainer.step(3, batch)
    assert tables.gradient is not None
    assert float(trainer.optimizers[1].state[tables.weight]["step"]) == 2


SPARSE = "model.sparse_attention={index_n_heads: 2, index_head_dim: 12, index_topk: 8, index_init_tokens: 1, index_local_tokens: 3}"


def state_of(trainer):
    """Everything a step may change, by name: weights, optimizer state and selection biases."""
    names = {p: name for name, p in trainer.weights.named_parameters()}
    state = {(name, "weight"): p.detach().clone() for p, name in names.items()}
    for optimizer in trainer.optimizers:
        for p, values in optimizer.state.items():
            state |= {(names[p], key): value.clone() for key, value in values.items()}
    for number, router in enumerate(trainer.routers):
        state[f"router {number}", "bias"] = router.e_score_correction_bias.clone()
    return state


@pytest.mark.parametrize("name", ["adamw", "muon"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_each_phase_moves_what_it_should(make_trainer, name, precision):
    """What rests keeps weights, moments and biases bit for bit, in spite of weight decay."""
    trainer = make_trainer(
        f"training.optimizer.name={name}", SPARSE, "training.optimizer.weight_decay=0.5", "model.mtp_num_layers=1",
        "training.dense_attention_steps=1", "training.indexer_warmup_steps=1", "training.micro_batch_sequences=2",
        precision=precision,
    )  # fmt: skip
    batch = Batch.of_rows(np.random.default_rng(0).integers(3, 512, (4, 33)))
    indexers = {name for name, _ in trainer.model.named_parameters() if ".indexer." in name}
    others = {name for name, _ in trainer.model.named_parameters()} - indexers
    routers = {f"router {number}" for number in range(len(trainer.routers))}

    def moved(step):
        before = state_of(trainer)
        result = trainer.step(step, batch)
        assert not result.skipped
        after = state_of(trainer)
        return {name for name, key in before if not torch.equal(before[name, key], after[name, key])}, result

    dense, first = moved(0)
    warm, second = moved(1)
    sparse, third = moved(2)
    assert dense == others | routers
    assert warm == indexers
    assert sparse == indexers | others | routers
    assert first.auxiliary["indexer"] == 0
    assert second.auxiliary["indexer"] > 0
    assert third.auxiliary["indexer"] > 0
    assert first.auxiliary["mtp"] == pytest.approx(6.2, abs=0.3)
    assert first.auxiliary["balance"] == pytest.approx(1, rel=0.2)


def test_warmup_differentiates_nothing_but_the_indexers(make_trainer):
    trainer = make_trainer(SPARSE, "training.indexer_warmup_steps=1")
    differentiated = []
    for layer in trainer.model.blocks:
        layer.register_forward_hook(lambda _module, _inputs, output: differentiated.append(output[0].requires_grad))
    batch = Batch.of_rows(np.random.default_rng(0).integers(3, 512, (4, 33)))
    warm, sparse = (trainer.step(step, batch) for step in range(2))
    assert differentiated == [False, True]
    assert 0 < warm.gradient_norm < sparse.gradient_norm


def test_a_batch_of_padding_leaves_the_biases(make_trainer):
    trainer = make_trainer()
    trainer.step(0, Batch.of_rows(np.random.default_rng(0).integers(3, 512, (4, 33))))
    before = [router.e_score_correction_bias.clone() for router in trainer.routers]
    result = trainer.step(1, batch_of(width=33, rows=4))
    assert not result.skipped
    assert float(result.expert_load.sum()) == 0
    assert all(
        torch.equal(router.e_score_correction_bias, bias) for router, bias in zip(trainer.routers, before, strict=True)
    )


@pytest.mark.parametrize("saved_after", [1, 3])
def test_a_checkpoint_between_phases_holds_all_state(make_trainer, tmp_path, saved_after):
    """In the dense phase the indexers have not moved yet, in their warm-up everything else rests."""
    settings = (
        "training.optimizer.name=muon", SPARSE, "training.dense_attention_steps=2", "training.indexer_warmup_steps=2"
    )  # fmt: skip
    batches = [Batch.of_rows(np.random.default_rng(step).integers(3, 512, (2, 33))) for step in range(6)]
    whole, first, second = (make_trainer(*settings) for _ in range(3))
    for step, batch in enumerate(batches):
        whole.step(step, batch)
    for step in range(saved_after):
        first.step(step, batches[step])
    write_checkpoint(tmp_path, saved_after, first.weights, first.optimizers)
    assert checkpoint.load(tmp_path, second.weights, second.optimizers) == saved_after
    for step in range(saved_after, 6):
        second.step(step, batches[step])
    resumed = state_of(second)
    assert all(torch.equal(value, resumed[key]) for key, value in state_of(whole).items())


def test_router_statistics_are_means_over_tokens(make_trainer):
    """Of the probabilities themselves, without padding, and counted once where layers are recomputed."""
    seen = []
    batch = joined(
        batch_of(np.random.default_rng(0).integers(3, 512, 20), width=24),
        batch_of(np.random.default_rng(1).integers(3, 512, 24), width=24),
    )
    trainer = make_trainer("training.micro_batch_sequences=1", "training.activation_checkpointing=full")
    hook = trainer.routers[0].register_forward_hook(lambda _module, _inputs, output: seen.append(output[2].detach()))
    result = trainer.step(0, batch)
    hook.remove()
    p = torch.cat([seen[0][:20], seen[2]])  # each micro-batch's layer runs twice
    assert len(seen) == 4
    assert result.router_entropy.tolist() == pytest.approx([float(-(p * p.log()).sum(1).mean())], rel=1e-5)
    assert result.router_top_probability.tolist() == pytest.approx([float(p.amax(1).mean())], rel=1e-5)


# many heads of the indexer: scores of zero, of which any will do, are rare
EVERYTHING = [
    SPARSE,
    "model.sparse_attention.index_n_heads=8",
    "model.mtp_num_layers=1",
    "model.initializer_range=0.2",
    "model.ngram={vocab_size_ratio: 2.5, neighbor_num: 3, split_num: 2}",
]


def batch_of(*documents, width, rows=1):
    """The documents one behind the other in a row, padded to a width, and rows of nothing but padding."""
    batch = Batch(*(np.full((rows, width), value) for value in (2, IGNORE, -1)))
    start = 0
    for number, text in enumerate(documents):
        end = start + len(text)
        batch.tokens[0, start:end], batch.documents[0, start:end] = text, number
        batch.targets[0, start : end - 1] = text[1:]
        start = end
    return batch


def joined(*batches):
    return Batch(*(np.concatenate(parts) for parts in zip(*(vars(batch).values() for batch in batches), strict=True)))


def assert_alike(ours, theirs):
    assert ours.loss == pytest.approx(theirs.loss, rel=1e-5)
    assert ours.auxiliary == pytest.approx(theirs.auxiliary, rel=1e-4, abs=1e-5)
    assert ours.gradient_norm == pytest.approx(theirs.gradient_norm, rel=1e-4)
    torch.testing.assert_close(ours.expert_load, theirs.expert_load)


@pytest.mark.parametrize("micro_batch", [0, 1])
@pytest.mark.parametrize("masked", ["true", "false"])
def test_means_are_over_what_counts(make_trainer, masked, micro_batch):
    """Padding behind a row, and rows of padding, leave loss, gradient and load as they are."""
    text = np.random.default_rng(0).integers(3, 512, 30)
    make = [*EVERYTHING, f"training.mask_documents={masked}", "training.losses.balance_weight=0"]
    plain = make_trainer(*make).step(0, batch_of(text, width=30))
    padded = batch_of(text, width=37, rows=3)
    found = make_trainer(*make, f"training.micro_batch_sequences={micro_batch}").step(0, padded)
    assert_alike(found, plain)
    assert int(found.expert_load[0].sum()) == 3 * 30


@pytest.mark.parametrize("steps", ["", "training.dense_attention_steps=9"])
def test_masked_documents_are_learnt_from_as_if_alone(make_trainer, steps):
    texts = np.split(np.random.default_rng(0).integers(3, 512, 48), [15, 36])
    make = [*EVERYTHING, "training.losses.balance_weight=0", *([steps] if steps else [])]
    alone = make_trainer(*make).step(0, joined(*(batch_of(text, width=21) for text in texts)))
    row = batch_of(*texts, width=50)
    masked = make_trainer(*make, "training.mask_documents=true").step(0, row)
    assert_alike(masked, alone)
    assert make_trainer(*make).step(0, row).loss != pytest.approx(alone.loss, rel=1e-5)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_loaded_state_is_fp32_and_goes_on_as_if_never_stopped(make_trainer, precision, tmp_path):
    batches = [Batch.of_rows(np.random.default_rng(step).integers(3, 512, (4, 33))) for step in range(3)]
    whole, first, second = (make_trainer("training.optimizer.name=muon", precision=precision) for _ in range(3))
    for step, batch in enumerate(batches):
        expected = whole.step(step, batch)
    for step, batch in enumerate(batches[:2]):
        first.step(step, batch)
    write_checkpoint(tmp_path, 2, first.weights, first.optimizers)
    stored = FileSystemReader(tmp_path).read_metadata().state_dict_metadata
    names = {f"model.{name}" for name in first.model.state_dict()}
    assert {name for name in stored if name.startswith("model.")} == names
    assert {stored[name].properties.dtype for name in names} == {torch.float32}
    assert checkpoint.load(tmp_path, second.weights, second.optimizers) == 2
    assert second.step(2, batches[2]).loss == expected.loss
    assert all(torch.equal(a, b) for a, b in zip(snapshot(whole), snapshot(second), strict=True))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_recomputing_layers_changes_memory_only(make_trainer, precision):
    batch = Batch.of_rows(np.random.default_rng(0).integers(3, 512, (4, 33)))
    kept = make_trainer("training.micro_batch_sequences=2", precision=precision)
    again = make_trainer(
        "training.micro_batch_sequences=2", "training.activation_checkpointing=full", precision=precision
    )
    calls = []
    again.model.blocks[0].register_forward_pre_hook(lambda *_: calls.append(1))
    for step in range(2):
        assert kept.step(step, batch).loss == again.step(step, batch).loss
    assert len(calls) == 8  # two micro-batches a step, each forward twice
    assert all(torch.equal(a, b) for a, b in zip(snapshot(kept), snapshot(again), strict=True))


def test_held_out_loss_is_the_loss_of_a_step_and_changes_nothing(make_trainer):
    batch = joined(
        batch_of(np.random.default_rng(0).integers(3, 512, 20), width=24),
        batch_of(np.random.default_rng(1).integers(3, 512, 24), width=24),
    )
    trainer = make_trainer(*EVERYTHING, "training.micro_batch_sequences=1", precision="bf16")
    before = state_of(trainer)
    held_out = trainer.held_out_loss(0, batch)
    tokens = trainer.sample([5, 9, 11], 20)
    assert all(torch.equal(value, before[key]) for key, value in state_of(trainer).items())
    assert len(tokens) == 20
    assert tokens == trainer.sample([5, 9, 11], 20)
    assert trainer.model.training
    assert held_out == pytest.approx(trainer.step(0, batch).loss, rel=1e-6)


def test_held_out_rows_are_shared_out_evenly():
    class Rows:
        def __len__(self):
            return 5

        def take(self, numbers):
            return Batch.of_rows(np.repeat(numbers[:, None], 4, axis=1))

    parts = [held_out_batch(Rows(), 16, rank, 2) for rank in range(2)]
    assert [len(part) for part in parts] == [3, 3]
    assert [part.tokens[:, 0].tolist() for part in parts] == [[0, 2, 4], [1, 3, 0]]
    assert (parts[1].targets[2] == IGNORE).all()
    assert (parts[1].documents[2] == -1).all()
    assert [len(held_out_batch(Rows(), 2, rank, 4)) for rank in range(4)] == [1] * 4
    assert held_out_batch(Rows(), 3, 0, 1).tokens[:, 0].tolist() == [0, 1, 2]
