"""The code behind a stage is found from its imports, wherever they stand."""

import re
import subprocess
import sys

import pytest

from longcat.artifact import Facts, Recipe, Workspace
from longcat.benchmark.measurement import WORKER as MEASURING
from longcat.provenance import ROOT, code_of, source_hashes
from longcat.training.stage import WORKER as TRAINING


class Nothing(Facts):
    @property
    def headline(self):
        return "nothing"

    @property
    def figures(self):
        return {}


def names(*modules):
    return {str(path.relative_to(ROOT)) for path in code_of(*modules)}


@pytest.mark.parametrize(
    ("modules", "behind", "not_behind"),
    [
        # the order of batches comes from corpus/words.py, three imports away
        ([TRAINING], ["longcat/corpus/words.py", "longcat/ops/attention.py"], ["longcat/benchmark/comparison.py"]),
        # whoever speeds up an operator is warned where an old measurement is reused
        (
            ["longcat.benchmark.measurement", MEASURING],
            ["longcat/ops/attention.py", "longcat/benchmark/measuring.py", "longcat/training/trainer.py"],
            ["longcat/benchmark/comparison.py", "longcat/cli.py"],
        ),
        (
            ["longcat.evaluation.stage", "longcat.evaluation.tasks"],
            ["longcat/model/transformer.py", "longcat/interchange/folder.py", "longcat/corpus/tokenizer.py"],
            ["longcat/training/trainer.py"],
        ),
    ],
)
def test_the_code_of_a_stage_is_all_that_it_imports(modules, behind, not_behind):
    found = names(*modules)
    assert set(behind) <= found
    assert not set(not_behind) & found


def test_every_module_that_is_loaded_is_known():
    """What Python itself loads for the corpus stage, and nothing of ours that is missing from the graph."""
    code = "import longcat.corpus.stage, sys; print(*sorted(m for m in sys.modules if m.split('.')[0] == 'longcat'))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    files = names("longcat.corpus.stage")
    for module in loaded:
        path = "/".join(module.split("."))
        assert f"{path}.py" in files or f"{path}/__init__.py" in files, module


def test_imports_inside_functions_count_and_those_for_type_checkers_do_not(tmp_path, monkeypatch):
    package = tmp_path / "longcat"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "a.py").write_text(
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from longcat.d import x\n"
        "def f():\n    from longcat import b\n    import longcat.c as c\n"
    )
    for name in "bcd":
        (package / f"{name}.py").touch()
    monkeypatch.setattr("longcat.provenance.ROOT", tmp_path)
    assert [path.stem for path in code_of("longcat.a")] == ["__init__", "a", "b", "c"]


def test_hashes_are_by_path_in_the_repository():
    hashes = source_hashes([ROOT / "longcat" / "lease.py"])
    assert list(hashes) == ["longcat/lease.py"]
    assert re.fullmatch("[0-9a-f]{64}", hashes["longcat/lease.py"])


def test_changed_code_behind_a_reused_artifact_is_warned_of(tmp_path, monkeypatch):
    package = tmp_path / "longcat"
    package.mkdir()
    (package / "used.py").write_text("SIZE = 1\n")
    monkeypatch.setattr("longcat.provenance.ROOT", tmp_path)
    workspace = Workspace(tmp_path / "workspace")

    def materialize():
        recipe = Recipe("things", Nothing, 1, {}, sources=code_of("longcat.used"))
        return workspace.materialize(recipe, lambda directory: Nothing())

    materialize()
    (package / "used.py").write_text("SIZE = 2\n")
    with pytest.warns(UserWarning, match=r"longcat/used\.py changed since"):
        materialize()
