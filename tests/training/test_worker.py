"""The loop over steps of one process, with steps that go wrong."""

import dataclasses
import json
import math
import os
import signal
import subprocess
import sys
import warnings

import pytest
import torch

from longcat.accelerator import choose
from longcat.artifact import Workspace
from longcat.config import load_config
from longcat.corpus.stage import preprocess
from longcat.errors import CorruptionError, DivergedError
from longcat.parallel.axes import Degrees
from longcat.training.corruption import CorruptionCheck, Finding
from longcat.training.job import Job
from longcat.training.layout import ParallelLayout
from longcat.training.life import read_events, suspects
from longcat.training.metrics import read_metrics
from longcat.training.stage import pretrain
from longcat.training.worker import Worker


@pytest.fixture
def make_worker(mesh, smoke_settings, smoke_tokens, tmp_path):
    """Makes the worker of a group of one process, in a folder of its own."""
    handler = signal.getsignal(signal.SIGTERM)

    def make(name, *settings, steps=12):
        overrides = [*smoke_settings, "training.sample_tokens=0", f"training.steps={steps}", *settings]
        config = load_config("smoke", None, overrides)
        tokens = preprocess(config, workspace=Workspace(smoke_tokens))
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        layout = ParallelLayout("cpu", mesh.degrees, "fp32")
        return Worker(Job(config.model_dump(mode="json"), layout, str(tokens.path), str(folder)), mesh, choose("cpu"))

    yield make
    signal.signal(signal.SIGTERM, handler)


def spoil(worker, bad):
    """Let the gradients of steps with these batches be NaN; returns the batches that steps were made of."""
    seen, batch = [], worker.batches.batch
    trainer_step = type(worker.trainer).step

    def of(position):
        seen.append(position)
        return batch(position)

    def step(trainer, number, rows, stop=False):
        model = trainer.model.model.norm
        forward = model.forward
        if bad(seen[-1], seen):
            model.forward = lambda x: forward(x) * float("nan")
        try:
            return trainer_step(trainer, number, rows, stop)
        finally:
            model.forward = forward

    worker.batches.batch = of
    new = worker._new_trainer

    def patched(trainer):
        trainer.step = lambda *arguments: step(trainer, *arguments)
        return trainer

    worker.trainer = patched(worker.trainer)
    worker._new_trainer = lambda: patched(new())
    return seen


def weights_of(worker):
    return {name: p.detach().clone() for name, p in worker.trainer.weights.named_parameters()}


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def kinds(folder):
    return [event["kind"] for event in read_events(folder)]


def test_batches_that_go_wrong_are_passed_over_from_the_last_good_state(make_worker, tmp_path):
    worker = make_worker("bad", "training.max_skipped_steps=3")
    seen = spoil(worker, lambda position, _: position in (5, 6, 7))
    worker.pretrain()
    # a checkpoint after four steps; the fifth was good, so it is known to be
    assert seen == [0, 1, 2, 3, 4, 5, 6, 7, *range(8, 16)]
    folder = tmp_path / "bad"
    records = read_metrics(folder / "metrics.jsonl")
    assert [record["step"] for record in records] == list(range(1, 13))
    assert all(math.isfinite(record["train/loss"]) for record in records)
    assert records[-1]["train/passed_over_batches"] == 4
    assert records[-1]["train/skipped_steps"] == 3
    [rewind] = [event for event in read_events(folder) if event["kind"] == "rewind"]
    assert (rewind["step"], rewind["to"], rewind["batches"]) == (8, 4, [4, 7])
    # checkpoints are saved when they are on the disk, while training goes on
    assert [kind for kind in kinds(folder) if kind != "save"] == ["start", "skip", "skip", "skip", "rewind", "end"]
    assert kinds(folder).count("save") == 3
    # the same as a run that never saw them
    other = make_worker("without")
    whole = other.batches.batch
    other.batches.batch = lambda position: whole(position if position < 4 else position + 4)
    other.pretrain()
    assert same(weights_of(worker), weights_of(other))


def test_a_run_without_a_checkpoint_goes_back_to_its_first_state(make_worker, tmp_path):
    worker = make_worker("early", "training.max_skipped_steps=2", "training.checkpoint_every_steps=100", steps=6)
    first = weights_of(worker)
    seen = spoil(worker, lambda position, _: position in (2, 3))
    states = []
    rewind = worker._rewind
    worker._rewind = lambda step: (rewind(step), states.append(weights_of(worker)))[0]
    worker.pretrain()
    assert seen == [0, 1, 2, 3, *range(4, 10)]
    assert same(states[0], first)
    assert kinds(tmp_path / "early") == ["start", "skip", "skip", "rewind", "save", "end"]


def test_a_checkpoint_that_is_not_known_to_be_good_is_dropped(make_worker, tmp_path):
    """Every step saves one; after the fourth step all goes wrong until training has gone back behind its checkpoint."""
    worker = make_worker("late", "training.max_skipped_steps=2", "training.checkpoint_every_steps=1", steps=8)
    seen = spoil(worker, lambda position, _: position in (4, 5))
    worker.pretrain()
    [rewind] = [event for event in read_events(tmp_path / "late") if event["kind"] == "rewind"]
    assert (rewind["to"], rewind["batches"]) == (3, [3, 5])
    assert seen == [0, 1, 2, 3, 4, 5, *range(6, 11)]


def test_a_faster_folder_keeps_no_checkpoint_that_training_went_back_behind(make_worker, tmp_path, monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "0")
    settings = "training.max_skipped_steps=2", "training.checkpoint_every_steps=1"
    worker = make_worker("late", *settings, f"training.checkpoint_local={tmp_path / 'fast'}", steps=8)
    spoil(worker, lambda position, _: position in (4, 5))
    there, rewind = [], worker._rewind

    def and_look(step):
        worker.saver.wait()
        there.append([path.name for path in (tmp_path / "fast").rglob("step-*")])
        done = rewind(step)
        there.append([path.name for path in (tmp_path / "fast").rglob("step-*")])
        return done

    worker._rewind = and_look
    worker.pretrain()
    # one that was started again now would go on from the newest one, wherever it lies
    assert there == [["step-00000004"], []]


def test_a_run_goes_on_with_the_batches_that_it_has_passed_over(make_worker, tmp_path):
    settings = "training.max_skipped_steps=2", "training.checkpoint_every_steps=2"
    worker = make_worker("bad", *settings)
    spoil(worker, lambda position, _: position in (3, 4))
    worker.pretrain()
    stopped = make_worker("stopped", *settings)
    seen = spoil(stopped, lambda position, _: position in (3, 4) or (position == 9 and stopped._ask_to_stop(15, None)))
    stopped.pretrain()
    assert seen[-1] == 10  # the step after the one in which it was asked
    assert not (tmp_path / "stopped" / "result.json").exists()
    resumed = make_worker("stopped", *settings)
    seen = spoil(resumed, lambda *_: False)
    resumed.pretrain()
    assert seen[0] == 11
    assert same(weights_of(worker), weights_of(resumed))
    assert resumed.health.state() == worker.health.state()


def test_a_last_step_that_is_skipped_is_done_with_another_batch(make_worker, tmp_path):
    worker = make_worker("last", steps=4)
    seen = spoil(worker, lambda position, _: position == 3)
    worker.pretrain()
    assert seen == [0, 1, 2, 3, 4]
    records = read_metrics(tmp_path / "last" / "metrics.jsonl")
    assert math.isfinite(records[-1]["train/loss"])
    assert [record["step"] for record in records] == [1, 2, 3, 4]


def test_a_spike_is_written_down_and_training_goes_on(make_worker, tmp_path):
    worker = make_worker("spike", steps=26)
    step = worker.trainer.step

    def higher(number, *rest):
        result = step(number, *rest)
        return dataclasses.replace(result, loss=100.0) if number == 23 else result

    worker.trainer.step = higher
    worker.pretrain()
    [spike] = [event for event in read_events(tmp_path / "spike") if event["kind"] == "spike"]
    assert (spike["step"], spike["batch"], spike["loss"]) == (24, 23, 100.0)
    assert spike["limit"] < 100


@pytest.fixture
def report(monkeypatch):
    """Lets the next searches for corruption find something; later ones do what they always do."""
    check = CorruptionCheck.check

    def answer(*answers):
        left = list(answers)
        monkeypatch.setattr(CorruptionCheck, "check", lambda *given: check(*given) or (left.pop(0) if left else []))
        return left

    return answer


HELD = Finding("copies", (0,), "model.norm.weight", ("here",))
COMPUTED = Finding("again", (0,), "the output of layer 0", ("here",))


def test_bits_that_are_held_wrongly_are_loaded_again(make_worker, tmp_path, report):
    worker = make_worker("wrong", "training.check_every_steps=4")
    left = report([], [HELD])  # after four steps nothing, after eight
    worker.pretrain()
    assert not left
    happened = [kind for kind in kinds(tmp_path / "wrong") if kind != "save"]  # they are written beside the steps
    assert happened == ["start", "corruption", "rewind", "end"]
    [rewind] = [event for event in read_events(tmp_path / "wrong") if event["kind"] == "rewind"]
    assert (rewind["step"], rewind["to"], rewind["batches"]) == (8, 4, [])
    assert suspects(tmp_path / "wrong") == {"here": [0]}
    other = make_worker("right", "training.check_every_steps=0")
    assert other.corruption is None
    other.pretrain()
    assert same(weights_of(worker), weights_of(other))
    assert [record["step"] for record in read_metrics(tmp_path / "wrong" / "metrics.jsonl")] == list(range(1, 13))


@pytest.mark.parametrize(("found_after", "back_to"), [(2, 5), (1, 0)])
def test_no_checkpoint_is_loaded_that_may_hold_the_wrong_bits(make_worker, tmp_path, report, found_after, back_to):
    """Checkpoints are more frequent than searches, and the last two are kept: those since the last search may be wrong."""
    settings = "training.check_every_steps=5", "training.checkpoint_every_steps=1", "training.keep_checkpoints=2"
    worker = make_worker("wrong", *settings, steps=11)
    report(*[[]] * (found_after - 1), [HELD])
    worker.pretrain()
    [rewind] = [event for event in read_events(tmp_path / "wrong") if event["kind"] == "rewind"]
    assert (rewind["step"], rewind["to"]) == (5 * found_after, back_to)


def test_the_steps_after_the_last_search_are_searched_before_the_end(make_worker, tmp_path, report):
    worker = make_worker("wrong", "training.check_every_steps=5")
    left = report([], [], [HELD])  # after 5, 10 and 12 steps
    worker.pretrain()
    assert not left
    [rewind] = [event for event in read_events(tmp_path / "wrong") if event["kind"] == "rewind"]
    assert (rewind["step"], rewind["to"]) == (12, 8)
    assert (tmp_path / "wrong/result.json").exists()


def test_a_final_state_that_stays_wrong_is_no_result(make_worker, tmp_path, report):
    worker = make_worker("wrong", "training.check_every_steps=500")
    report(*[[COMPUTED]] * 2)
    with pytest.raises(CorruptionError, match="after the last step"):
        worker.pretrain()
    assert not (tmp_path / "wrong/result.json").exists()
    assert not list((tmp_path / "wrong/checkpoints").iterdir())


def test_what_is_computed_wrongly_leaves_no_checkpoint_since_the_last_search(make_worker, tmp_path, report):
    worker = make_worker("wrong", "training.check_every_steps=3", "training.checkpoint_every_steps=1")
    report([], [COMPUTED], [COMPUTED])
    with pytest.raises(CorruptionError, match="before step 7"):
        worker.pretrain()
    assert [path.name for path in (tmp_path / "wrong/checkpoints").iterdir()] == ["step-00000003"]


def test_a_step_that_was_computed_wrongly_once_vouches_for_no_checkpoint(make_worker, tmp_path, report):
    worker = make_worker("wrong", "training.check_every_steps=4")
    report([], [COMPUTED], [], [HELD])
    worker.pretrain()
    [rewind] = [event for event in read_events(tmp_path / "wrong") if event["kind"] == "rewind"]
    assert (rewind["step"], rewind["to"]) == (12, 4)


def test_a_start_from_a_checkpoint_vouches_for_none(make_worker, tmp_path, report):
    settings = "training.check_every_steps=4", "training.checkpoint_every_steps=1"
    stopped = make_worker("wrong", *settings)
    spoil(stopped, lambda position, _: position == 5 and stopped._ask_to_stop(15, None))
    stopped.pretrain()
    assert max(path.name for path in (tmp_path / "wrong/checkpoints").iterdir()) == "step-00000007"
    report([HELD])
    make_worker("wrong", *settings).pretrain()
    [rewind] = [event for event in read_events(tmp_path / "wrong") if event["kind"] == "rewind"]
    assert (rewind["step"], rewind["to"]) == (8, 4)


def test_nothing_is_done_again_when_the_last_step_is_asked_to_stop_and_killed(make_worker, tmp_path, monkeypatch):
    whole = make_worker("whole")
    whole.pretrain()

    def killed(*_):
        raise KeyboardInterrupt

    last = make_worker("last")
    spoil(last, lambda position, _: position == 11 and last._ask_to_stop(15, None))
    monkeypatch.setattr(last, "_finish", killed)
    with pytest.raises(KeyboardInterrupt):
        last.pretrain()
    last.saver.wait()
    again = make_worker("last")
    seen = spoil(again, lambda *_: False)
    again.pretrain()
    assert seen == []
    for path in ("state/.metadata", "state/__0_0.distcp", "state/run.json", "result.json"):
        one, other = (tmp_path / name / path for name in ("whole", "last"))
        assert one.read_bytes() == other.read_bytes(), path
    assert not (tmp_path / "last/state/digests.json").exists()
    assert [record["step"] for record in read_metrics(tmp_path / "last/metrics.jsonl")] == list(range(1, 13))


def test_what_is_right_when_it_is_done_again_goes_on(make_worker, tmp_path, report):
    worker = make_worker("once", "training.check_every_steps=4")
    left = report([COMPUTED])
    worker.pretrain()
    assert not left
    assert kinds(tmp_path / "once").count("corruption") == 1
    assert "rewind" not in kinds(tmp_path / "once")


def test_an_attempt_that_holds_wrong_bits_leaves_none_to_the_next(make_worker, tmp_path, report):
    settings = "training.check_every_steps=3", "training.checkpoint_every_steps=1"
    worker = make_worker("wrong", *settings)
    report([], [HELD], [HELD])
    with pytest.raises(CorruptionError, match="before step 7"):
        worker.pretrain()
    assert [path.name for path in (tmp_path / "wrong/checkpoints").iterdir()] == ["step-00000003"]


@pytest.mark.parametrize("finding", [HELD, COMPUTED])
def test_what_stays_wrong_ends_the_attempt(make_worker, report, finding):
    worker = make_worker("always", "training.check_every_steps=3")
    report(*[[finding]] * 9)
    with pytest.raises(CorruptionError, match="silent corruption before step 4: rank 0 on here"):
        worker.pretrain()


@pytest.mark.slow
@pytest.mark.parametrize("steps", [5, 40])
def test_a_learning_rate_that_destroys_the_weights_ends_the_run(smoke_settings, smoke_tokens, steps):
    settings = "training.optimizer.learning_rate=1e30", f"training.steps={steps}", "training.max_skipped_steps=4"
    config = load_config("smoke", None, [*smoke_settings, *settings])
    space = Workspace(smoke_tokens)
    with warnings.catch_warnings(record=True) as caught, pytest.raises(DivergedError, match="learning_rate") as told:
        warnings.simplefilter("always")
        pretrain(config, preprocess(config, workspace=space), workspace=space)
    assert told.value.exit_code == 2
    said = [str(one.message) for one in caught]
    assert sum("is skipped" in one for one in said) == 2
    assert any("goes back from step" in one and "passed over" in one for one in said)
    [lines] = [path.read_text().splitlines() for path in smoke_tokens.glob("checkpoint/.*/metrics.jsonl")]
    for line in lines:
        json.loads(line, parse_constant=lambda word: pytest.fail(word))
    assert "skip" in kinds(next(smoke_tokens.glob("checkpoint/.*.partial")))


@pytest.mark.parametrize("token", ["ours", "theirs"])
def test_a_folder_that_is_anothers_by_now_gets_no_report(tmp_path, token):
    """The launcher of the other one would take it for a failure of its own."""
    (tmp_path / ".lease").write_text(f'{{"token": "{token}"}}')
    config = load_config("smoke").model_dump(mode="json")
    job = Job(config, ParallelLayout("npu", Degrees(1), "fp32"), "tokens", str(tmp_path)).write()
    leases = json.dumps({str(tmp_path / ".lease"): "ours"})
    done = subprocess.run(
        [sys.executable, "-c", "from longcat.training.worker import run; run(print)", str(job)],
        env={**os.environ, "RANK": "0", "WORLD_SIZE": "1", "LONGCAT_LEASES": leases},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 1
    assert "accelerator npu" in done.stderr
    assert (tmp_path / "error-0.json").exists() == (token == "ours")
