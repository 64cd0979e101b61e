"""A checkpoint in progress is trusted only if every file of it is as it was written."""

import json
import shutil

import pytest

from longcat.artifact import sha256_file
from longcat.errors import ArtifactError, WorkspaceBusyError
from longcat.interchange.checkpoint_facts import LayoutSince
from longcat.lease import lease
from longcat.training.checkpoint_files import (
    DIGESTS,
    RUN,
    RunRecord,
    clear,
    commit,
    fault,
    folder_of,
    make,
    saved,
    set_aside,
    thin_out,
    unfinished,
)

PARTS = ("__0_0.distcp", "__1_0.distcp", ".metadata")
LAYOUT = LayoutSince(0, 2, {"shard": 2}, {"schedule": "1f1b"}, 4, "a device")


def written(directory, step):
    """A checkpoint with files of its own."""
    final = folder_of(directory, step)
    make(unfinished(final))
    digests = {}
    for name in PARTS:
        file = unfinished(final) / name
        file.write_bytes(f"{name} after step {step}".encode() * 50)
        digests[name] = {"sha256": sha256_file(file), "bytes": file.stat().st_size}
    commit(final, step, RunRecord(step + 3, {"skipped": 2}, (LAYOUT,), "abc"), digests)
    return final


def test_a_process_whose_workspace_was_taken_meanwhile_replaces_no_checkpoint(tmp_path):
    with lease(tmp_path / ".lease"):
        theirs = written(tmp_path / "checkpoints", 4)
        (tmp_path / ".lease").write_text('{"token": "theirs", "pid": 1, "host": "elsewhere"}')
        (theirs / "of the other").touch()
        with pytest.raises(WorkspaceBusyError, match="taken by process 1 on elsewhere"):
            written(tmp_path / "checkpoints", 4)
    assert (theirs / "of the other").exists()


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0x40
    path.write_bytes(data)


def truncate(path):
    path.write_bytes(path.read_bytes()[:-2])


def lengthen(path):
    path.write_bytes(path.read_bytes() + b"\0")


def remove(path):
    path.unlink()


def swap(path):
    """Put the file of another checkpoint in its place."""
    shutil.copy(folder_of(path.parents[1], 4) / path.name, path)


def replace_by_folder(path):
    path.unlink()
    path.mkdir()


def test_what_is_written_is_sound_and_says_what_the_run_knew(tmp_path):
    path = written(tmp_path, 8)
    assert [fault(path, part, 3) for part in range(3)] == [None] * 3
    assert RunRecord.read(path) == RunRecord(11, {"skipped": 2}, (LAYOUT,), "abc")
    assert saved(tmp_path) == [(8, path)]
    assert not unfinished(path).exists()


@pytest.mark.parametrize("name", [*PARTS, RUN, DIGESTS])
@pytest.mark.parametrize("damage", [flip, truncate, lengthen, remove, swap, replace_by_folder])
def test_every_damage_is_found_and_named(tmp_path, damage, name):
    written(tmp_path, 4)
    path = written(tmp_path, 8)
    damage(path / name)
    found = [of for part in range(2) if (of := fault(path, part, 2)) is not None]
    if damage is lengthen and name == DIGESTS:
        assert "unreadable" in found[0]
    assert found
    assert str(path) in found[0]
    if name != DIGESTS:
        assert len(found) == 1, "each file is read by one process"
        assert name in found[0]


def test_a_checkpoint_under_the_name_of_another_is_found(tmp_path):
    written(tmp_path, 4).rename(folder_of(tmp_path, 8))
    assert "holds the state after step 4" in fault(folder_of(tmp_path, 8))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"step": 8}',
        '{"step": 8, "files": {}}',
        '{"step": 8, "files": {".metadata": 3}}',
        '{"step": "x"}',
    ],
)
def test_digests_that_say_nothing_are_no_digests(tmp_path, text):
    path = written(tmp_path, 8)
    (path / DIGESTS).write_text(text)
    assert str(path / DIGESTS) in fault(path)


def test_digests_do_not_lead_out_of_the_folder(tmp_path):
    path = written(tmp_path, 8)
    digests = json.loads((path / DIGESTS).read_text())
    outside = tmp_path / "outside"
    outside.write_text("x")
    digests["files"]["../outside"] = {"sha256": sha256_file(outside), "bytes": 1}
    (path / DIGESTS).write_text(json.dumps(digests))
    assert "no file of the folder" in fault(path)


def test_a_damaged_one_is_kept_aside_and_no_longer_listed(tmp_path):
    path = written(tmp_path, 8)
    aside = set_aside(path)
    assert aside.name == "step-00000008.damaged"
    assert saved(tmp_path) == []
    written(tmp_path, 8)
    assert set_aside(path) == aside, "a second time"
    assert sorted(of.name for of in aside.iterdir()) == sorted([*PARTS, RUN, DIGESTS])


def test_a_second_checkpoint_of_a_step_takes_the_place_of_the_first(tmp_path):
    path = written(tmp_path, 8)
    (path / "more").touch()
    written(tmp_path, 8)
    assert fault(path) is None
    assert not (path / "more").exists()


@pytest.mark.parametrize(
    ("keep", "every", "left"),
    [(1, 0, [12]), (2, 0, [10, 12]), (1, 4, [4, 8, 12]), (2, 6, [6, 10, 12]), (9, 0, [2, 4, 6, 8, 10, 12])],
)
def test_the_last_ones_are_kept_and_every_so_many_steps_one(tmp_path, keep, every, left):
    for step in range(2, 14, 2):
        written(tmp_path, step)
    thin_out(tmp_path, keep, every)
    assert [step for step, _ in saved(tmp_path)] == left
    assert len(list(tmp_path.iterdir())) == len(left)


@pytest.mark.parametrize(("clean", "left"), [(1, [10, 12]), (4, [4, 10, 12]), (7, [6, 10, 12]), (12, [10, 12])])
def test_the_newest_one_that_is_known_to_be_right_is_kept(tmp_path, clean, left):
    for step in range(2, 14, 2):
        written(tmp_path, step)
    thin_out(tmp_path, 2, clean=clean)
    assert [step for step, _ in saved(tmp_path)] == left


def test_what_was_left_half_written_is_cleared(tmp_path):
    path = written(tmp_path, 8)
    make(unfinished(folder_of(tmp_path, 10)))
    clear(tmp_path)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("text", ["", "[]", '{"batches": 3}', '{"batches": 3, "health": 4, "layouts": []}'])
def test_an_unreadable_record_is_named(tmp_path, text):
    (tmp_path / RUN).write_text(text)
    with pytest.raises(ArtifactError, match=RUN):
        RunRecord.read(tmp_path)
