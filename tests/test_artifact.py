import errno
import json
import os
import signal
import subprocess
import sys
import time
import warnings

import pytest

from longcat import artifact as module
from longcat.artifact import Facts, Recipe, Workspace, open_artifact, write_json
from longcat.errors import ArtifactError, StorageError, WorkspaceBusyError
from longcat.provenance import ROOT


class Figures(Facts):
    figure: int = 0
    found: str = ""

    @property
    def headline(self):
        return f"figure {self.figure}"

    @property
    def figures(self):
        return {"figure": float(self.figure)}


RECIPE = Recipe("things", Figures, 1, {"size": 3})


def build(directory):
    (directory / "deep").mkdir(exist_ok=True)
    (directory / "deep" / "a.bin").write_bytes(b"abc")
    (directory / "b.txt").write_text("text")
    return Figures(figure=7)


@pytest.fixture
def workspace(tmp_path):
    return Workspace(tmp_path / "workspace")


def test_built_once_then_reused(workspace):
    first = workspace.materialize(RECIPE, build)
    again = workspace.materialize(RECIPE, lambda _: pytest.fail("built twice"))
    assert (first.cached, again.cached) == (False, True)
    assert first.path == again.path == workspace.path / "things" / RECIPE.digest
    assert first.facts == again.facts == Figures(figure=7)
    assert set(again.manifest["files"]) == {"deep/a.bin", "b.txt"}
    assert again.manifest["files"]["b.txt"]["bytes"] == 4
    assert not (workspace.path / ".lease").exists()
    assert [path.name for path in (workspace.path / "things").iterdir()] == [RECIPE.digest]


def test_an_unchanged_file_is_read_once_and_a_changed_one_is_noticed(workspace, monkeypatch):
    now = time.time_ns
    monkeypatch.setattr("longcat.hash_memory.time.time_ns", lambda: now() + int(3e9))  # nothing is fresh
    artifact = workspace.materialize(RECIPE, build)
    read = []
    sha256 = module.sha256_file
    monkeypatch.setattr(module, "sha256_file", lambda path: read.append(path.name) or sha256(path))
    workspace.find(RECIPE)
    assert sorted(read) == ["a.bin", "b.txt"]
    Workspace(workspace.path).find(RECIPE)
    assert len(read) == 2
    assert module.verify(artifact.path) == 2
    assert len(read) == 4
    time.sleep(0.02)
    (artifact.path / "b.txt").write_text("tent")
    with pytest.raises(ArtifactError, match=r"b\.txt is damaged: sha256"):
        Workspace(workspace.path).find(RECIPE)
    with pytest.raises(ArtifactError, match=r"b\.txt is damaged: sha256"):
        module.verify(artifact.path)


def test_find_does_not_build(workspace):
    assert workspace.find(RECIPE) is None
    workspace.materialize(RECIPE, build)
    found = workspace.find(RECIPE)
    assert found is not None
    assert found.cached


def test_digest_moves_with_everything_but_the_code(workspace):
    parent = workspace.materialize(RECIPE, build)
    variants = [
        RECIPE,
        Recipe("other", Figures, 1, {"size": 3}),
        Recipe("things", Figures, 2, {"size": 3}),
        Recipe("things", Figures, 1, {"size": 4}),
        Recipe("things", Figures, 1, {"size": "3"}),
        Recipe("things", Figures, 1, {"size": 3}, parents=(parent,)),
    ]
    assert len({recipe.digest for recipe in variants}) == len(variants)
    assert Recipe("things", Figures, 1, {"size": 3}, sources=(ROOT / "longcat" / "lease.py",)).digest == RECIPE.digest
    assert Recipe("t", Figures, 1, {"a": 1, "b": 2}).digest == Recipe("t", Figures, 1, {"b": 2, "a": 1}).digest


@pytest.mark.parametrize("value", [float("nan"), object(), {1, 2}])
def test_identity_without_a_canonical_form_is_refused(value):
    with pytest.raises((TypeError, ValueError)):
        _ = Recipe("things", Figures, 1, {"value": value}).digest


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: (path / "b.txt").write_text("tent"), r"b\.txt is damaged: sha256"),
        (lambda path: (path / "b.txt").write_text("longer"), r"b\.txt has 6 bytes, its manifest says 4"),
        (lambda path: (path / "deep" / "a.bin").unlink(), r"deep/a\.bin is missing"),
        (lambda path: (path / "manifest.json").unlink(), r"manifest\.json is missing or unreadable"),
        (lambda path: (path / "manifest.json").write_text("{"), r"manifest\.json is missing or unreadable"),
        (lambda path: (path / "manifest.json").write_text("[]"), r"manifest\.json is missing or unreadable"),
    ],
)
def test_damage_is_named_and_nothing_is_touched(workspace, damage, message):
    built = workspace.materialize(RECIPE, build)
    damage(built.path)
    before = {path: path.read_bytes() for path in built.path.rglob("*") if path.is_file()}
    with pytest.raises(ArtifactError, match=rf"{message}.*delete {built.path}"):
        workspace.materialize(RECIPE, lambda _: pytest.fail("built over it"))
    with pytest.raises(ArtifactError):
        open_artifact(built.path, Figures)
    assert before == {path: path.read_bytes() for path in built.path.rglob("*") if path.is_file()}


def test_failed_build_leaves_nothing_and_can_be_repeated(workspace):
    def fail(directory):
        build(directory)
        raise RuntimeError("half way")

    with pytest.raises(RuntimeError, match="half way"):
        workspace.materialize(RECIPE, fail)
    assert not list((workspace.path / "things").iterdir())
    assert not (workspace.path / ".lease").exists()
    assert workspace.materialize(RECIPE, build).facts == Figures(figure=7)


def test_resumable_build_finds_what_was_left(workspace):
    def interrupted(directory):
        (directory / "state").write_text("step 5")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        workspace.materialize(RECIPE, interrupted, resumable=True)
    assert workspace.find(RECIPE) is None

    def resume(directory):
        return Figures(found=(directory / "state").read_text())

    assert workspace.materialize(RECIPE, resume, resumable=True).facts == Figures(found="step 5")


def test_temporary_files_of_a_killed_attempt_are_not_in_the_artifact(workspace):
    def resume(directory):
        (directory / "folder").mkdir()
        for name in (".state.123.tmp", "folder/.array.npy.123.tmp", "state"):
            (directory / name).write_text("step 5")
        return Figures()

    artifact = workspace.materialize(RECIPE, resume, resumable=True)
    assert list(artifact.manifest["files"]) == ["state"]
    assert {path.name for path in artifact.path.rglob("*") if path.is_file()} == {"state", "manifest.json"}


def interrupt(*_):
    raise KeyboardInterrupt


def refuse(*_):
    raise OSError(errno.EIO, "Input/output error")


@pytest.mark.parametrize("resumable", [False, True])
@pytest.mark.parametrize("failure", [interrupt, refuse])
@pytest.mark.parametrize("moment", ["_describe", "git_commit", "_publish", "os.rename"])
def test_what_was_built_is_not_built_again(workspace, monkeypatch, resumable, failure, moment):
    """Whatever fails between the end of the work and the artifact's name."""

    def with_scratch(directory):
        (directory / "half").mkdir(exist_ok=True)
        (directory / "half" / "state").write_text("of the work")
        (directory / "log-1.json").write_text("of the work")
        (directory / ".agent").write_text("of the work")
        (directory / "deep").mkdir(exist_ok=True)
        (directory / "deep" / ".metadata").write_text("of the artifact")
        return build(directory)

    options = {"resumable": resumable, "scratch": ("half", "log-*.json")}
    with monkeypatch.context() as patch, pytest.raises((KeyboardInterrupt, StorageError)):
        patch.setattr(f"longcat.artifact.{moment}", failure)
        workspace.materialize(RECIPE, with_scratch, **options)
    (workspace.partial(RECIPE) / "deep" / ".a.bin.0123456789abcdef.tmp").write_text("of a copy that was killed")
    assert workspace.find(RECIPE) is None
    made = workspace.materialize(RECIPE, lambda _: pytest.fail("built twice"), **options)
    assert made.facts == Figures(figure=7)
    assert not made.cached
    assert set(made.manifest["files"]) == {"deep/.metadata", "deep/a.bin", "b.txt"}
    assert {path.name for path in made.path.iterdir()} == {"deep", "b.txt", "manifest.json"}
    assert len([path for path in made.path.rglob("*") if path.is_file()]) == 4
    assert [path.name for path in (workspace.path / "things").iterdir()] == [RECIPE.digest]


KILLED = """
import os, signal, sys
import longcat.artifact
from longcat.artifact import Workspace
from tests.test_artifact import RECIPE, build
longcat.artifact._describe = lambda path: os.kill(os.getpid(), signal.SIGKILL)
Workspace(sys.argv[1]).materialize(RECIPE, build)
"""


def test_a_kill_while_files_are_hashed_costs_the_hashing_only(workspace):
    code = subprocess.run([sys.executable, "-c", KILLED, str(workspace.path)], cwd=ROOT, check=False).returncode
    assert code == -signal.SIGKILL
    assert workspace.materialize(RECIPE, lambda _: pytest.fail("built twice")).facts == Figures(figure=7)
    assert [path.name for path in workspace.path.iterdir()] == ["things"]


def test_what_was_built_by_other_code_is_built_again(workspace, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(module, "_describe", interrupt)
        patch.setattr(module, "source_hashes", lambda _: {"longcat/lease.py": "0" * 64})
        workspace.materialize(RECIPE, lambda directory: Figures(figure=build(directory).figure + 1))
    assert workspace.materialize(RECIPE, build).facts == Figures(figure=7)


@pytest.mark.parametrize("same_code", [False, True])
def test_files_of_other_code_are_gone_on_with_only_where_that_is_right(workspace, monkeypatch, same_code):
    def interrupted(directory):
        (directory / "state").write_text("step 5")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(module, "source_hashes", lambda _: {"longcat/lease.py": "0" * 64})
        workspace.materialize(RECIPE, interrupted, resumable=True, same_code=same_code)
    found = []

    def resume(directory):
        found.append((directory / "state").exists())
        return Figures()

    workspace.materialize(RECIPE, resume, resumable=True, same_code=same_code)
    assert found == [not same_code]


def test_a_half_made_artifact_that_was_damaged_is_not_finished(workspace, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(module, "_publish", interrupt)
        workspace.materialize(RECIPE, build)
    partial = workspace.partial(RECIPE)
    (partial / "b.txt").write_text("tent")
    with pytest.raises(ArtifactError, match=rf"b\.txt is damaged.*delete {partial} to rebuild it"):
        workspace.materialize(RECIPE, build)


def test_the_work_of_a_holder_that_was_replaced_is_left_to_the_other(workspace):
    theirs = {"token": "theirs", "pid": 1, "host": "elsewhere"}

    def slow(directory):
        (directory / "b.txt").write_text("of the other by now")
        write_json(workspace.path / ".lease", theirs)
        return Figures()

    with pytest.raises(WorkspaceBusyError, match="taken by process 1 on elsewhere"):
        workspace.materialize(RECIPE, slow)
    assert (workspace.partial(RECIPE) / "b.txt").exists()
    assert not (workspace.path / "things" / RECIPE.digest).exists()
    assert json.loads((workspace.path / ".lease").read_text()) == theirs


def test_another_process_was_quicker(workspace, monkeypatch):
    """It finished the artifact between our look and our lease."""
    made = workspace.materialize(RECIPE, build)
    looks = iter([None, made])
    monkeypatch.setattr(Workspace, "find", lambda *_: next(looks))
    assert workspace.materialize(RECIPE, lambda _: pytest.fail("built twice")) is made


@pytest.mark.parametrize("place", [".", "things", "tracking"])
def test_temporaries_of_killed_processes_go_with_the_next_lease(workspace, place):
    folder = workspace.path / place
    folder.mkdir(exist_ok=True)
    (folder / ".summary.json.0123456789abcdef.tmp").write_text("half")
    (folder / "kept.tmp").write_text("of the user")
    with workspace.lease():
        pass
    assert [path.name for path in folder.iterdir()] == ["kept.tmp"]


def test_read_only_files_make_an_artifact_too(workspace, as_ordinary_user):
    def read_only(directory):
        build(directory)
        (directory / "b.txt").chmod(0o444)
        return Figures()

    as_ordinary_user(lambda: workspace.materialize(RECIPE, read_only))
    assert workspace.find(RECIPE) is not None


def test_an_artifact_that_cannot_be_read_is_named(workspace, as_ordinary_user):
    built = workspace.materialize(RECIPE, build)
    (built.path / "b.txt").chmod(0)

    def look():
        with pytest.raises(ArtifactError, match=r"b\.txt cannot be read: Permission denied"):
            workspace.find(RECIPE)

    as_ordinary_user(look)


def test_a_workspace_is_its_users_own(tmp_path):
    before = os.umask(0o022)
    try:
        workspace = Workspace(tmp_path / "new" / "workspace")
        made = workspace.materialize(RECIPE, build)
        (tmp_path / "there").mkdir()
        there = Workspace(tmp_path / "there").materialize(RECIPE, build)
    finally:
        os.umask(before)
    folders = (workspace.path, made.path.parent, made.path, there.path.parent, there.path)
    assert {folder.stat().st_mode & 0o777 for folder in folders} == {0o700}
    files = [path for path in made.path.rglob("*") if path.is_file()]
    assert {file.stat().st_mode & 0o077 for file in files} == {0}
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o755


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EDQUOT])
def test_full_disk_is_a_storage_error_and_spares_what_is_finished(workspace, code):
    finished = workspace.materialize(RECIPE, build)

    def full(directory):
        (directory / "partly").write_text("x")
        raise OSError(code, "No room", str(directory / "partly"))

    with pytest.raises(StorageError, match="partly: No room; make room or choose another --workspace"):
        workspace.materialize(Recipe("things", Figures, 2, {}), full)
    assert [path.name for path in (workspace.path / "things").iterdir()] == [RECIPE.digest]
    assert open_artifact(finished.path, Figures).digest == RECIPE.digest


def test_full_disk_while_the_manifest_is_written(workspace, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(module.os, "replace", full)
    with pytest.raises(StorageError, match="No space left"):
        workspace.materialize(RECIPE, build)
    monkeypatch.undo()
    assert workspace.find(RECIPE) is None


def test_other_errors_of_a_build_stay_what_they_are(workspace):
    def missing(directory):
        (directory / "absent").read_text()
        return {}

    with pytest.raises(FileNotFoundError):
        workspace.materialize(RECIPE, missing)


def test_workspace_of_another_process(workspace):
    code = (
        "import sys; from longcat.artifact import Workspace\n"
        "with Workspace(sys.argv[1]).lease(): print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(workspace.path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        with pytest.raises(WorkspaceBusyError, match=f"process {other.pid}"):
            workspace.materialize(RECIPE, build)
        other.kill()
    assert not workspace.materialize(RECIPE, build).cached


def test_changed_code_of_the_same_version_is_warned_of(workspace, monkeypatch):
    recipe = Recipe("things", Figures, 1, {}, sources=(ROOT / "longcat" / "lease.py",))
    workspace.materialize(recipe, build)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        workspace.materialize(recipe, build)
    monkeypatch.setattr(module, "source_hashes", lambda _: {"longcat/lease.py": "0" * 64})
    with pytest.warns(UserWarning, match=r"same STAGE_VERSION 1: longcat/lease\.py changed"):
        workspace.materialize(recipe, build)


def test_json_is_replaced_as_a_whole(tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    write_json(path, {"value": "零"})
    with pytest.raises(ValueError, match="nan"):
        write_json(path, {"value": float("nan")})
    assert json.loads(path.read_text()) == {"value": "零"}


def test_workspace_where_a_file_is(tmp_path):
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "workspace"):
        with pytest.raises(StorageError, match=f"{path}.*choose another --workspace"):
            Workspace(path)


def test_a_workspace_where_no_folder_can_be_made_is_a_storage_error():
    with pytest.raises(StorageError, match=r"/proc/nope: .*choose another --workspace"):
        Workspace("/proc/nope")
