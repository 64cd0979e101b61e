"""What one step changes: nothing if it is not finite, and in each phase of sparse attention what is meant to learn."""

import os

import numpy as np
import pytest
import torch
from torch.distributed.checkpoint import FileSystemReader

from longcat.accelerator import choose
from longcat.config import load_config
from longcat.corpus.shards import Batch
from longcat.padding import IGNORE
from longcat.parallel.axes import Degrees
from longcat.parallel.mesh import join, leave
from longcat.training import checkpoint
from longcat.training.trainer import Trainer


@pytest.fixture
def make_trainer(monkeypatch):
    """Makes trainers in a group of one process."""
    from longcat.processes.child import free_port

    for name, value in {
        "RANK": 0,
        "LOCAL_RANK": 0,
        "WORLD_SIZE": 1,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": free_port(),
    }.items():
        monkeypatch.setitem(os.environ, name, str(value))
    mesh = join(choose("cpu"), Degrees(), timeout_s=30)
    yield lambda *overrides, precision="fp32": Trainer(
        load_config("smoke", None, overrides), mesh, choose("cpu"), precision
    )
    leave()


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


SPARSE = "model.sparse_attention={index_n_heads: 2, index_head_dim: 12, index_topk: 8, index_init_tokens: 1, index_local_tokens: 3}"


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_each_phase_moves_what_it_should(make_trainer, name):
    trainer = make_trainer(
        f"training.optimizer.name={name}", SPARSE, "training.optimizer.weight_decay=0", "model.mtp_num_layers=1",
        "training.dense_attention_steps=1", "training.indexer_warmup_steps=1", "training.micro_batch_sequences=2",
    )  # fmt: skip
    batch = Batch.of_rows(np.random.default_rng(0).integers(3, 512, (4, 33)))
    indexers = {name for name, _ in trainer.model.named_parameters() if ".indexer." in name}
    others = {name for name, _ in trainer.model.named_parameters()} - indexers

    def moved(step):
        before = {name: p.detach().clone() for name, p in trainer.model.named_parameters()}
        result = trainer.step(step, batch)
        assert not result.skipped
        after = {name: p.detach() for name, p in trainer.model.named_parameters()}
        return {name for name in before if not torch.equal(before[name], after[name])}, result

    dense, first = moved(0)
    warm, second = moved(1)
    sparse, third = moved(2)
    assert dense == others
    assert warm == indexers
    assert sparse == indexers | others
    assert first.auxiliary["indexer"] == 0
    assert second.auxiliary["indexer"] > 0
    assert third.auxiliary["indexer"] > 0
    assert first.auxiliary["mtp"] == pytest.approx(6.2, abs=0.3)
    assert first.auxiliary["balance"] == pytest.approx(1, rel=0.2)


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
    path = checkpoint.save(tmp_path, 2, first.weights, first.optimizers, keep=1)
    stored = FileSystemReader(path).read_metadata().state_dict_metadata
    names = {f"model.{name}" for name in first.model.state_dict()}
    assert {name for name in stored if name.startswith("model.")} == names
    assert {stored[name].properties.dtype for name in names} == {torch.float32}
    assert checkpoint.load(path, second.weights, second.optimizers) == 2
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
