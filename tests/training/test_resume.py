"""Two real processes: a run that was interrupted ends with the weights of one that was not."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import warnings

import psutil
import pytest
import torch
from safetensors.torch import load_file

from longcat.artifact import Workspace
from longcat.config import load_config
from longcat.corpus.shards import TokenCorpus
from longcat.corpus.stage import preprocess
from longcat.errors import Cancelled, ConfigError, StorageError, TrainingError
from longcat.interchange import load_huggingface
from longcat.model.generation import continue_greedily
from longcat.progress import Progress
from longcat.training.held_out import held_out_batch
from longcat.training.layout import settle_layout
from longcat.training.life import read_events
from longcat.training.stage import pretrain
from tests.waiting import all_gone, wait_until

pytestmark = pytest.mark.slow


@pytest.fixture
def config(smoke_settings):
    """Makes the configuration of `smoke_run`, with other settings laid over it."""
    return lambda *extra: load_config("smoke", None, [*smoke_settings, *extra])


def command_of(process):
    try:
        return process.cmdline()
    except psutil.Error:  # it ended meanwhile, or is a zombie
        return []


def workers():
    me = psutil.Process()
    return [p for p in me.children(recursive=True) if "longcat.training.worker" in command_of(p)]


@pytest.fixture
def uninterrupted(smoke_run):
    """The checkpoint of a run that nothing happened to."""
    [checkpoint] = (smoke_run[0] / "checkpoint").glob("[!.]*")
    return checkpoint


@pytest.fixture
def workspace(smoke_tokens):
    return Workspace(smoke_tokens)


def tokens_of(config, workspace):
    tokens = preprocess(config, workspace=workspace)
    assert tokens.cached
    return tokens


def same_as(uninterrupted, checkpoint):
    weights = "huggingface/model.safetensors"
    resumed, whole = load_file(checkpoint.path / weights), load_file(uninterrupted / weights)
    assert resumed.keys() == whole.keys()
    assert all(torch.equal(resumed[key], whole[key]) for key in resumed)
    states = [
        {path.name: path.read_bytes() for path in (of / "state").iterdir()} for of in (checkpoint.path, uninterrupted)
    ]
    assert states[0].keys() == states[1].keys()
    assert [name for name, content in states[0].items() if content != states[1][name]] == []
    assert checkpoint.path.name == uninterrupted.name
    records, expected = (
        [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
        for path in (checkpoint.path, uninterrupted)
    )
    assert [record["step"] for record in records] == list(range(1, 13))
    held_out, same = ({r["step"]: r["held_out/loss"] for r in of if "held_out/loss" in r} for of in (records, expected))
    assert list(held_out) == [4, 8, 12]
    assert held_out == same
    samples, same = (
        {path.name: path.read_text() for path in (of / "samples").iterdir()} for of in (checkpoint.path, uninterrupted)
    )
    assert {"00000004.txt", "00000008.txt", "00000012.txt"} <= samples.keys()
    assert samples == same
    assert all(text.startswith("def ") and len(text) > len("def \n") for text in same.values())
    loads = [json.loads(line)["step"] for line in (checkpoint.path / "expert-load.jsonl").read_text().splitlines()]
    assert loads == list(range(1, 13))
    assert (checkpoint.path / "expert-load.png").read_bytes().startswith(b"\x89PNG")


def test_every_expert_is_in_the_export(uninterrupted):
    weights = load_file(uninterrupted / "huggingface/model.safetensors")
    downs = [name for name in weights if name.endswith("down_proj.weight") and ".experts." in name]
    assert len(downs) == 4
    assert len({weights[name].sum().item() for name in downs}) == 4


def test_cancelled_run_leaves_no_process_and_goes_on(uninterrupted, config, workspace):
    tokens = tokens_of(config(), workspace)

    def cancel(progress: Progress) -> None:
        if progress.stage == "pretrain" and progress.done >= 2:
            raise Cancelled("enough")

    with pytest.raises(Cancelled):
        pretrain(config(), tokens, workspace=workspace, report=cancel)
    assert not workers()
    assert list((workspace.path / "checkpoint").glob(".*.partial/checkpoints/step-*"))
    seen = []
    checkpoint = pretrain(config(), tokens, workspace=workspace, on_metrics=seen.extend)
    same_as(uninterrupted, checkpoint)


def test_killed_rank_is_restarted_from_the_checkpoint(uninterrupted, config, workspace):
    tokens = tokens_of(config(), workspace)
    killed = []

    def kill_once(progress: Progress) -> None:
        if progress.stage == "pretrain" and progress.done >= 5 and not killed:
            killed.extend(workers()[:1])
            os.kill(killed[0].pid, signal.SIGKILL)

    checkpoint = pretrain(config(), tokens, workspace=workspace, report=kill_once)
    assert killed
    same_as(uninterrupted, checkpoint)


def test_a_rank_that_is_told_to_leave_is_started_again(uninterrupted, config, workspace):
    """By a signal that is nobody's wish to end the run: it saves, and the run goes on."""
    tokens = tokens_of(config(), workspace)
    told = []

    def terminate_once(progress: Progress) -> None:
        if progress.stage == "pretrain" and progress.done >= 2 and not told:
            told.extend(workers()[:1])
            os.kill(told[0].pid, signal.SIGTERM)

    checkpoint = pretrain(config("training.max_restarts=0"), tokens, workspace=workspace, report=terminate_once)
    assert told
    same_as(uninterrupted, checkpoint)


def test_a_stopped_rank_is_found_and_all_are_started_again(uninterrupted, config, workspace):
    tokens = tokens_of(config(), workspace)
    stopped = []

    def stop_once(progress: Progress) -> None:
        if progress.stage == "pretrain" and progress.done >= 5 and not stopped:
            stopped.extend(sorted(workers(), key=lambda p: int(p.environ()["RANK"]))[1:])
            os.kill(stopped[0].pid, signal.SIGSTOP)

    watched = config("training.hang_timeout_s=8", "training.max_restarts=1")
    checkpoint = pretrain(watched, tokens, workspace=workspace, report=stop_once)
    same_as(uninterrupted, checkpoint)
    hangs = [event for event in read_events(checkpoint.path) if event["kind"] == "hang"]
    [hang] = [event for event in hangs if "stopped by a signal (SIGSTOP)" in event["message"]]
    assert hang["ranks"] == [1]
    assert hang["waiting"].keys() <= {"0"}
    assert all_gone(stopped)
    assert not (checkpoint.path / "heartbeats").exists()


PARENT = """
import sys
from longcat.artifact import Workspace
from longcat.config import load_config
from longcat.corpus.stage import preprocess
from longcat.training.stage import pretrain

config, workspace = load_config("smoke", None, sys.argv[2:]), Workspace(sys.argv[1])
pretrain(config, preprocess(config, workspace=workspace), workspace=workspace)
"""


def test_a_killed_parent_leaves_no_process(smoke_settings, workspace):
    command = [sys.executable, "-c", PARENT, str(workspace.path), *smoke_settings, "training.steps=100000"]
    parent = subprocess.Popen(command)
    try:
        wait_until(lambda: list(workspace.path.glob("checkpoint/.*/metrics.jsonl")), parent)
        everyone = psutil.Process(parent.pid).children(recursive=True)
        family = [p for p in everyone if "longcat.training.worker" in command_of(p)]
    finally:
        parent.kill()
        parent.wait()
    assert len(family) >= 2
    assert all_gone(everyone)


def test_a_finished_training_is_kept_whatever_fails_behind_it(
    uninterrupted, config, workspace, monkeypatch, as_ordinary_user
):
    """Read-only parents, and kills while files are hashed: the next run does what is missing."""
    tokens = tokens_of(config(), workspace)
    for path in tokens.path.rglob("*"):
        path.chmod(path.stat().st_mode & ~0o222)
    tokens.path.chmod(0o555)

    def interrupt(*_):
        raise KeyboardInterrupt

    def trained_again(*_):
        pytest.fail("trained again")

    def first():
        with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr("longcat.training.stage.plot_expert_load", interrupt)  # behind the copy of the tokenizer
            pretrain(config(), tokens, workspace=workspace)

    def then():
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("longcat.training.stage.supervise", trained_again)
            with patch.context() as inner, pytest.raises(KeyboardInterrupt):
                inner.setattr("longcat.artifact._describe", interrupt)
                pretrain(config(), tokens, workspace=workspace)
            patch.setattr("longcat.training.stage.write_huggingface", trained_again)
            seen = []
            same_as(uninterrupted, pretrain(config(), tokens, workspace=workspace, on_metrics=seen.extend))
            assert [record["step"] for record in seen] == list(range(1, config().training.steps + 1))

    as_ordinary_user(first)
    as_ordinary_user(then)
    [checkpoint] = (workspace.path / "checkpoint").iterdir()
    assert {path.name for path in checkpoint.iterdir()} == {path.name for path in uninterrupted.iterdir()}


@pytest.fixture
def small_workspace(smoke_run, tmp_path):
    """A workspace with the tokens of `smoke_run`, on a disk of 24 MB."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("this user cannot mount a small file system")
    for kind in ("documents", "tokens"):
        shutil.copytree(smoke_run[0] / kind, folder / kind)
    yield Workspace(folder)
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.parametrize("left", [0, 200_000])
def test_a_disk_that_fills_up_is_told_and_training_goes_on_when_there_is_room(
    uninterrupted, config, small_workspace, left
):
    """Process log, records, checkpoint and error reports are on the same disk."""
    tokens = tokens_of(config(), small_workspace)
    filler = small_workspace.path / "filler"

    def fill(progress: Progress) -> None:
        if progress.stage == "pretrain" and progress.done >= 5 and not filler.exists():
            with filler.open("wb", buffering=0) as stream, contextlib.suppress(OSError):
                while stream.write(bytes(1 << 16)):
                    pass
            os.truncate(filler, max(0, filler.stat().st_size - left))

    with pytest.raises(StorageError, match="no space left") as caught:
        pretrain(config(), tokens, workspace=small_workspace, report=fill)
    assert "\n" not in str(caught.value)
    assert filler.exists()
    assert not workers()
    filler.unlink()
    same_as(uninterrupted, pretrain(config(), tokens, workspace=small_workspace))
    assert not list(small_workspace.path.rglob(".*.tmp"))


def test_a_failure_names_rank_and_cause(config, workspace):
    hurried = config("training.max_restarts=0", "training.deadline_s=0.5")
    with pytest.raises(TrainingError, match="deadline_s"):
        pretrain(hurried, tokens_of(hurried, workspace), workspace=workspace)
    assert not workers()


def test_layouts_that_do_not_fit_are_refused():
    from longcat.accelerator import choose

    cpu = choose("cpu")
    with pytest.raises(ConfigError, match="global_batch_sequences=8 is not a multiple"):
        settle_layout(load_config("smoke", None, ["training.processes=3"]), cpu)
    with pytest.raises(ConfigError, match="parallel.expert=4 does not divide"):
        settle_layout(load_config("smoke", None, ["training.processes=2", "parallel.expert=4"]), cpu)


def test_rows_that_are_moved_late_go_on_to_the_bit(config, workspace, tmp_path):
    """The checkpoint of a cancelled run, at a step of its own, leaves moves undone; the last one has them all."""
    late = config(
        "model.ngram={vocab_size_ratio: 2.5, neighbor_num: 3, split_num: 2}",
        "parallel.embedding=true",
        "training.optimizer.lazy_ngram_moments=true",
        "training.precision=fp32",
    )
    tokens = tokens_of(late, workspace)
    whole = pretrain(late, tokens, workspace=workspace)
    shutil.move(whole.path, tmp_path / whole.path.name)

    def cancel(progress: Progress) -> None:
        if progress.stage == "pretrain" and progress.done >= 2:
            raise Cancelled("enough")

    with pytest.raises(Cancelled):
        pretrain(late, tokens, workspace=workspace, report=cancel)
    resumed = pretrain(late, tokens, workspace=workspace)
    same_as(tmp_path / whole.path.name, resumed)
    model = load_huggingface(resumed.path / "huggingface")
    batch = held_out_batch(TokenCorpus.open(tokens.path).held_out, late.training.held_out_sequences, 0, 1)
    rows, targets, documents = (torch.from_numpy(of) for of in (batch.tokens, batch.targets, batch.documents))
    with torch.no_grad():
        total = model.sums(rows, targets, padding=documents < 0).language_model
    last = json.loads((resumed.path / "metrics.jsonl").read_text().splitlines()[-1])
    # the rows are up to date without the optimizer
    assert float(total / (targets >= 0).sum()) == pytest.approx(last["held_out/loss"], rel=1e-5)


def test_longcat_2_trains_in_two_processes_and_goes_on(config, workspace, monkeypatch):
    """N-grams, sparse attention through its phases and multi-token prediction; the model is written after a crash, too."""
    sparse = config(
        "model.ngram={vocab_size_ratio: 2.5, neighbor_num: 3, split_num: 2}",
        "model.sparse_attention={index_n_heads: 2, index_head_dim: 12, index_topk: 24, index_init_tokens: 1, index_local_tokens: 8}",
        "model.mtp_num_layers=2",
        "training.optimizer.name=muon",
        "training.dense_attention_steps=4",
        "training.indexer_warmup_steps=4",
    )
    tokens = tokens_of(sparse, workspace)

    def crash(*_):
        raise RuntimeError("killed while the model was written")

    with monkeypatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)  # that training starts again: a change of phase is no failure
        patch.setattr("longcat.training.stage.write_huggingface", crash)
        with pytest.raises(RuntimeError, match="killed"):
            pretrain(sparse, tokens, workspace=workspace)
    with monkeypatch.context() as patch:  # what is left to do needs no training
        patch.setattr("longcat.training.stage.supervise", lambda *_, **__: pytest.fail("trained again"))
        checkpoint = pretrain(sparse, tokens, workspace=workspace)
    records = [json.loads(line) for line in (checkpoint.path / "metrics.jsonl").read_text().splitlines()]
    learns = [record["train/indexer_loss"] > 0 for record in records]
    assert learns == [False] * 4 + [True] * 8
    assert all(record["train/mtp_loss"] > 0 for record in records)
    model = load_huggingface(checkpoint.path / "huggingface")
    assert model.config.mtp_num_layers == 2
    assert len(continue_greedily(model, [5, 9, 11], 40)) == 40  # beyond the budget
