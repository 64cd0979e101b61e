"""A pipeline's stages and schedules: what each process holds, and that training, evaluation and samples are those of one process."""

import dataclasses

import pytest
import torch

from longcat.accelerator import choose
from longcat.config import load_config
from longcat.corpus.shards import Batch
from longcat.costs.stages import STAGES_EACH, stage_owner, stages_of
from longcat.errors import ConfigError
from longcat.model.part import Part
from longcat.parallel.axes import Degrees
from longcat.training.layout import settle_layout
from longcat.training.trainer import Trainer
from tests.parallel.ranks import RanksFailed
from tests.parallel.training import EVERYTHING, SMOOTH, Case, check_onward, compare, limits, same, train

LAYERS = {"1f1b": 2, "interleaved": 4, "zbv": 4}
"""Layers of the model, so that two processes have stages for each schedule."""
LAYOUTS = {
    "pipeline 2": Degrees(2, pipeline=2),
    "pipeline 2 x shard 2": Degrees(4, pipeline=2),
    "pipeline 2 x shard 2, expert 2": Degrees(4, pipeline=2, expert=2),
    "pipeline 2 x replicate 2": Degrees(4, pipeline=2, replicate=2),
}
APART = "training.mask_documents=true"
RECOMPUTED = "training.activation_checkpointing=full"
PHASES = ("training.dense_attention_steps=1", "training.indexer_warmup_steps=1")
CASES = {
    "everything": Case(rows=8, overrides=(*EVERYTHING, APART, SMOOTH), padded=True),
    "everything in phases, recomputed, tables by rows, an expert without tokens": Case(
        rows=8, overrides=(*EVERYTHING, *PHASES, RECOMPUTED, "parallel.embedding=true"), starve=True, steps=3
    ),
}
TRIED = [
    *((schedule, case, "pipeline 2 x shard 2, expert 2") for schedule in LAYERS for case in CASES),
    ("interleaved", "everything", "pipeline 2 x shard 2"),
    ("zbv", "everything", "pipeline 2 x replicate 2"),
]


def of(case, schedule, layers=None):
    """A case with a schedule, and the layers that it needs."""
    settings = f"model.num_layers={layers or LAYERS[schedule]}", f"parallel.schedule={schedule}"
    return dataclasses.replace(case, overrides=(*case.overrides, *settings))


@pytest.mark.parametrize("layers", [2, 3, 7, 38])
@pytest.mark.parametrize("stages", [1, 2, 3, 7])
def test_stages_share_the_layers_evenly_and_in_order(layers, stages):
    config = load_config("smoke", None, [f"model.num_layers={layers}"]).model
    if stages > layers:
        with pytest.raises(ValueError, match=f"{layers} layers do not make {stages} stages"):
            Part.stage(config, 0, stages)
        return
    parts = [Part.stage(config, number, stages) for number in range(stages)]
    assert [number for part in parts for number in part.layers] == list(range(layers))
    sizes = [len(part.layers) for part in parts]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] - sizes[-1] <= 1
    assert [part.first for part in parts] == [True] + [False] * (stages - 1)
    assert [part.last for part in parts] == [False] * (stages - 1) + [True]


@pytest.mark.parametrize("schedule", STAGES_EACH)
@pytest.mark.parametrize("processes", [1, 2, 3, 16])
def test_every_stage_has_one_owner(schedule, processes):
    held = [stages_of(schedule, place, processes) for place in range(processes)]
    assert sorted(stage for stages in held for stage in stages) == list(range(processes * STAGES_EACH[schedule]))
    for place, stages in enumerate(held):
        assert stages == sorted(stages)
        assert [stage_owner(schedule, stage, processes) for stage in stages] == [place] * len(stages)


def test_micro_batches_that_the_schedule_cannot_use_are_refused():
    cpu = choose("cpu")
    settings = ("training.processes=2", "parallel.pipeline=2", "model.num_layers=4")
    with pytest.raises(ConfigError, match=r"needs at least 2; training.micro_batch_sequences=4 would fit"):
        settle_layout(load_config("smoke", None, settings), cpu)
    layout = settle_layout(load_config("smoke", None, [*settings, "training.micro_batch_sequences=4"]), cpu)
    assert layout.degrees.pipeline == 2
    apart = [*settings, "training.micro_batch_sequences=1", "parallel.schedule=zbv", "training.compile=true"]
    with pytest.raises(ConfigError, match=r"parallel.schedule=interleaved would fit"):
        settle_layout(load_config("smoke", None, apart), cpu)


def test_a_step_of_two_stages_is_that_of_one_process(ranks, one_process):
    case = of(CASES["everything"], "1f1b")
    found = ranks.on_mesh(LAYOUTS["pipeline 2"], train, case, stay=True)[0]
    assert found.micro_batches == 8
    compare(found, one_process(case), gradients=2e-6)


def test_uneven_stages_without_shared_weights_change_no_bit(ranks, one_process):
    unclipped = "training.optimizer.max_gradient_norm=1000"  # the norm is added up by stages
    case = of(Case(rows=4, overrides=(EVERYTHING[1], unclipped)), "1f1b", layers=3)
    found, expected = ranks.on_mesh(LAYOUTS["pipeline 2"], train, case)[0], one_process(case)
    assert found.loads == expected.loads
    assert same(found.gradients, expected.gradients)


@pytest.mark.slow
@pytest.mark.parametrize(("schedule", "case", "layout"), TRIED)
def test_a_step_is_that_of_one_process(ranks, one_process, layout, schedule, case):
    case = of(CASES[case], schedule)
    found = ranks.on_mesh(LAYOUTS[layout], train, case, stay=True)[0]
    assert found.micro_batches == 8 // LAYOUTS[layout].batch_world
    compare(found, one_process(case), gradients=2e-6, weights=1e-5 if case.steps == 1 else 5e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    "degrees",
    [
        Degrees(8, expert=4, pipeline=2, context=2, tensor=2),
        Degrees(8, expert=2, pipeline=2, replicate=2, tensor=2),
        Degrees(8, expert=4, pipeline=2, replicate=2, context=2),
    ],
    ids=str,
)
def test_axes_of_tokens_copies_and_experts_in_every_stage(ranks, one_process, degrees):
    case = of(Case(rows=8, overrides=(*EVERYTHING, APART, SMOOTH, "parallel.embedding=true"), padded=True), "1f1b")
    found = ranks.on_mesh(degrees, train, case)[0]
    assert found.micro_batches == 8 // degrees.batch_world
    compare(found, one_process(case), **limits(degrees))


@pytest.mark.slow
@pytest.mark.parametrize("schedule", ["1f1b", "interleaved"])
def test_compiled_stages_compute_what_one_process_does(ranks, one_process, schedule):
    case = of(Case(rows=4), schedule)
    compiled = dataclasses.replace(case, overrides=(*case.overrides, "training.compile=true"))
    compare(ranks.on_mesh(LAYOUTS["pipeline 2"], train, compiled)[0], one_process(case), gradients=2e-6, weights=5e-5)


@pytest.mark.slow
@pytest.mark.parametrize("schedule", STAGES_EACH)
def test_four_processes_in_a_row(ranks, one_process, schedule):
    case = of(CASES["everything"], schedule, layers=4 * STAGES_EACH[schedule] + 1)
    found = ranks.on_mesh(Degrees(4, pipeline=4), train, case, stay=True)[0]
    compare(found, one_process(case), gradients=5e-6)


@pytest.mark.slow
@pytest.mark.parametrize(("schedule", "optimizer"), [("1f1b", "adamw"), ("zbv", "muon")])
def test_twenty_steps_are_those_of_one_process(ranks, one_process, schedule, optimizer):
    settings = (EVERYTHING[0], f"training.optimizer.name={optimizer}")
    case = of(Case(rows=4, overrides=settings, steps=20), schedule)
    found = ranks.on_mesh(LAYOUTS["pipeline 2 x shard 2"], train, case, stay=True)[0]
    compare(found, one_process(case), numbers=1e-5, gradients=2e-6)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("saved", "resumed"),
    [
        (("pipeline 2", "1f1b"), (None, "1f1b")),
        ((None, "1f1b"), ("pipeline 2", "zbv")),
        (("pipeline 2", "zbv"), ("pipeline 2 x shard 2", "interleaved")),
        (("pipeline 2 x shard 2, expert 2", "1f1b"), ("pipeline 2 x shard 2, expert 2", "1f1b")),
    ],
)
def test_a_checkpoint_goes_on_under_another_layout(ranks, tmp_path, saved, resumed):
    def run(where, *rest):
        layout, schedule = where
        case = of(Case(rows=4, overrides=(*EVERYTHING[:2], "training.optimizer.name=muon"), steps=4), schedule, 4)
        return ranks.on_mesh(LAYOUTS.get(layout, Degrees(1)), train, case, *rest, stay=True)[0]

    straight, onward = run(saved, tmp_path / "state", 2), run(resumed, tmp_path / "state", None, True)
    check_onward(onward, straight, alike=saved == resumed)


MUTATIONS = {"sum": ("embedding", "sum"), "count": ("embedding", "count"), "copy": ("embedding", "copy")}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("schedule", "mutation", "sign"),
    [
        ("1f1b", "sum", "copies of model.embed_tokens.weight differ"),
        ("interleaved", "sum", "copies of model.embed_tokens.weight differ"),
        ("zbv", "sum", "gradient norm|expert loads"),
        ("1f1b", "count", "gradient norm"),
        ("zbv", "copy", "loss mtp of step 1"),
    ],
)
def test_the_copies_of_the_word_embedding_are_one_parameter(ranks, one_process, schedule, mutation, sign):
    case = of(Case(rows=4, overrides=EVERYTHING[:1], steps=2), schedule)
    expected = one_process(case)
    compare(ranks.on_mesh(LAYOUTS["pipeline 2"], train, case, stay=True)[0], expected, gradients=2e-6)
    broken = dataclasses.replace(case, mutation=MUTATIONS[mutation])
    with pytest.raises((AssertionError, RanksFailed), match=sign):
        compare(ranks.on_mesh(LAYOUTS["pipeline 2"], train, broken)[0], expected, gradients=2e-6)


def looked_at(mesh, case):
    """Held-out loss before and after a step, a sample, and the step after it."""
    trainer = Trainer(case.config, mesh, choose("cpu"), "fp32")
    batches = [case.batch(step) for step in range(3)]
    own = [
        Batch(*(of[mesh.batch_rank :: mesh.batch_world] for of in (one.tokens, one.targets, one.documents)))
        for one in batches
    ]
    before = trainer.held_out_loss(0, own[2])
    first = trainer.step(0, own[0])
    after = trainer.held_out_loss(1, own[2])
    sample = trainer.sample([5, 6, 7], 6)
    second = trainer.step(1, own[1])
    return [before, first.loss, after, second.loss, second.gradient_norm], sample, second.expert_load.tolist()


@pytest.mark.slow
@pytest.mark.parametrize("schedule", STAGES_EACH)
def test_evaluation_and_samples_are_those_of_one_process(ranks, schedule):
    case = of(Case(rows=8, overrides=EVERYTHING, padded=True), schedule)
    numbers, sample, load = ranks.on_mesh(Degrees(1), looked_at, case, stay=True)[0]
    for found in ranks.on_mesh(LAYOUTS["pipeline 2 x shard 2"], looked_at, case, stay=True):
        assert found[0] == pytest.approx(numbers, rel=1e-5)
        assert found[1:] == (sample, load)


def in_bf16(mesh, case):
    """Losses and norm of a step in bf16, types of what is trained, and whether a second step in it is the same in a copy."""
    trainer = Trainer(case.config, mesh, choose("cpu"), "bf16")
    whole = case.batch(0)
    own = Batch(*(of[mesh.batch_rank :: mesh.batch_world] for of in (whole.tokens, whole.targets, whole.documents)))
    received = []
    for part in trainer.parallel.parts:
        if not part.part.first:
            part.register_forward_pre_hook(lambda _, arguments: received.append([of.dtype for of in arguments]))
    result = trainer.step(0, own)
    gradients = {of.grad.dtype for of in trainer.weights.parameters() if of.grad is not None}
    return [result.loss, *result.auxiliary.values(), result.gradient_norm], received, gradients


@pytest.mark.slow
@pytest.mark.parametrize("schedule", STAGES_EACH)
def test_hidden_states_travel_in_bf16_and_losses_in_fp32(ranks, schedule):
    case = of(Case(rows=8, overrides=EVERYTHING), schedule)
    expected, _, _ = ranks.on_mesh(Degrees(1), in_bf16, case, stay=True)[0]
    for numbers, received, gradients in ranks.on_mesh(LAYOUTS["pipeline 2 x shard 2"], in_bf16, case, stay=True):
        assert numbers == pytest.approx(expected, rel=2e-2, abs=2e-3)
        assert all(types == [torch.bfloat16, torch.float32] for types in received)
        assert gradients == {torch.float32}


def uneven(mesh, case):
    """What a step of micro-batches of different sizes says, and one of too few."""
    trainer = Trainer(case.config, mesh, choose("cpu"), "fp32")
    said = []
    for size, rows in ((2, 3), (4, 4)):
        trainer.micro_batch = size
        whole = case.batch(0)
        try:
            trainer.step(0, Batch(whole.tokens[:rows], whole.targets[:rows], whole.documents[:rows]))
        except ValueError as error:
            said.append(str(error))
    return said


@pytest.mark.slow
def test_micro_batches_that_do_not_fit_are_refused_in_a_step_too(ranks):
    for said in ranks.on_mesh(LAYOUTS["pipeline 2"], uneven, of(Case(rows=4), "1f1b")):
        assert len(said) == 2
        assert "different shapes" in said[0]
        assert "Number of microbatches" in said[1]
