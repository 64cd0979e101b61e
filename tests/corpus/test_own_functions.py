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
        ("no_such_module_at_all:score", "cannot be imported: No module named"),
        ("math:no_such_function", "cannot be imported"),
        ("math:pi", "is no function"),
        ("functions_of_ones_own:number", "is no function"),
    ],
)
def test_what_is_not_there_is_named_with_its_field(module, name, message):
    with pytest.raises(ConfigError, match=rf"corpus\.quality\.function={name} {message}"):
        OwnFunction.load(name, "corpus.quality.function=")


def test_what_a_function_raises_is_passed_on():
    with pytest.raises(ConfigError, match=r"corpus\.filters=math:sqrt failed: TypeError"):
        OwnFunction.load("math:sqrt", "corpus.filters=")("text")
