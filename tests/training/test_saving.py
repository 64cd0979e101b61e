"""Checkpoints are saved while training goes on; what is loaded is the state of the step, and nothing that is damaged."""

import errno
import shutil
import threading

import numpy as np
import pytest
import torch

from longcat.accelerator import choose
from longcat.artifact import disk_errors, sha256_file
from longcat.config import load_config
from longcat.corpus.shards import Batch
from longcat.errors import StorageError
from longcat.parallel.axes import Degrees
from longcat.training import checkpoint, saving
from longcat.training import checkpoint_files as files
from longcat.training.checkpoint_files import RunRecord
from longcat.training.checkpoint_writer import CheckpointWriter
from longcat.training.heartbeat import Heartbeat
from longcat.training.local_tier import LocalTier
from longcat.training.saving import HostCopy, Saver
from longcat.training.trainer import Trainer
from tests.parallel.whole import whole_tensor

pytestmark = pytest.mark.slow


def made(mesh, seed=0, *settings):
    return Trainer(load_config("smoke", None, [f"seed={seed}", *settings]), mesh, choose("cpu"), "fp32")


def batch(mesh, step):
    rows = np.random.default_rng(step).integers(3, 512, (4, 33))
    return Batch.of_rows(rows[mesh.batch_rank :: mesh.batch_world])


def weights(trainer):
    return {name: whole_tensor(of) for name, of in trainer.weights.state_dict().items()}


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def save_and_go_on(mesh, directory, asynchronous):
    """Save after each of three steps, going on at once; returns whether every checkpoint is the state of its step."""
    trainer, told, expected = made(mesh), [], {}
    saver = Saver(
        directory,
        mesh.open_on_host("checkpoints", 60),
        keep=2,
        every_steps=0,
        asynchronous=asynchronous,
        told=told.append,
    )
    for step in range(1, 4):
        trainer.step(step - 1, batch(mesh, step - 1))
        expected[step] = weights(trainer)
        torch.manual_seed(1000 * step + mesh.rank)
        saver.save(step, trainer.weights, trainer.optimizers, RunRecord(batches=step))
        torch.manual_seed(0)
    saver.wait()
    found = []
    for step, path in files.saved(directory):
        assert files.fault(path) is None
        other = made(mesh, 1)
        assert checkpoint.load(path, other.weights, other.optimizers) == step
        assert torch.initial_seed() == 1000 * step + mesh.rank
        found.append((step, same(weights(other), expected[step])))
    return found, told


@pytest.mark.parametrize("degrees", [Degrees(1), Degrees(2, expert=2), Degrees(4, expert=2, replicate=2)], ids=str)
@pytest.mark.parametrize("asynchronous", [True, False])
def test_a_checkpoint_is_the_state_of_its_step_and_the_last_two_are_kept(ranks, tmp_path, degrees, asynchronous):
    found = ranks.on_mesh(degrees, save_and_go_on, tmp_path, asynchronous)
    assert [of for of, _ in found] == [[(2, True), (3, True)]] * degrees.processes
    assert found[0][1] == [1, 2, 3]
    assert not any(told for _, told in found[1:])
    assert sorted(of.name for of in tmp_path.iterdir()) == ["step-00000002", "step-00000003"]
    assert not list(tmp_path.rglob("*.tmp"))


def held_back(mesh, directory):
    """How many saves are in flight while the disk takes its time."""
    trainer, gate, seen = made(mesh), threading.Event(), []
    write_state = checkpoint.write_state

    def slowly(*arguments):
        seen.append(len(seen))
        assert gate.wait(60)
        return write_state(*arguments)

    saving.checkpoint.write_state = slowly
    saver = Saver(directory, mesh.open_on_host("checkpoints", 60), keep=5)
    saver.save(1, trainer.weights, trainer.optimizers, RunRecord())
    trainer.step(0, batch(mesh, 0))  # goes on
    saver.check()
    before = [step for step, _ in files.saved(directory)]
    threading.Timer(0.5, gate.set).start()
    saver.save(2, trainer.weights, trainer.optimizers, RunRecord())  # waits for the first one
    between = [step for step, _ in files.saved(directory)]
    saver.wait()
    return before, between, [step for step, _ in files.saved(directory)]


def test_one_checkpoint_is_written_at_a_time_and_training_goes_on_meanwhile(ranks, tmp_path):
    [(before, between, after)] = ranks.on_mesh(Degrees(1), held_back, tmp_path)
    assert before == []
    assert between[0] == 1
    assert after == [1, 2]


def full_disk(mesh, directory, asynchronous, broken):
    """What a save says of a disk that is full for one process."""
    trainer = made(mesh)
    saver = Saver(directory, mesh.open_on_host("checkpoints", 60), keep=2, asynchronous=asynchronous)
    saver.save(1, trainer.weights, trainer.optimizers, RunRecord())
    saver.wait()
    if mesh.rank == broken:
        files_of = CheckpointWriter.__init__

        def on_a_full_disk(writer, path):
            files_of(writer, path)
            create = writer.fs.create_stream

            def failing(name, mode):
                stream = create(name, mode)
                inner = stream.__enter__()

                def write(_):
                    raise OSError(errno.ENOSPC, "No space left on device", str(name))

                inner._stream = type("Full", (), {"write": staticmethod(write), "flush": lambda _: None})()
                return _Entered(inner)

            writer.fs.create_stream = failing

        CheckpointWriter.__init__ = on_a_full_disk
    with pytest.raises(StorageError) as told, disk_errors(directory):
        saver.save(2, trainer.weights, trainer.optimizers, RunRecord())
        saver.wait()
    return str(told.value)


class _Entered:
    def __init__(self, stream):
        self.stream = stream

    def __enter__(self):
        return self.stream

    def __exit__(self, *_):
        return False


@pytest.mark.parametrize("asynchronous", [True, False])
@pytest.mark.parametrize("broken", [0, 1])
def test_a_full_disk_is_told_as_one_and_leaves_the_checkpoint_before(ranks, tmp_path, asynchronous, broken):
    for told in ranks.on_mesh(Degrees(2), full_disk, tmp_path, asynchronous, broken):
        assert "No space left on device" in told
    assert [step for step, _ in files.saved(tmp_path)] == [1]
    assert files.fault(files.folder_of(tmp_path, 1)) is None
    files.clear(tmp_path)
    assert [of.name for of in tmp_path.iterdir()] == ["step-00000001"]


def copied_twice(mesh, optimizer):
    """What a copy holds, where it lies, and whether all of a state is tensors."""
    trainer, copy = made(mesh, 0, f"training.optimizer.name={optimizer}"), HostCopy()
    found = []
    for step in range(3):
        trainer.step(step, batch(mesh, step))
        state = checkpoint.state_of(step, trainer.weights, trainer.optimizers)
        staged = copy.of(state)
        expected, held = (
            {name: whole_tensor(value) for name, value in checkpoint.tensors(of)} for of in (state, staged)
        )
        places = [saving._own_part(value).data_ptr() for _, value in checkpoint.tensors(staged)]
        with torch.no_grad():
            for parameter in trainer.weights.parameters():
                parameter.mul_(1.5)
        after = {name: whole_tensor(value) for name, value in checkpoint.tensors(staged)}
        found.append((same(held, expected), same(after, expected), places))
    leaves = [state]
    while any(isinstance(of, dict) for of in leaves):
        leaves = [one for of in leaves for one in (of.values() if isinstance(of, dict) else [of])]
    return found, all(isinstance(of, torch.Tensor) for of in leaves)


@pytest.mark.parametrize("degrees", [Degrees(1), Degrees(2, expert=2)], ids=str)
@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_copy_is_of_its_time_and_stays_in_its_place(ranks, degrees, optimizer):
    for found, only_tensors in ranks.on_mesh(degrees, copied_twice, optimizer):
        assert only_tensors
        assert all(right and untouched for right, untouched, _ in found)
        places = [of for _, _, of in found]
        assert places[0] == places[1] == places[2]


def digests_of(mesh, folder):
    trainer = made(mesh)
    found = checkpoint.write_state(folder, checkpoint.state_of(1, trainer.weights, trainer.optimizers), None)
    return {name: (of["sha256"], of["bytes"]) for name, of in found.items()}


def test_digests_are_those_of_the_files(ranks, tmp_path):
    expected = {}
    for name in ("one", "two"):
        found = ranks.on_mesh(Degrees(2), digests_of, tmp_path / name)
        expected[name] = {
            of.name: (sha256_file(of), of.stat().st_size) for of in (tmp_path / name).iterdir() if of.is_file()
        }
        assert found == [expected[name]] * 2
        assert set(expected[name]) == {".metadata", "__0_0.distcp", "__1_0.distcp"}
    assert expected["one"] == expected["two"], "equal states are equal files"


def save_locally(mesh, directory, local):
    """Save twice by way of a local folder; returns what it did not take, and what is found there."""
    trainer, refused = made(mesh), []
    saver = Saver(
        directory,
        mesh.open_on_host("checkpoints", 60),
        keep=2,
        local=local,
        refused=lambda step, error: refused.append((step, type(error).__name__)),
    )
    for step in (1, 2):
        trainer.step(step - 1, batch(mesh, step - 1))
        saver.save(step, trainer.weights, trainer.optimizers, RunRecord(batches=step))
    saver.wait()
    found = saver.local.newest_sound()
    if found:
        other = made(mesh, 1)
        assert checkpoint.load(found, other.weights, other.optimizers) == 2
        assert same(weights(other), weights(trainer))
    return refused, found


def found_locally(mesh, local):
    return LocalTier(local, mesh.open_on_host("checkpoints", 60)).newest_sound()


def test_a_local_folder_has_the_newest_one_before_the_shared_one(ranks, tmp_path):
    directory, local = tmp_path / "shared", tmp_path / "local"
    for refused, found in ranks.on_mesh(Degrees(2, expert=2), save_locally, directory, local):
        assert refused == []
        assert found == files.folder_of(local, 2)
    assert [step for step, _ in files.saved(directory)] == [1, 2]
    assert [step for step, _ in files.saved(local)] == [2]
    for name in (".metadata", "__0_0.distcp", "__1_0.distcp", files.DIGESTS, files.RUN):
        assert (files.folder_of(local, 2) / name).read_bytes() == (files.folder_of(directory, 2) / name).read_bytes()
    assert all(files.fault(path) is None for _, path in files.saved(directory))
    (files.folder_of(local, 2) / "__1_0.distcp").unlink()  # as on a node that has not written it
    assert ranks.on_mesh(Degrees(2), found_locally, local) == [None, None]


def test_without_the_local_folder_the_shared_one_is_written(ranks, tmp_path):
    (tmp_path / "file").touch()
    [(refused, found), (others, _)] = ranks.on_mesh(
        Degrees(2), save_locally, tmp_path / "shared", tmp_path / "file" / "x"
    )
    assert [step for step, _ in refused] == [1, 2]
    assert others == []
    assert found is None
    assert [files.fault(path) for _, path in files.saved(tmp_path / "shared")] == [None, None]


def sound(mesh, directory):
    return checkpoint.first_sound(directory, reversed([step for step, _ in files.saved(directory)]))


@pytest.mark.parametrize("name", ["__0_0.distcp", "__1_0.distcp", ".metadata", files.RUN, files.DIGESTS])
def test_the_newest_sound_one_is_found_by_all_and_damaged_ones_are_set_aside(ranks, tmp_path, name):
    ranks.on_mesh(Degrees(2), save_and_go_on, tmp_path, True)
    newest, before = files.folder_of(tmp_path, 3), files.folder_of(tmp_path, 2)
    data = bytearray((newest / name).read_bytes())
    data[len(data) // 2] ^= 0x40
    (newest / name).write_bytes(data)
    for path, damaged in ranks.on_mesh(Degrees(2), sound, tmp_path):
        assert path == before
        [(aside, told)] = damaged
        assert aside == newest.with_name("step-00000003.damaged")
        assert name in told
    shutil.rmtree(before)
    for path, damaged in ranks.on_mesh(Degrees(2), sound, tmp_path):
        assert (path, damaged) == (None, [])


def signs_of_life(mesh, directory):
    """How often the heart beats while a checkpoint is written beside training, and while training waits."""
    trainer, heart = made(mesh), Heartbeat(directory, mesh.rank)
    with heart.collectives(mesh):
        saver = Saver(directory / "checkpoints", mesh.open_on_host("checkpoints", 60), keep=1)
        saver.save(1, trainer.weights, trainer.optimizers, RunRecord())
        before, waited = heart._beats, heart.waited_s
        saver.wait()
        beside = heart._beats - before, heart.waited_s - waited
        torch.distributed.barrier()
        return beside, heart._beats - before


def test_writing_beside_training_is_no_sign_of_its_life(ranks, tmp_path):
    """Nor time that a step has waited, which would make its own time negative."""
    for beside, waiting in ranks.on_mesh(Degrees(2), signs_of_life, tmp_path):
        assert beside == (0, 0.0)
        assert waiting == 2
