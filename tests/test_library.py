"""`import longcat`: what it offers, what it loads, and that every documented line works wherever it is written."""

import ast
import json
import os
import pkgutil
import re
import subprocess
import sys

import pytest

import longcat
from longcat.errors import ConfigError, UserError
from longcat.provenance import ROOT

SNIPPETS = re.findall(r"^```python\n(.*?)^```", (ROOT / "docs/library.md").read_text(encoding="utf-8"), re.M | re.S)
HEAVY = ("torch", "torch_npu", "mlflow", "prefect", "transformers", "pydantic")


def python(folder, *arguments, text=None, limit_s=500):
    """Run Python in a folder with this longcat, far from this checkout."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "error::RuntimeWarning", *arguments]
    done = subprocess.run(
        command, cwd=folder, env=environment, input=text, capture_output=True, text=True, timeout=limit_s, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done


@pytest.fixture
def folder(corpus_file, tmp_path):
    (tmp_path / "my.jsonl").write_bytes(corpus_file.read_bytes())
    return tmp_path


def test_the_package_loads_nothing_before_it_is_asked(tmp_path):
    code = f"import sys, longcat; dir(longcat); print([name for name in {HEAVY} if name in sys.modules])"
    assert python(tmp_path, "-c", code).stdout == "[]\n"


@pytest.mark.parametrize("use", ["longcat.load_config('smoke')", "longcat.run, longcat.load"])
def test_a_name_loads_no_more_than_it_needs(tmp_path, use):
    code = f"import sys, longcat; {use}; print([name for name in {HEAVY[:5]} if name in sys.modules])"
    assert python(tmp_path, "-c", code).stdout == "[]\n"


def test_names_are_there_and_hide_no_module():
    assert set(longcat.__all__) <= set(dir(longcat))
    assert all(callable(getattr(longcat, name)) and getattr(longcat, name).__doc__ for name in longcat.__all__)
    assert not {module.name for module in pkgutil.iter_modules(longcat.__path__)} & set(longcat.__all__)
    with pytest.raises(AttributeError, match="no attribute 'train'"):
        longcat.train


def test_editors_are_told_the_same_names():
    tree = ast.parse((ROOT / "longcat/__init__.py").read_text())
    [block] = [node for node in tree.body if isinstance(node, ast.If)]
    assert [alias.name for node in block.body for alias in node.names] == longcat.__all__
    table = (ROOT / "docs/library.md").read_text().split("| name |")[1].split("\n\n")[0]
    assert {*re.findall(r"^\| `longcat\.(\w+)", table, re.M), "Model", "Run"} == set(longcat.__all__)


TOKENS = """import longcat

tokens = longcat.tokenise(
    "my.jsonl", preset="smoke", workspace="work",
    overrides={"corpus.workers": 2, "corpus.block_bytes": 20000, "corpus.filters": ["beside:keep"]},
)
print("made", tokens.facts.train_tokens, tokens.cached)
"""
"""Takes two processes, and a function beside the script."""
GUARDED = 'import longcat\n\nif __name__ == "__main__":\n' + "".join(
    f"    {line}\n" for line in TOKENS.splitlines()[2:]
)
CELLS = {"cells": [{"cell_type": "code", "source": TOKENS}], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}
NOTEBOOK = """
import json, sys, types
main = types.ModuleType("__main__")  # as a kernel's: no file, no spec
main.__spec__ = None
sys.modules["__main__"] = main
for cell in json.load(open("cells.ipynb"))["cells"]:
    exec(compile(cell["source"], "<ipython-input-1>", "exec"), main.__dict__)
"""


@pytest.mark.slow
@pytest.mark.parametrize("how", ["script", "guarded", "stdin", "command", "interactive", "module", "notebook"])
def test_worker_processes_do_not_run_the_script_again(folder, how):
    (folder / "beside.py").write_text("def keep(text):\n    return True\n")
    (folder / "script.py").write_text(GUARDED if how == "guarded" else TOKENS)
    (folder / "cells.ipynb").write_text(json.dumps(CELLS))
    (folder / "notebook.py").write_text(NOTEBOOK)
    lines = TOKENS.replace(")\nprint", ")\n\nprint")
    arguments, text = {
        "script": (["script.py"], None),
        "guarded": (["script.py"], None),
        "stdin": (["-"], TOKENS),
        "command": (["-c", TOKENS], None),
        "interactive": (["-i", "-q"], lines),
        "module": (["-m", "script"], None),
        "notebook": (["notebook.py"], None),
    }[how]
    said = python(folder, *arguments, text=text).stdout
    assert re.findall(r"made \d+ (?:True|False)", said) == [re.search(r"made \d+ False", said)[0]]


@pytest.mark.slow
def test_every_documented_line_works(folder):
    (folder / "page.py").write_text("".join(SNIPPETS))
    done = python(folder, "page.py")
    said = done.stdout
    assert not re.search(r"\bINFO\b|View at|127\.0\.0\.1", done.stderr)
    assert "tokens in" in said and "parameters," in said and "did you mean" in said
    summary = json.loads((folder / "work/summary.json").read_text())
    assert [row["stage"] for row in summary["stages"]] == ["preprocess", "pretrain"]
    assert "mlflow" not in summary  # the last run was not tracked
    assert re.search(r"checkpoint/\S+ ([0-9a-f]{32}|None)\n", said)  # None where MLflow has not taken it yet


@pytest.mark.slow
def test_a_model_answers_as_the_commands_do(smoke_run, longcat):
    import longcat as library

    workspace, _ = smoke_run
    [checkpoint] = (workspace / "checkpoint").iterdir()
    model = library.load(checkpoint.name[:8], workspace=workspace, accelerator="cpu")
    arguments = ("--accelerator", "cpu", "--max-tokens", "6", "--json")
    said = longcat("generate", "--checkpoint", checkpoint, "--prompt", "order", *arguments)
    assert json.loads(said.stdout)["text"] == model.generate("order", max_tokens=6).text
    one, two = model.loglikelihood([("order", " rider"), ("", "order rider")])
    assert one == model.loglikelihood("order", " rider")
    assert two.nats < one.nats < 0
    with pytest.raises(ConfigError, match="temperature=-1"):
        model.generate("order", temperature=-1)


def test_the_answers_are_those_of_the_commands(longcat):
    import longcat as library

    options = ("--device", "a100-80gb", "--sequence-length", "2048", "--parameters", "7e9", "--devices", "8")
    said = longcat("mfu", *options, "--tokens-per-second", "24000", "--json")
    assert json.loads(said.stdout) == json.loads(
        json.dumps(library.mfu("a100-80gb", 2048, parameters=7e9, devices=8, tokens_per_second=24000))
    )
    with pytest.raises(UserError, match="exactly one of --model and --parameters"):
        library.mfu("a100-80gb", 2048, tokens_per_second=1)
    [row] = [one for one in json.loads(longcat("presets", "--json").stdout) if one["name"] == "small"]
    cost = library.cost("small", devices=8)
    assert (cost.total_parameters, round(cost.activated_parameters)) == (
        row["total_parameters"],
        row["activated_parameters"],
    )
    dry = json.loads(longcat("pretrain", "-p", "small", "--dry-run", "--world-size", "8", "--json").stdout)
    assert round(cost.memory.peak) == dry["estimated_peak_bytes"]
    longer = library.cost("small", devices=8, sequence_length=2 * cost.sequence_length)
    assert longer.flops_per_token > cost.flops_per_token and longer.total_parameters == cost.total_parameters


def test_settings_are_given_as_a_table_or_as_the_command_has_them():
    table = longcat.load_config("smoke", overrides={"training.steps": 7, "corpus.filters": ["c4"]})
    assert table == longcat.load_config("smoke", overrides=["training.steps=7", "corpus.filters=[c4]"])
    with pytest.raises(ConfigError, match="expected a list or a dict"):
        longcat.load_config("smoke", overrides="training.steps=7")
    with pytest.raises(ConfigError, match="did you mean 'pretrain'"):
        longcat.run("pretrian", "smoke", workspace="none")
