"""The generated pages have every setting, command and option, preset and device, and what is written by hand is there."""

import csv
import re
import shlex

import pytest
import typer

from docs.build import GENERATED, ROOT
from docs.reference import api, artifacts, cli, hardware, metrics, presets, settings
from docs.reference.markdown import prose, table
from longcat.artifact import Facts
from longcat.cli import app
from longcat.config import PipelineConfig, all_keys, load_config, preset_names
from longcat.training.losses import AUXILIARY

COMMANDS = typer.main.get_command(app).commands


def test_every_setting_has_an_anchor_a_text_and_says_whether_it_is_in_the_digest():
    page = settings.page()
    shown = re.findall(r"^#+ `([\w.]+)` \{ #([\w.]+) \}\n\n(.*)\n\{ \.facts \}\n\n(.+)$", page, re.MULTILINE)
    assert sorted(name for name, *_ in shown) == sorted(all_keys(PipelineConfig))
    for name, anchor, facts, text in shown:
        assert name == anchor
        assert facts.endswith(("in the digest", "not in the digest"))
        assert len(text) > 5


def test_a_setting_below_one_that_is_not_in_the_digest_is_not_in_it_either():
    found = {one.name: one.in_digest for one in settings.settings()}
    assert not found["evaluation.gates"] and not found["evaluation.gates.score"]
    assert found["training.steps"] and not found["training.log_every_steps"]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("seed", "integer ≥ 0 · default `0` · in the digest"),
        ("accelerator", "`auto`, `npu`, `cuda`, `cpu` · default `auto` · not in the digest"),
        ("corpus.held_out_fraction", "number > 0, < 0.5 · default `0.02` · in the digest"),
        ("corpus.sources", 'list (at least 1) of section · default `[{"kind": "stdlib"}]` · in the digest'),
        ("corpus.sources.weight", "number > 0 or null · default `null` · in the digest"),
        ("corpus.mask", "list of `email`, `phone`, `national_id`, `address` · default `[]` · in the digest"),
    ],
)
def test_kinds_bounds_and_defaults(name, said):
    assert f"{{ #{name} }}\n\n{said}\n" in settings.page()


def test_every_command_and_option_is_there_with_an_example():
    page = cli.page()
    parts = dict(re.findall(r"^## `longcat ([\w ]+)`(.*?)(?=^## |\Z)", page, re.MULTILINE | re.DOTALL))
    assert {name.split()[0] for name in parts} == COMMANDS.keys() and parts.keys() == cli.commands().keys()
    for name, command in cli.commands().items():
        assert f"longcat {name}" in parts[name].partition("```sh")[2]
        for parameter in command.params:
            for spelling in parameter.opts if parameter.param_type_name == "option" else ():
                assert spelling == "--help" or re.search(rf"`{spelling}[ `]", parts[name]), (name, spelling)


def test_commands_at_the_top_of_reference_pages_are_ones_that_longcat_takes():
    for name in GENERATED:
        head = {"settings": settings, "cli": cli, "metrics": metrics, "artifacts": artifacts, "presets": presets}.get(
            name
        )
        for line in re.findall(r"^    longcat (.+)$", head.HEAD if head else "", re.MULTILINE):
            command, *arguments = shlex.split(line, comments=True)
            COMMANDS[command].make_context(command, arguments)


def test_presets_and_devices_are_all_there():
    assert all(f"| `{name}` |" in presets.page() for name in preset_names())
    page = hardware.page()
    with (hardware.DATA / "hardware.csv").open(newline="") as stream:
        names = [row["name"] for row in csv.DictReader(stream)]
    assert len(names) > 20 and all(f"| {prose(name)} |" in page for name in names)


def test_every_fact_is_described():
    def kinds(kind):
        for sub in kind.__subclasses__():
            yield sub
            yield from kinds(sub)

    assert {kind.facts for kind in artifacts.KINDS} <= set(kinds(Facts))
    for kind in kinds(Facts):
        if kind.__module__.startswith("longcat."):
            assert [name for name, field in kind.model_fields.items() if not field.description] == [], kind


def test_every_kind_of_artifact_that_the_code_makes_is_there():
    files = (ROOT / "longcat").rglob("*.py")
    made = {kind for file in files for kind in re.findall(r'Recipe\(\s*kind="(\w+)"', file.read_text(encoding="utf-8"))}
    assert made == {kind.name for kind in artifacts.KINDS}


def test_every_auxiliary_loss_is_a_metric():
    assert {f"train/{name}_loss" for name in AUXILIARY} <= {one.name for one in metrics.RECORDS}


def test_settings_that_metrics_name_exist():
    for text in re.findall(r"`((?:training|model|evaluation|corpus)\.[\w.]+)`", metrics.page() + artifacts.page()):
        assert text in set(all_keys(PipelineConfig)), text


@pytest.mark.slow
def test_the_example_of_the_python_page_runs(tmp_path, monkeypatch, capsys, corpus_file):
    monkeypatch.chdir(tmp_path)
    code = re.search(r"```python\n(.*?)```", api.HEAD, re.DOTALL)[1]
    given = f'load_config("smoke", overrides=["corpus.sources={corpus_file}"])'
    assert 'load_config("smoke")' in code
    exec(code.replace('load_config("smoke")', given), {})  # the example itself, with a corpus that is quickly read
    assert "training tokens" in capsys.readouterr().out
    assert load_config("smoke").preset == "smoke"


def test_the_python_page_shows_signatures_arguments_and_errors():
    page = api.page()
    assert "preprocess(\n    config: PipelineConfig,\n    *,\n    workspace: Workspace," in page
    assert "**Raises:** `ConfigError`" in page
    for names in api.LISTED.values():
        assert all(f"{{ #longcat.{name} }}" in page for name in names)


def test_what_import_longcat_offers_comes_first(tmp_path, monkeypatch):
    (tmp_path / "longcat").mkdir()
    (tmp_path / "longcat/inside.py").write_text(
        "class Model:\n"
        '    """A model that is loaded."""\n\n'
        "    def generate(self, prompt: str, *, tokens: int = 8) -> str:\n"
        '        """Continue a text.\n\n        Args:\n            prompt: the text.\n            tokens: most of them.\n        """\n\n\n'
        'def load(path: str) -> Model:\n    """Load a model."""\n'
    )
    (tmp_path / "longcat/__init__.py").write_text(
        "from typing import TYPE_CHECKING\n\nif TYPE_CHECKING:\n    from longcat.inside import Model, load\n"
        '__all__ = ["Model", "load"]\n\n\ndef __getattr__(name):\n    raise AttributeError(name)\n'
    )
    monkeypatch.setattr(api, "ROOT", tmp_path)
    monkeypatch.setattr(api, "LISTED", {})
    page = api.page()
    assert "## `import longcat`" in page
    assert "### `longcat.load` { #longcat.load }" in page and "load(path: str) -> Model" in page
    assert "#### `generate` { #longcat.Model.generate }" in page and "| `prompt` | the text. |" in page


def test_text_of_docstrings_is_shown_as_it_is():
    assert prose("a_b *c* <d> `e_f` [g], see docs/cluster.md") == (
        r"a\_b \*c\* &lt;d&gt; `e_f` &#91;g&#93;, see [cluster](../cluster.md)"
    )
    assert prose("other/docs/nowhere.md") == "other/docs/nowhere.md"
    assert table(("a", "b"), [("`x|y`", prose("x|y"))]).splitlines()[2] == r"| `x|y` | x\|y |"
