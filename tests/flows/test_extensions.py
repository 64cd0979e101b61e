"""A package that is installed registers a stage, a source, a filter and an evaluation; one that is broken is in nobody's way."""

import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from dataclasses import replace

import pytest

from longcat import extensions
from longcat.artifact import Workspace
from longcat.config import load_config
from longcat.corpus.filters import Filter
from longcat.corpus.sources import resolve
from longcat.corpus.stage import preprocess
from longcat.errors import ConfigError
from longcat.evaluation.suites import find_suite, own_code
from longcat.flows.dag import PIPELINE, STAGES, Stage, find_stage, own_stages, stages_of, table_for
from longcat.flows.walk import function_of
from longcat.provenance import ROOT

PAGE = (ROOT / "docs/extending.md").read_text(encoding="utf-8")
[EXAMPLE] = re.findall(r"^```python\n(.*?)^```", PAGE, re.M | re.S)
[PROJECT] = re.findall(r"^```toml\n(.*?)^```", PAGE, re.M | re.S)
LIMIT_S = 800


def install(source, target):
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*command, "--target", str(target), str(source)], check=True, timeout=LIMIT_S, capture_output=True)


@pytest.fixture(scope="session")
def site(made_once):
    """A folder that the example of the page is installed in."""

    def make(folder):
        source = folder / "source"
        source.mkdir()
        (source / "hello.py").write_text(EXAMPLE)
        (source / "pyproject.toml").write_text(PROJECT)
        install(source, folder / "site")

    return made_once("extension", make) / "site"


def register(folder, name, entry_points, module=""):
    """Register entry points as pip would, by group."""
    information = folder / f"{name}-1.0.dist-info"
    information.mkdir(parents=True, exist_ok=True)
    (information / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    lines = [
        f"[{group}]\n" + "".join(f"{of} = {at}\n" for of, at in points.items())
        for group, points in entry_points.items()
    ]
    (information / "entry_points.txt").write_text("\n".join(lines))
    if module:
        (folder / f"{name}.py").write_text(module)


@pytest.fixture
def others(tmp_path, monkeypatch):
    """A folder of distributions of others, which are forgotten afterwards."""
    folder = tmp_path / "others"
    folder.mkdir()
    before = set(sys.modules)
    monkeypatch.syspath_prepend(str(folder))
    yield lambda *arguments, **settings: register(folder, *arguments, **settings)
    for name in set(sys.modules) - before:
        if str(folder) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]
    extensions._registered.cache_clear()


def test_the_example_has_twenty_lines_that_do_something():
    lines = [line for line in EXAMPLE.splitlines() if line.strip()]
    assert len(lines) <= 20
    groups = tomllib.loads(PROJECT)["project"]["entry-points"]
    assert groups.keys() == {extensions.STAGES, extensions.SOURCES, extensions.FILTERS, extensions.EVALUATIONS}


@pytest.fixture
def command(site, tmp_path):
    def run(*arguments):
        environment = {**os.environ, "PYTHONPATH": f"{site}:{ROOT}", "OMP_NUM_THREADS": "1"}
        return subprocess.run(
            [sys.executable, "-m", "longcat.cli", *arguments, "--workspace", str(tmp_path / "work")],
            env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=LIMIT_S, check=False,
        )  # fmt: skip

    return run


@pytest.mark.slow
@pytest.mark.timeout(2 * LIMIT_S)
def test_the_example_runs_as_it_is_shown(command):
    """Its stage is a command and a row, its source is read, its filter leaves out, its suite scores."""
    lines = re.search(r"^```sh\n(.*?)^```", PAGE, re.M | re.S)[1].splitlines()
    whole, alone = (shlex.split(line)[1:] for line in lines)
    small = ["training.steps=2", "training.processes=1", "benchmark.profiled_steps=0", "corpus.workers=2"]
    done = command(*whole, *(part for setting in small for part in ("--set", setting)), "--json")
    assert done.returncode == 0, done.stderr
    rows = {row["stage"]: row for row in json.loads(done.stdout)["stages"]}
    assert list(rows) == ["preprocess", "pretrain", "benchmark", "evaluate", "rows"]
    tokens = rows["preprocess"]["facts"]
    assert tokens["sources"][0]["name"] == "greetings"
    assert tokens["dropped"]["polite"] == 180
    assert rows["rows"]["facts"] == {"rows": tokens["train_rows"]}
    assert rows["evaluate"]["facts"]["scores"] == {"size": {"rows": load_config("smoke").model.vocabulary}}
    again = command(*alone)
    assert again.returncode == 0, again.stderr
    assert "preprocess" in again.stdout and "rows" in again.stdout and again.stdout.count("cached") == 2
    helped = command("rows", "--help")
    assert helped.returncode == 0 and "A stage of hello-longcat 1.0" in " ".join(helped.stdout.split())


STAGE = """
from longcat.artifact import Facts, Recipe
from longcat.flows.dag import Stage

class Length(Facts):
    length: int
    headline = property(lambda self: str(self.length))
    figures = property(lambda self: {})

def measure(config, tokens, *, workspace, report):
    recipe = Recipe("length", Length, 1, {}, parents=(tokens,))
    return workspace.materialize(recipe, lambda folder: Length(length=1))

STAGE = Stage("length", "A length", "lengths:measure", needs=("preprocess",))
LATER = Stage("later", "What needs it", "lengths:measure", needs=("length",))
LOST = Stage("lost", "What needs another", "lengths:measure", needs=("nothing",))
TAKEN = Stage("pretrain", "Has a name of longcat's", "lengths:measure")
"""


def test_stages_stand_behind_what_they_need_and_unusable_ones_are_left_out(others):
    others("lengths", {extensions.STAGES: {"later": "lengths:LATER", "length": "lengths:STAGE"}}, STAGE)
    assert [stage.name for stage in own_stages()] == ["length", "later"]
    names = [stage.name for stage in stages_of("later", table_for("later"))]
    assert names == ["preprocess", "length", "later"]
    others("broken", {extensions.STAGES: {"a": "broken:A", "lost": "lengths:LOST"}}, "import no_such_thing\n")
    extensions._registered.cache_clear()
    with pytest.warns(
        UserWarning, match=r"a \(entry point broken:A of broken 1.0\) cannot be imported: .*no_such_thing"
    ):
        table = table_for(PIPELINE)
    assert [stage.name for stage in table] == [*(stage.name for stage in STAGES), "length", "later"]
    assert table_for("evaluate") == STAGES  # nobody else's is looked at
    with pytest.raises(ConfigError, match="entry point broken:A of broken 1.0"):
        find_stage("a")
    with pytest.raises(ConfigError, match="there is no stage 'lenght'; did you mean 'length'"):
        find_stage("lenght")
    with pytest.raises(ConfigError, match="has the name of a stage of longcat, 'pretrain'"):
        find_stage("lengths:TAKEN")


@pytest.fixture
def tokens_of(corpus_file, tmp_path):
    def make(*overrides):
        settings = [f"corpus.sources={corpus_file}", "corpus.workers=1", *overrides]
        return preprocess(load_config("smoke", overrides=settings), workspace=Workspace(tmp_path / "work"))

    return make


def test_results_of_a_stage_are_made_anew_when_its_code_changes(others, corpus_file, tmp_path):
    import longcat

    def run():
        overrides = {"corpus.sources": [str(corpus_file)], "corpus.workers": 1}
        return longcat.run("lengths:STAGE", "smoke", overrides=overrides, workspace=tmp_path / "w", tracked=False)

    others("lengths", {}, STAGE)
    first, second = run(), run()
    assert not first["length"].cached and second["length"].cached and second.tokens.cached
    assert [row["stage"] for row in first.summary["stages"]] == ["preprocess", "length"]
    others("lengths", {}, STAGE.replace("length=1", "length=2"))
    del sys.modules["lengths"]
    third = run()
    assert third["length"].facts.length == 2 and third.tokens.cached
    assert third["length"].digest != first["length"].digest


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("sys.exit(3)", "stage odd: odd_stages:work has left by SystemExit: 3$"),
        ("5", "stage odd: odd_stages:work returned 5; expected what workspace.materialize returns$"),
        (None, "stage odd: odd_stages:work cannot be imported: module 'odd_stages' has no attribute 'work'$"),
    ],
)
def test_what_is_no_stage_is_told_with_its_name(others, tmp_path, function, message):
    stage = Stage("odd", "Odd", "odd_stages:work")
    work = "" if function is None else f"def work(config, *, workspace, report):\n    return {function}\n"
    others("odd_stages", {}, f"import sys\n{work}")
    own = replace(stage, own=extensions.Extension("odd", "odd_stages:ODD", ""))
    with pytest.raises(ConfigError, match=message):
        function_of(own)(load_config("smoke"), workspace=Workspace(tmp_path), report=print)


def test_a_stage_without_its_function_is_refused_before_anything_is_made(others, corpus_file, tmp_path):
    import longcat

    others("lengths", {}, STAGE.replace("def measure", "def measured"))
    with pytest.raises(
        ConfigError, match="stage length: lengths:measure cannot be imported: .* no attribute 'measure'"
    ):
        longcat.run(
            "lengths:STAGE",
            "smoke",
            overrides={"corpus.sources": [str(corpus_file)]},
            workspace=tmp_path,
            tracked=False,
        )
    assert not (tmp_path / "documents").exists()


OWN = """
from shared_part import LEAST

def long(text):
    return len(text) > LEAST

def texts(count=60):
    for number in range(count):
        yield f"text {number} " * 200

def wrong():
    yield 3
"""


def test_a_filter_by_name_and_by_place_and_what_it_imports(others, tokens_of, tmp_path):
    others("shared_part", {}, "LEAST = 500\n")
    others("judging", {extensions.FILTERS: {"long": "judging:long", "c4": "judging:long"}}, OWN)
    assert Filter(["long"]).reasons == ["long"]
    assert Filter(["c4"]).own == []  # built-in names go first
    one, other = tokens_of("corpus.filters=[long]"), tokens_of("corpus.filters=[judging:long]")
    assert one.facts.dropped["long"] == other.facts.dropped["judging:long"] > 0
    assert tokens_of("corpus.filters=[long]").cached
    others("shared_part", {}, "LEAST = 501\n")
    for name in ("judging", "shared_part"):
        del sys.modules[name]
    extensions._registered.cache_clear()
    assert not tokens_of("corpus.filters=[long]").cached
    with pytest.raises(ConfigError, match=r"no rule 'lnog'; did you mean 'long'.*registered ones are c4, long"):
        Filter(["lnog"])
    others("second", {extensions.FILTERS: {"long": "second:long"}})
    extensions._registered.cache_clear()
    with pytest.raises(ConfigError, match="registered several times: .*judging:long of judging 1.0.*second:long"):
        Filter(["long"])


def test_a_source_is_a_function(others, tmp_path):
    others("shared_part", {}, "LEAST = 500\n")
    others("judging", {extensions.SOURCES: {"some": "judging:texts"}}, OWN)

    def made(*overrides):
        config = load_config("smoke", overrides=["corpus.workers=1", *overrides])
        return preprocess(config, workspace=Workspace(tmp_path / "work"))

    one, other = made("corpus.sources=own:some"), made("corpus.sources=own:judging:texts")
    assert one.facts.train_tokens == other.facts.train_tokens
    fewer = made("corpus.sources=[{kind: own, function: some, arguments: {count: 50}}]")
    assert fewer.facts.train_tokens < one.facts.train_tokens
    with pytest.raises(ConfigError, match="corpus.sources=own:judging:wrong failed: it yielded 3; expected a string"):
        made("corpus.sources=own:judging:wrong")
    with pytest.raises(ConfigError, match="corpus.sources=own:nobody: no distribution registers it in longcat.sources"):
        made("corpus.sources=own:nobody")
    with pytest.raises(ConfigError, match="failed: TypeError: .*unexpected keyword argument 'many'"):
        made("corpus.sources=[{kind: own, function: some, arguments: {many: 50}}]")


SHOUTED = """
from longcat.corpus.readers import Format

def records(file, reading, begin, end):
    with file.open("rb") as stream:
        for line in stream.read().decode().split("!"):
            yield line

FORMAT = Format((".shout",), records)
"""


def test_a_format_is_known_by_the_suffix_of_files(others, tmp_path):
    (tmp_path / "a.shout").write_text("one!two!three")
    config = load_config("smoke", overrides=[f"corpus.sources={tmp_path / 'a.shout'}"]).corpus.sources[0]
    others("shouting", {extensions.FORMATS: {"shout": "shouting:FORMAT"}}, SHOUTED)
    extensions._registered.cache_clear()
    source = resolve(config, 10**6)
    assert list(source.blocks[0].records(["utf-8"], 10**6)) == ["one", "two", "three"]
    others("shouting", {extensions.FORMATS: {"shout": "shouting:FORMAT"}}, SHOUTED + "# changed\n")
    extensions._registered.cache_clear()
    del sys.modules["shouting"]
    assert resolve(config, 10**6).pin != source.pin


def test_an_evaluation_by_name(others):
    others("scoring", {extensions.EVALUATIONS: {"mine": "scoring:SUITE", "bad": "scoring:BAD"}},
           "from longcat.evaluation.suites import Suite\nSUITE = Suite(lambda checkpoint: None)\nBAD = 3\n")  # fmt: skip
    assert find_suite("mine") is find_suite("scoring:SUITE")
    assert own_code("mine")["distribution"] == "scoring 1.0" and own_code("held_out") is None
    with pytest.raises(ConfigError, match=r"bad \(entry point scoring:BAD of scoring 1.0\) is a int, not a"):
        find_suite("bad")
    with pytest.raises(ConfigError, match="there are: held_out, intrinsic, tasks, bad, mine, or package.module:NAME"):
        find_suite("nobody")
