"""A run that is stopped at any moment goes on in any layout: the same documents, the same numbers, the same bits where it can.

Each chain of layouts is one run, stopped in its first batch, in the middle, at the end of an epoch, and killed while a
checkpoint is written in the background. Its legs are real processes.
"""

import itertools
import json
import os
import shutil
import signal

import pytest
import torch

from longcat.accelerator import choose
from longcat.artifact import Workspace
from longcat.config import load_config
from longcat.corpus.loader import Loader
from longcat.corpus.shards import TokenCorpus
from longcat.corpus.stage import preprocess
from longcat.errors import ArtifactError
from longcat.interchange.checkpoint_folder import CheckpointFolder
from longcat.interchange.state_dict_map import state_dict_map
from longcat.parallel.axes import Degrees
from longcat.training import saving
from longcat.training.checkpoint_files import saved
from longcat.training.job import RESULT, Job
from longcat.training.layout import ParallelLayout
from longcat.training.metrics import read_metrics
from longcat.training.state_reader import state_reader
from longcat.training.worker import Worker
from tests.parallel.ranks import RanksFailed
from tests.parallel.training import error

pytestmark = pytest.mark.slow

ROWS, STEPS = 48, 7
SETTINGS = (
    f"training.steps={STEPS}",
    f"training.global_batch_sequences={ROWS}",
    "training.micro_batch_sequences=4",  # the balance loss is a mean over micro-batches
    "training.checkpoint_every_steps=2",
    "training.held_out_every_steps=0",
    "training.sample_tokens=0",
    "training.precision=fp32",
    "model.num_layers=2",
)
STOPS = (1, 3, 5)
"""Steps after which a run is asked to stop: with its first batch, in the middle, and with the end of the first epoch."""
KILLED = 6
"""Step after which it is killed while the checkpoint is written."""
CHAINS = {
    "the same": [Degrees(2, expert=2)] * 5,
    "half and double": [Degrees(2), Degrees(1), Degrees(4), Degrees(2), Degrees(4, replicate=2)],
    "experts": [Degrees(4, expert=2), Degrees(4, expert=4), Degrees(2), Degrees(4, expert=2, replicate=2), Degrees(2, expert=2)],
    "pipeline": [Degrees(2), Degrees(2, pipeline=2), Degrees(4, pipeline=2, expert=2), Degrees(1), Degrees(2, pipeline=2)],
    "context": [Degrees(2, context=2), Degrees(2), Degrees(4, context=2, expert=2), Degrees(2, pipeline=2), Degrees(2, context=2)],
}  # fmt: skip


def leg(mesh, config, tokens, folder, stop=0, kill=0, run=""):
    """Train from where a run is, up to a step at whose end it is asked to stop, or killed."""
    layout = ParallelLayout("cpu", mesh.degrees, "fp32")
    worker = Worker(Job(config, layout, str(tokens), str(folder), run=run), mesh, choose("cpu"))
    step_of = worker.step

    def step(number):
        worker.stop_asked = number + 1 == stop
        rows = worker.loader.indices(worker.health.position(number)).tolist()
        record = {"step": number, "part": mesh.batch_rank, "parts": mesh.batch_world, "rows": rows}
        with (folder / f"rows-{mesh.rank}.jsonl").open("a") as stream:
            stream.write(json.dumps(record) + "\n")
        return step_of(number)

    def killed_while_writing(path, *arguments):
        digests = write_state(path, *arguments)
        if path.name.endswith(f"{kill:08d}"):
            os.kill(os.getpid(), signal.SIGKILL)
        return digests

    worker.step, write_state = step, saving.checkpoint.write_state
    if kill:
        saving.checkpoint.write_state = killed_while_writing
    worker.pretrain()
    return [layout.processes for layout in worker.layouts]


@pytest.fixture(scope="module")
def prepared(smoke_run, smoke_settings):
    """The configuration, its tokens, and the rows of each step."""
    config = load_config("smoke", None, [*smoke_settings, *SETTINGS])
    tokens = preprocess(config, workspace=Workspace(smoke_run[0]))
    corpus = TokenCorpus.open(tokens.path).train
    assert STOPS[-1] * ROWS > len(corpus) > (STOPS[-1] - 1) * ROWS
    loader = Loader(corpus, config.seed, ROWS)
    return config, tokens.path, [loader.indices(step).tolist() for step in range(STEPS)]


@pytest.fixture(scope="module")
def straight(ranks, prepared, tmp_path_factory):
    """Runs that nothing happens to, by layout; returns the losses and the weights of each."""
    done = {}

    def of(degrees):
        if degrees not in done:
            folder = tmp_path_factory.mktemp("straight")
            config, tokens, _ = prepared
            ranks.on_mesh(degrees, leg, config.model_dump(mode="json"), tokens, folder)
            done[degrees] = outcome(config, folder)
        return done[degrees]

    return of


def outcome(config, folder):
    """Losses by step, and final weights."""
    records = read_metrics(CheckpointFolder(folder).metrics)
    assert [record["step"] for record in records] == list(range(1, STEPS + 1))
    read = state_reader(CheckpointFolder(folder).state)
    weights = {of.name: read(of) for of in state_dict_map(config.model) if of.parameter is not None}
    return [record["train/loss"] for record in records], weights


@pytest.mark.parametrize("chain", CHAINS)
def test_a_run_goes_on_in_any_layout(ranks, prepared, straight, tmp_path, chain):
    config, tokens, rows = prepared
    layouts, settings = CHAINS[chain], config.model_dump(mode="json")
    for degrees, stop in zip(layouts, STOPS, strict=False):
        ranks.on_mesh(degrees, leg, settings, tokens, tmp_path, stop)
        assert saved(CheckpointFolder(tmp_path).progress)[-1][0] == stop
    with pytest.raises(RanksFailed) as failed:
        ranks.on_mesh(layouts[3], leg, settings, tokens, tmp_path, 0, KILLED)
    assert set(failed.value.codes) == {-signal.SIGKILL}
    assert saved(CheckpointFolder(tmp_path).progress)[-1][0] == STOPS[-1]
    [history, *_] = ranks.on_mesh(layouts[4], leg, settings, tokens, tmp_path)
    assert not list(CheckpointFolder(tmp_path).progress.glob(".step-*"))

    seen = [json.loads(line) for path in tmp_path.glob("rows-*.jsonl") for line in path.read_text().splitlines()]
    for record in seen:
        part = ROWS // record["parts"]
        assert record["rows"] == rows[record["step"]][record["part"] * part : (record["part"] + 1) * part]
    trained = {(of["step"], of["parts"]) for of in seen}
    assert {step for step, _ in trained} == set(range(STEPS))
    for step, parts in trained:
        assert {of["part"] for of in seen if (of["step"], of["parts"]) == (step, parts)} == set(range(parts))

    # of the fourth one nothing was kept
    kept = [*zip((0, *STOPS[:2]), layouts, strict=False), (STOPS[-1], layouts[4])]
    groups = [next(of) for _, of in itertools.groupby(kept, key=lambda one: one[1])]
    assert history == [degrees.processes for _, degrees in groups]
    result = json.loads((tmp_path / RESULT).read_text())
    assert [of["from_step"] for of in result["layouts"]] == [step for step, _ in groups]
    losses, weights = outcome(config, tmp_path)
    expected_losses, expected = straight(layouts[0])
    if chain == "the same":
        assert losses == expected_losses
        assert all(torch.equal(weights[name], of) for name, of in expected.items())
        return
    assert losses == pytest.approx(expected_losses, rel=1e-5)
    for name, of in expected.items():
        assert error(weights[name], of) <= 1e-5, name


@pytest.mark.parametrize("lost", ["the shared one", "the local one"])
def test_the_newest_checkpoint_may_lie_in_a_local_folder(ranks, prepared, straight, tmp_path, lost):
    config, tokens, _ = prepared
    settings, local, folder = config.model_dump(mode="json"), tmp_path / "local", tmp_path / "run"
    settings["training"]["checkpoint_local"] = str(local)
    folder.mkdir()
    degrees = CHAINS["the same"][0]
    ranks.on_mesh(degrees, leg, settings, tokens, folder, 3, 0, "run")
    *_, (_, newest) = saved(CheckpointFolder(folder).progress)
    assert [path.name for _, path in saved(local / "run")] == [newest.name]
    shutil.rmtree(newest if lost == "the shared one" else local)
    for path in folder.glob("rows-*.jsonl"):
        path.unlink()
    ranks.on_mesh(degrees, leg, settings, tokens, folder, 0, 0, "run")
    steps = [json.loads(line)["step"] for line in (folder / "rows-0.jsonl").read_text().splitlines()]
    assert steps == list(range(3, STEPS))
    assert not (local / "run").exists()
    losses, weights = outcome(config, folder)
    expected_losses, expected = straight(degrees)
    assert losses == expected_losses
    assert all(torch.equal(weights[name], of) for name, of in expected.items())


def refused(mesh, *arguments):
    """What a leg says that is not made."""
    with pytest.raises(ArtifactError) as told:
        leg(mesh, *arguments)
    return str(told.value)


@pytest.mark.parametrize("other", ["another tokenizer", "another model"])
def test_a_checkpoint_of_another_run_is_refused_alike_by_all_and_left_as_it_is(ranks, prepared, tmp_path, other):
    """With equal shapes it is known by its run, with others by its tensors, too."""
    config, tokens, _ = prepared
    ranks.on_mesh(Degrees(2), leg, config.model_dump(mode="json"), tokens, tmp_path, 1, 0, "ours")
    [(_, path)] = saved(CheckpointFolder(tmp_path).progress)
    run = "theirs" if other == "another tokenizer" else "ours"
    if other == "another model":
        config = config.model_copy(update={"model": config.model.model_copy(update={"num_layers": 3})})
    before = {of.name: of.read_bytes() for of in path.iterdir()}
    told = ranks.on_mesh(Degrees(4), refused, config.model_dump(mode="json"), tokens, tmp_path, 0, 0, run)
    assert len(set(told)) == 1
    assert str(path) in told[0]
    assert f"is of {other.replace('tokenizer', 'run')}" in told[0]
    assert {of.name: of.read_bytes() for of in path.iterdir()} == before
