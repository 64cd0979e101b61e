"""YAML of the user: every key once, and errors of one line that say where."""

import re

import pytest

from longcat.errors import ConfigError
from longcat.yaml_files import read_mapping


def test_what_yaml_means_is_read(tmp_path):
    file = tmp_path / "a.yaml"
    file.write_text("base: &base {steps: 3, 1: one}\nmore:\n  <<: *base\n  steps: 4\nlist: [a, 2, null]\n")
    assert read_mapping(file) == {
        "base": {"steps": 3, 1: "one"},
        "more": {"steps": 4, 1: "one"},
        "list": ["a", 2, None],
    }


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("training:\n  steps: 3\n  steps: 4\n", "is not valid YAML: line 3, column 3: 'steps' is there twice"),
        ("training: {steps: 3}\ntraining: {}\n", "line 2, column 1: 'training' is there twice"),
        ("training:\n  steps: [3\n", "is not valid YAML: line 3, column 1: "),
        ("a: b: c\n", "line 1, column 5: mapping values are not allowed here"),
        ("a: !!python/object:os.system {}\n", "line 1, column 4: could not determine a constructor"),
        ("- a\n", "expected a mapping of fields, found list"),
        ("", "expected a mapping of fields, found NoneType"),
        ("a: \x00\n", "is not valid YAML: "),
        ("{" * 2000, "is not valid YAML: "),
    ],
)
def test_what_is_wrong_is_said_in_one_line_with_its_place(tmp_path, text, said):
    file = tmp_path / "a.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=re.escape(said)) as raised:
        read_mapping(file, "configuration a.yaml")
    assert "configuration a.yaml" in str(raised.value) and "\n" not in str(raised.value)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(ConfigError, match=r"cannot read .*none\.yaml: No such file"):
        read_mapping(tmp_path / "none.yaml")
