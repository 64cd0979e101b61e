"""Training begins with the weights of another checkpoint, and with nothing but what its configuration goes with."""

import shutil
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from longcat.accelerator import choose
from longcat.artifact import Workspace, open_artifact
from longcat.config import load_config
from longcat.corpus.stage import preprocess
from longcat.corpus.tokenizer import train_tokenizer
from longcat.errors import ArtifactError, Cancelled, ConfigError
from longcat.interchange import load_huggingface, save_huggingface
from longcat.interchange.checkpoint_facts import CheckpointFacts
from longcat.interchange.checkpoint_folder import CheckpointFolder
from longcat.model import LongcatModel
from longcat.provenance import ROOT
from longcat.training import stage
from longcat.training.given_start import check_tokens, differences, given_start, with_start
from longcat.training.job import Job
from longcat.training.layout import ParallelLayout
from longcat.training.metrics import read_metrics
from longcat.training.worker import Worker

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def workspace(smoke_run, tmp_path_factory):
    """A workspace with documents, tokens and a checkpoint."""
    path = tmp_path_factory.mktemp("first") / "workspace"
    shutil.copytree(smoke_run[0], path)
    return Workspace(path)


@pytest.fixture(scope="module")
def first(workspace):
    [path] = (workspace.path / "checkpoint").glob("[!.]*")
    return open_artifact(path, CheckpointFacts)


@pytest.fixture
def config(smoke_settings, first):
    """Makes the configuration of a run that begins with this checkpoint."""
    return lambda *extra: load_config(
        "smoke", None, [*smoke_settings, f"training.init_from={first.digest[:8]}", *extra]
    )


@pytest.fixture(scope="module")
def theirs(tmp_path_factory):
    """A Hugging Face folder of the model of `smoke` with a tokenizer of its own, written as others write one."""
    path = tmp_path_factory.mktemp("theirs")
    model = LongcatModel(load_config("smoke").model)
    model.initialize(7)
    save_huggingface(model, path)
    train_tokenizer(["some words of another corpus " * 20], 300).save(str(path / "tokenizer.json"), pretty=False)
    return path


# ------------------------------------------------------------------------------------------- the configuration


def test_documents_of_the_same_corpus_are_used_again(config, workspace, first):
    settled = with_start(config("corpus.sequence_length_tokens=32"), workspace)
    assert settled.corpus.tokenizer is None
    before = sorted((workspace.path / "documents").glob("[!.]*"))
    tokens = preprocess(settled, workspace=workspace)
    assert sorted((workspace.path / "documents").glob("[!.]*")) == before
    check_tokens(settled, first, tokens.path)


def test_another_corpus_gets_its_tokenizer(config, workspace, first, theirs, tmp_path):
    (tmp_path / "other.txt").write_text(
        "\n".join(f"Another text {n} " + " ".join(str(n * k % 977) for k in range(90)) for n in range(400))
    )
    for extra, folder in (((), CheckpointFolder(first.path).huggingface), ((f"training.init_from={theirs}",), theirs)):
        lines = f"corpus.sources=[{{kind: files, path: {tmp_path / 'other.txt'}, documents: lines}}]"
        settled = with_start(config(lines, *extra), workspace)
        assert settled.corpus.tokenizer == str(folder / "tokenizer.json")
        assert settled.corpus.end_of_text == "</longcat_s>"
        assert settled.corpus.vocabulary_size <= settled.model.vocabulary == 512
        assert with_start(settled, workspace) == settled
    tokens = preprocess(settled, workspace=workspace)
    check_tokens(settled, given_start(settled, workspace), tokens.path)
    with pytest.raises(ArtifactError, match=r"was made by another tokenizer than that of training\.init_from="):
        check_tokens(config(), first, tokens.path)


def test_without_a_start_the_configuration_stays(workspace):
    config = load_config("smoke")
    assert with_start(config, workspace) is config
    assert given_start(config, workspace) is None


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["model.num_layers=2"], r"is of another model: model\.num_layers is 1 there, not 2$"),
        (
            ["model.moe_topk=2", "model.zero_expert_num=1"],
            r"of another model: model\.zero_expert_num is 2 there, not 1, model\.moe_topk is 3 there, not 2$",
        ),
        (["model.ngram={vocab_size_ratio: 4.5}", "model.hidden_size=96"], r"model\.ngram is not set there, not set$"),
        (["model.mtp_num_layers=1"], r"model\.mtp_num_layers is 0 there, not 1"),
        (["corpus.vocabulary_size=600"], r"has another vocabulary: model\.vocab_size is 512 there, not 600$"),
        (["training.init_from=dead"], r"^training\.init_from=dead: no such folder, and no checkpoint in"),
        (["training.init_from=dead@4"], r"^training\.init_from=dead@4: no run in"),
        (
            ["training.init_optimizer=true", "training.optimizer.name=muon"],
            r"was trained by adamw, and training\.optimizer\.name is muon",
        ),
    ],
)
def test_what_it_does_not_go_with(config, workspace, settings, message):
    with pytest.raises(ConfigError, match=message):
        with_start(config(*settings), workspace)


def test_folders_that_lack_something(config, workspace, theirs, tmp_path):
    with pytest.raises(ConfigError, match=r"init_optimizer=true, but training\.init_from=.* holds weights only"):
        given_start(config(f"training.init_from={theirs}", "training.init_optimizer=true"), workspace)
    bare = tmp_path / "bare"
    shutil.copytree(theirs, bare)
    (bare / "tokenizer.json").unlink()
    with pytest.raises(ConfigError, match=r"^training\.init_from=.*: no tokenizer\.json in"):
        given_start(config(f"training.init_from={bare}"), workspace)
    with pytest.raises(ConfigError, match=r"^training\.init_from=.*: neither a checkpoint nor a Hugging Face folder"):
        given_start(config(f"training.init_from={tmp_path}"), workspace)


def test_a_tokenizer_that_is_named_has_to_be_the_same(config, workspace, first, theirs):
    own = CheckpointFolder(first.path).tokenizer
    named = config(f"corpus.tokenizer={own}")
    assert with_start(named, workspace).corpus.tokenizer == str(own)
    with pytest.raises(ConfigError, match=r"corpus\.tokenizer=.* is not that of training\.init_from="):
        with_start(config(f"corpus.tokenizer={theirs / 'tokenizer.json'}"), workspace)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["training.init_optimizer=true"], r"training\.init_from names no checkpoint"),
        (
            [
                "training.init_optimizer=true",
                "training.init_from=abcd",
                "model.ngram={vocab_size_ratio: 2.5, neighbor_num: 3, split_num: 2}",
                "parallel.embedding=true",
                "training.optimizer.lazy_ngram_moments=true",
            ],
            "cannot begin with another run's moments",
        ),
    ],
)
def test_settings_that_cannot_be_together(settings, message):
    with pytest.raises(ConfigError, match=message):
        load_config("smoke", overrides=settings)


def test_models_differ_in_what_weights_depend_on():
    model = load_config("smoke").model
    positions = model.model_copy(update={"max_position_embeddings": 999, "rope_theta": 5e6, "initializer_range": 0.5})
    assert differences(model, positions) == {}
    assert differences(model, model.model_copy(update={"routed_scaling_factor": 2.0})) == {}
    other = load_config(
        "smoke", overrides=["model.sparse_attention={index_topk: 64, index_init_tokens: 2, index_local_tokens: 8}"]
    )
    fewer = load_config(
        "smoke", overrides=["model.sparse_attention={index_topk: 32, index_init_tokens: 2, index_local_tokens: 8}"]
    )
    assert differences(other.model, fewer.model) == {"sparse_attention.index_topk": (64, 32)}
    [(name, (ours, none))] = differences(other.model, model).items()
    assert (name, none) == ("sparse_attention", None)
    assert ours["index_topk"] == 64


# ------------------------------------------------------------------------------------------------- the identity


def test_what_it_begins_with_is_a_parent(config, smoke_settings, workspace, first, theirs, tmp_path, monkeypatch):
    """The content counts, not the name; and a run that began otherwise is not gone on from."""
    made = []

    def materialize(_self, recipe, *_arguments, **_options):
        made.append(recipe)
        raise InterruptedError

    tokens = preprocess(load_config("smoke", None, smoke_settings), workspace=workspace)
    monkeypatch.setattr(stage, "check_tokens", lambda *_: None)

    def recipe_of(settings):
        with monkeypatch.context() as patch, pytest.raises(InterruptedError):
            patch.setattr(Workspace, "materialize", materialize)
            stage.pretrain(settings, tokens, workspace=workspace)
        return made.pop()

    plain = recipe_of(load_config("smoke", None, smoke_settings))
    assert plain.digest == first.digest
    begun = recipe_of(config())
    assert [(of.kind, of.digest) for of in begun.parents] == [("tokens", tokens.digest), ("checkpoint", first.digest)]
    by_folder = recipe_of(config(f"training.init_from={first.path}"))
    assert by_folder.digest == begun.digest != plain.digest
    shutil.copytree(theirs, tmp_path / "copy")
    of_folder, of_copy = (recipe_of(config(f"training.init_from={path}")) for path in (theirs, tmp_path / "copy"))
    assert of_folder.digest == of_copy.digest != begun.digest
    weights = load_file(tmp_path / "copy" / "model.safetensors")
    weights["model.norm.weight"] += 1
    save_file(weights, tmp_path / "copy" / "model.safetensors")
    assert recipe_of(config(f"training.init_from={tmp_path / 'copy'}")).digest != of_copy.digest
    assert recipe_of(config("training.init_optimizer=true")).digest != begun.digest
    # more steps go on from a finished run with the same start only
    more = recipe_of(config("training.steps=24"))
    assert [of.kind for of in more.parents] == ["tokens", "checkpoint"]
    longer = recipe_of(load_config("smoke", None, [*smoke_settings, "training.steps=24"]))
    assert [of.digest for of in longer.parents] == [tokens.digest, first.digest]
    assert more.digest != longer.digest


# ------------------------------------------------------------------------------------------------- the training


@pytest.fixture
def make_worker(mesh, workspace, config, tmp_path):
    """Makes the worker of a group of one process, in a folder of its own, with these fields of its job."""

    def make(name, *settings, precision="fp32", **fields):
        settled = config("training.sample_tokens=0", *settings)
        tokens = preprocess(settled, workspace=workspace)
        (tmp_path / name).mkdir()
        layout = ParallelLayout("cpu", mesh.degrees, precision)
        job = Job(settled.model_dump(mode="json"), layout, str(tokens.path), str(tmp_path / name))
        return Worker(replace(job, **fields), mesh, choose("cpu"))

    return make


def weights_of(worker):
    """Weights and balance, by name, as they are now."""
    return {name: value.detach().clone() for name, value in worker.trainer.weights.state_dict().items()}


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_first_step_sees_the_given_weights(make_worker, first, precision):
    folder = CheckpointFolder(first.path).huggingface
    worker = make_worker("run", "training.steps=1", precision=precision, weights=str(folder))
    worker.saver = worker._open_saver()
    assert worker._resume() == 0
    begun = weights_of(worker)
    expected = load_huggingface(folder).state_dict()
    assert same(begun, expected)
    computed = dict(worker.trainer.model.named_parameters())
    assert all(torch.equal(value, expected[name].to(value.dtype)) for name, value in computed.items())
    moments = worker.trainer.optimizers[0].state.values()
    assert all(not of["exp_avg"].any() and of["step"] == 0 for of in moments)
    # a step that goes wrong before there is a checkpoint leads back to them
    worker.step(0)
    assert not same(weights_of(worker), begun)
    assert worker._restore([])[0] == 0
    assert same(weights_of(worker), begun)


def test_with_the_optimizer_it_goes_on_as_if_it_was_one_run(make_worker, first):
    """Steps and schedule begin anew; weights, moments and their bias correction go on."""
    state = CheckpointFolder(first.path).state
    constant = ("training.steps=2", "training.optimizer.schedule=constant", "training.optimizer.warmup_steps=0")
    worker = make_worker("run", *constant, moments=str(state))
    worker.saver = worker._open_saver()
    assert worker._resume() == 0
    assert all(of["exp_avg"].any() and of["step"] == 12 for of in worker.trainer.optimizers[0].state.values())
    other = make_worker("prolonged", *constant, start_from=str(state))
    other.saver = other._open_saver()
    assert other._resume() == 12
    assert same(weights_of(worker), weights_of(other))
    worker.step(0)
    other.step(0)
    assert same(weights_of(worker), weights_of(other))
    worker._restore([])
    assert all(of["step"] == 12 for of in worker.trainer.optimizers[0].state.values())


def test_an_interrupted_run_ends_with_the_same_bytes(config, workspace, tmp_path):
    """Whether it was stopped before it had a state of its own or after."""
    settings = config("training.steps=8", "training.checkpoint_every_steps=3")
    tokens = preprocess(with_start(settings, workspace), workspace=workspace)
    whole = stage.pretrain(settings, tokens, workspace=workspace)
    other = Workspace(tmp_path / "other")
    for kind in ("tokens", "documents", "checkpoint"):
        shutil.copytree(workspace.path / kind, other.path / kind)
    shutil.rmtree(other.path / "checkpoint" / whole.digest)

    def stop_after(step):
        def report(progress):
            if progress.stage == "pretrain" and progress.done >= step:
                raise Cancelled("enough")

        return report

    for step in (0, 4):
        with pytest.raises(Cancelled):
            stage.pretrain(settings, tokens, workspace=other, report=stop_after(step))
    resumed = stage.pretrain(settings, tokens, workspace=other)
    assert resumed.digest == whole.digest
    for folder in ("state", "huggingface"):
        for path in (whole.path / folder).iterdir():
            assert (resumed.path / folder / path.name).read_bytes() == path.read_bytes(), path


def test_two_phases(smoke_settings, workspace, longcat):
    """The recipe of the documentation, on the model of `smoke`."""
    small = ["corpus.long_documents.min_tokens=100", "corpus.sequence_length_tokens=128"]
    made, tokens = [], []
    for file, extra in (("first", ["training.steps=6"]), ("second", ["training.steps=4", *small])):
        begin = [f"training.init_from={made[0].digest[:8]}"] if made else []
        config = load_config("smoke", ROOT / "data/phases" / f"{file}.yaml", [*smoke_settings, *extra, *begin])
        config = with_start(config, workspace)
        tokens.append(preprocess(config, workspace=workspace))
        made.append(stage.pretrain(config, tokens[-1], workspace=workspace))
    one, two = made
    assert two.facts.init_from == one.digest
    assert [(of["kind"], of["digest"]) for of in two.manifest["parents"]][1:] == [("checkpoint", one.digest)]
    assert tokens[0].facts.documents_artifact == tokens[1].facts.documents_artifact
    rates = [of["train/learning_rate"] for of in read_metrics(CheckpointFolder(two.path).metrics)]
    peak = load_config("smoke").training.optimizer.learning_rate
    assert rates == pytest.approx([peak * (1 - (n / 4) ** 0.5) for n in range(1, 5)])
    other = [f"--set={one}" for one in (f"training.init_from={one.digest}", "model.num_layers=2")]
    refused = longcat("pretrain", "--preset=smoke", *other, f"--workspace={workspace.path}")
    assert refused.returncode == 2
    [line] = refused.stderr.splitlines()
    assert line.endswith("is of another model: model.num_layers is 1 there, not 2")
