"""Whole training steps under every layout are those of one process: losses, norm, gradients, balance and weights."""

import dataclasses

import pytest

from longcat.accelerator import choose
from longcat.corpus.shards import Batch
from longcat.parallel.axes import Degrees
from longcat.training.trainer import Trainer
from tests.parallel.training import LAYOUTS, MASKED, SMOOTH, Case, compare, limits, train

RECOMPUTED = "training.activation_checkpointing=full"


def dense(*steps):
    """The case with so many steps of dense attention, and of indexers alone, at first."""
    names = "training.dense_attention_steps", "training.indexer_warmup_steps"
    settings = (f"{name}={value}" for name, value in zip(names, steps, strict=True))
    return dataclasses.replace(MASKED, overrides=(*MASKED.overrides, *settings))


CASES = {
    "documents and padding, an expert without tokens": dataclasses.replace(MASKED, starve=True),
    "documents and padding, dense, then indexers alone": dataclasses.replace(dense(1, 1), steps=2),
    "documents and padding, recomputed and accumulated": dataclasses.replace(
        MASKED, overrides=(*MASKED.overrides, RECOMPUTED, SMOOTH)
    ),
}

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("case", CASES)
def test_a_step_is_that_of_one_process(ranks, one_process, layout, case):
    degrees, accumulated = LAYOUTS[layout], "accumulated" in case
    case = dataclasses.replace(CASES[case], rows=degrees.batch_world * 4 if accumulated else 4)
    found = ranks.on_mesh(degrees, train, case, stay=True)[0]
    assert found.micro_batches == case.rows // degrees.batch_world
    compare(found, one_process(case), **limits(degrees))
    if case.starve:
        (gradient, *_) = [of for name, of in found.gradients.items() if name.endswith("experts.down_proj")]
        assert not gradient[0].any()
        assert gradient[1].any()


@pytest.mark.parametrize(
    "layout",
    [Degrees(4, tensor=4), Degrees(4, tensor=2, context=2), Degrees(8, tensor=4, context=2, expert=4)],
    ids=str,
)
def test_odd_sizes_are_divided_too(ranks, one_process, layout):
    """A vocabulary that the processes don't divide, biases in attention, and as many heads as processes; a second step uses them."""
    odd = ("model.num_attention_heads=4", "model.attention_bias=true", "model.vocab_size=521")
    case = dataclasses.replace(MASKED, overrides=(*MASKED.overrides, *odd), steps=2)
    many = layout.processes > 4
    found = ranks.on_mesh(layout, train, case, threads=many, stay=not many)[0]
    # the bias of a key has next to no gradient, so AdamW moves it by a rounding error of any size
    kept = {name: of for name, of in found.weights.items() if not name.endswith("bias") or ".router." in name}
    expected = one_process(case)
    same = dataclasses.replace(expected, weights={name: expected.weights[name] for name in kept})
    compare(dataclasses.replace(found, weights=kept), same, **limits(layout))


def test_the_indexers_target_is_that_of_all_heads_while_attention_is_dense(ranks, one_process):
    """As it is with sparse attention, see `EXCHANGES`."""
    layout, case = LAYOUTS["context 2 x tensor 2"], dense(0, 1)
    found = ranks.on_mesh(layout, train, dataclasses.replace(case, mutation=("target", "tensor")), stay=True)[0]
    with pytest.raises(AssertionError, match="loss indexer"):
        compare(found, one_process(case), **limits(layout))


def test_a_long_row_is_that_of_one_process(ranks, one_process):
    """See benchmarks/context_parallel.py for longer ones."""
    case = Case(rows=1, overrides=MASKED.overrides, padded=True, tokens=3072)
    found = ranks.on_mesh(Degrees(4, context=4), train, case, stay=True)[0]
    compare(found, one_process(case), **limits(Degrees(4, context=4)))


def test_compiled_layers_are_divided_too(ranks, one_process):
    layout = LAYOUTS["tensor 2"]
    case = Case(rows=4, starve=True)
    compiled = dataclasses.replace(case, overrides=(*case.overrides, "training.compile=true"))
    compare(ranks.on_mesh(layout, train, compiled)[0], one_process(case), **limits(layout))


def held_out_and_sample(mesh, case):
    """The loss on a batch after a step, and text."""
    trainer = Trainer(case.config, mesh, choose("cpu"), "fp32")
    whole = case.batch(0)
    own = Batch(*(of[mesh.batch_rank :: mesh.batch_world] for of in vars(whole).values()))
    trainer.step(0, own)
    return trainer.held_out_loss(0, own), trainer.sample([5, 6, 7], 12), trainer.held_out_loss(0, own)


@pytest.mark.parametrize("layout", ["context 2", "context 2 x tensor 2", "shard 2 x tensor 2, expert 4"])
def test_held_out_loss_and_sample_are_those_of_one_process(ranks, layout):
    case = MASKED
    [(loss, text, _)] = ranks.on_mesh(Degrees(1), held_out_and_sample, case, stay=True)
    for found, written, again in ranks.on_mesh(LAYOUTS[layout], held_out_and_sample, case, stay=True):
        assert abs(found - loss) <= 1e-6 * loss
        assert again == found, "the sample has changed how rows are divided"
        assert written == text
