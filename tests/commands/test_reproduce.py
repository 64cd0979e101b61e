"""`longcat reproduce`: a run made again is the same, and what is not as it was is named."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import longcat as package
from longcat.comparing.reproduction import first_difference, outcomes, prepare
from longcat.comparing.since import changes
from longcat.config import load_config
from longcat.errors import ConfigError
from longcat.tracking.record import find_record, tree_of
from longcat.unpacking import read_json

ROOT = Path(package.__file__).resolve().parents[1]


@pytest.fixture
def made(smoke_run, tmp_path):
    """A copy of a workspace with a training of `smoke`, and the id of its run."""
    space = tmp_path / "w"
    shutil.copytree(smoke_run[0], space)
    return space, read_json(space / "summary.json")["mlflow"]["run_id"]


def program(folder, *arguments):
    command = [sys.executable, "-m", "longcat.cli", "reproduce", *map(str, arguments)]
    variables = os.environ | {"PYTHONPATH": str(folder)}
    return subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True, check=False, timeout=500)


@pytest.mark.slow
def test_a_run_made_again_in_another_clone_is_identical_in_every_artifact(made, tmp_path):
    space, run = made
    clone = tmp_path / "clone"
    subprocess.run(["git", "clone", "--quiet", ROOT, clone], check=True)
    for file in subprocess.check_output(["git", "ls-files", "-mo", "--exclude-standard"], cwd=ROOT, text=True).split():
        (clone / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / file, clone / file)
    done = program(clone, run, "--workspace", space, "--output", tmp_path / "again", "--json")
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer["changes"] == []
    assert [one["kind"] for one in answer["results"]] == ["documents", "tokens", "checkpoint"]
    assert all(one["identical"] and one["then"] == one["now"] for one in answer["results"])
    assert answer["results"][-1]["timed"].keys() >= {"metrics.jsonl", "events.jsonl"}
    assert "all 12 records are the same to the last bit" in answer["results"][-1]["curve"]


def record_of(space, run):
    return find_record(run, space, None)


def test_nothing_differs_where_nothing_has_changed_and_results_equal_themselves(made):
    space, run = made
    record = record_of(space, run)
    assert changes(record, load_config(file=_written(space, record)))[0] == []
    found = outcomes(record, space, record.run.results)
    assert [(one.kind, one.identical, one.timed) for one in found] == [
        ("documents", True, {}),
        ("tokens", True, {}),
        ("checkpoint", True, {}),
    ]


def _written(space, record):
    import yaml

    file = space / "config.yaml"
    file.write_text(yaml.safe_dump(dict(record.config)))
    return file


def test_a_result_that_is_taken_for_a_run_names_the_run(made):
    space, run = made
    [result] = (path for path in (space / "checkpoint").glob("[!.]*") if path.is_dir())
    with pytest.raises(
        ConfigError, match=rf"no such run.*; checkpoint/{result.name} is a result of the run .* \({run}\)"
    ):
        record_of(space, result.name[:6])


def test_an_input_changed_by_a_byte_is_named(made, longcat, corpus_file, tmp_path):
    space, run = made
    moved = tmp_path / "moved" / corpus_file.name
    moved.parent.mkdir()
    moved.write_bytes(corpus_file.read_bytes())
    arguments = ("reproduce", run[:8], "--check", "--json", f"--workspace={space}", f"--set=corpus.sources={moved}")
    assert longcat(*arguments).returncode == 0
    moved.write_bytes(corpus_file.read_bytes().replace(b"noodle", b"noodlE", 1))
    done = longcat(*arguments)
    [change] = json.loads(done.stdout)["changes"]
    assert (done.returncode, change["of"]) == (1, "input")
    assert corpus_file.name in change["name"]
    moved.unlink()
    assert "not there" in json.loads(longcat(*arguments).stdout)["changes"][0]["now"]


def test_code_packages_and_machine_that_are_not_as_they_were_are_named_weightiest_first(made):
    space, run = made
    manifest = next((space / "checkpoint").glob("[!.]*/manifest.json"))
    text = json.loads(manifest.read_text())
    text["source"]["longcat/training/trainer.py"] = "0" * 64
    text["stage_version"] -= 1
    manifest.write_text(json.dumps(text))
    [about] = (space / "tracking").glob("*.environment.json")
    then = json.loads(about.read_text())
    then["packages"]["numpy"], then["machine"]["vector_flags"] = "1.0", ["amx_bf16"]
    about.write_text(json.dumps(then))
    record = record_of(space, run)
    found, _ = changes(record, load_config(file=_written(space, record)))
    assert [(one.of, one.name) for one in found] == [
        ("code", "longcat/training/trainer.py"),
        ("stage version", "checkpoint"),
        ("package", "numpy"),
        ("machine", "vector instructions"),
    ]


def test_a_record_without_its_results_is_read_from_mlflow(made):
    space, run = made
    whole = record_of(space, run)
    for kind in ("documents", "tokens", "checkpoint"):
        shutil.rmtree(space / kind)
    shutil.rmtree(space / "tracking")
    record = record_of(space, run)
    assert record.manifests == whole.manifests
    assert (record.config, record.environment, record.inputs) == (whole.config, whole.environment, whole.inputs)
    [checkpoint] = [name for name in record.manifests if name.startswith("checkpoint/")]
    assert record.file(checkpoint, "metrics.jsonl").startswith(b'{"step": 1')
    assert record.file(checkpoint, "state/.metadata") is None


def test_a_setting_that_this_version_does_not_know_is_explained(made, longcat):
    space, run = made
    [config] = (space / "tracking").glob("*.config.json")
    tree = json.loads(config.read_text())
    tree["training"]["batch_sequences"] = tree["training"].pop("global_batch_sequences")
    config.write_text(json.dumps(tree))
    done = longcat("reproduce", run, "--check", f"--workspace={space}")
    assert done.returncode == 2
    assert "is not one of this version" in done.stderr
    assert "did you mean 'training.global_batch_sequences'" in done.stderr


def test_mistakes_are_told(made, longcat, tmp_path):
    space, run = made
    unknown = longcat("reproduce", "pretrian", f"--workspace={space}")
    assert (unknown.returncode, "the newest there: pretrain-smoke" in unknown.stderr) == (2, True)
    [name] = re.findall(r"the newest there: (\S+)", unknown.stderr)
    near = longcat("reproduce", name[:-1], f"--workspace={space}")
    assert (near.returncode, f"did you mean {name}" in near.stderr) == (2, True), near.stderr
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    full = longcat("reproduce", run, f"--workspace={space}", f"--output={tmp_path / 'full'}")
    assert (full.returncode, "holds something" in full.stderr) == (2, True)
    [journal] = (space / "tracking").glob("*.jsonl")
    journal.write_text(
        "\n".join(line for line in journal.read_text().splitlines() if '"end", "key": "pipeline"' not in line)
    )
    running = longcat("reproduce", run, f"--workspace={space}")
    assert running.returncode == 2
    assert "has not ended yet; finished, and to be named instead: preprocess" in running.stderr


def test_a_reproduction_goes_on_in_its_own_folder_only(made, tmp_path):
    space, run = made
    record = record_of(space, run)
    for _ in range(2):
        prepare(tmp_path / "again", record)
    (tmp_path / "again" / "reproduction.json").write_text('{"name": "another"}')
    with pytest.raises(ConfigError, match="holds the reproduction of another"):
        prepare(tmp_path / "again", record)


@pytest.mark.parametrize(
    ("then", "now", "offset"), [(b"abc", b"abd", 2), (b"ab", b"abc", 2), (b"abc", b"abc", None), (b"", b"x", 0)]
)
def test_the_first_byte_that_differs(tmp_path, then, now, offset):
    for name, content in (("then", then), ("now", now)):
        (tmp_path / name).write_bytes(content)
    assert first_difference(tmp_path / "then", tmp_path / "now") == offset
    assert first_difference(then, tmp_path / "now") == offset
    assert first_difference(None, tmp_path / "now") is None


def test_parameters_stand_for_a_configuration():
    assert tree_of({"a.b": "1", "a.c": "cosine", "d": "[1, null]"}) == {"a": {"b": 1, "c": "cosine"}, "d": [1, None]}
