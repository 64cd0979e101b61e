import sys

import pytest

from longcat.corpus.own_functions import OwnFunction
from longcat.errors import ConfigError


@pytest.fixture
def module(tmp_path, monkeypatch):
    (tmp_path / "functions_of_ones_own.py").write_text(
        "import functools\n"
        "def plain(text):\n    return len(text)\n"
        "@functools.lru_cache\ndef cached(text):\n    return len(text)\n"
        "class Model:\n    def score(self, text):\n        return 0.5\n"
        "    def __call__(self, text):\n        return 0.5\n"
        "model = Model()\n"
        "number = 3\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    yield "functions_of_ones_own"
    sys.modules.pop("functions_of_ones_own", None)


@pytest.mark.parametrize("name", ["plain", "cached", "model", "model.score"])
def test_functions_methods_and_objects_are_known_by_the_code_of_their_module(module, name, tmp_path):
    own = OwnFunction.load(f"{module}:{name}", "corpus.filters=")
    assert own("text") in (4, 0.5)
    path = tmp_path / "functions_of_ones_own.py"
    path.write_text(path.read_text() + "# changed\n")
    assert list(own.identity) == ["code"]
    assert OwnFunction.load(f"{module}:{name}", "corpus.filters=").identity == own.identity
    path.write_text(path.read_text() + "# changed again\n")
    assert OwnFunction.load(f"{module}:{name}", "corpus.filters=").identity != own.identity


def test_a_function_written_in_c_has_no_code():
    assert OwnFunction.load("math:sqrt", "corpus.filters=").identity == {}


def test_what_a_script_defines_is_refused_with_what_to_do():
    with pytest.raises(ConfigError, match="put it into a module of its own"):
        OwnFunction.load("__main__:keep", "corpus.filters=")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "no_such_module_at_all:score",
            "cannot be imported: No module named .*; if it is in this folder, put PYTHONPATH=. ",
        ),
        ("json.no_such_module:score", "cannot be imported: No module named 'json.no_such_module'$"),
        ("math:no_such_function", "cannot be imported"),
        ("math:pi", "is no function"),
        ("functions_of_ones_own:number", "is no function"),
    ],
)
def test_what_is_not_there_is_named_with_its_field(module, name, message):
    with pytest.raises(ConfigError, match=rf"corpus\.quality\.function={name} {message}"):
        OwnFunction.load(name, "corpus.quality.function=")


def test_a_module_in_this_folder_is_found_with_what_is_advised(tmp_path, monkeypatch):
    """As `longcat` finds none there by itself, whose own folder is where it is installed."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [folder for folder in sys.path if folder])
    (tmp_path / "lies_about.py").write_text("def keep(text):\n    return True\n")
    with pytest.raises(ConfigError, match="'lies_about'; it is in this folder, put PYTHONPATH=. before the command$"):
        OwnFunction.load("lies_about:keep", "corpus.filters=")
    monkeypatch.syspath_prepend(".")
    assert OwnFunction.load("lies_about:keep", "corpus.filters=")("text")


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("yield 'a'; raise ValueError('first\\nsecond')", "failed: ValueError: first$"),
        ("yield 'a'; sys.exit(3)", "failed: SystemExit: 3$"),
        ("return sys.exit(3)", "failed: SystemExit: 3$"),
        ("return 5", "failed: it returned 5; expected texts"),
        ("return 'one text'", "failed: it returned 'one text'; expected texts"),
    ],
)
def test_a_source_that_does_not_yield_texts_is_named(tmp_path, monkeypatch, lines, message):
    (tmp_path / "odd_source.py").write_text(f"import sys\ndef odd():\n    {lines}\n")
    monkeypatch.syspath_prepend(tmp_path)
    try:
        own = OwnFunction.load("odd_source:odd", "corpus.sources=own:")
        with pytest.raises(ConfigError, match=rf"corpus\.sources=own:odd_source:odd {message}"):
            list(own.texts())
    finally:
        del sys.modules["odd_source"]


def test_what_a_function_raises_is_passed_on():
    with pytest.raises(ConfigError, match=r"corpus\.filters=math:sqrt failed: TypeError"):
        OwnFunction.load("math:sqrt", "corpus.filters=")("text")
