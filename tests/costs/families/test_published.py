"""Real config.json files: their parameters by transformers' classes and as published, and whatever may be wrong in them."""

import json
from pathlib import Path

import pytest

from longcat.costs.families import from_config
from longcat.errors import ConfigError
from tests.costs.families.theirs import known, parameters, text_of

FOLDER = Path(__file__).with_name("configs")
ROWS = json.loads((FOLDER / "expected.json").read_text())
NAMES = [row["file"].removesuffix(".json") for row in ROWS]


def read(name):
    return json.loads((FOLDER / f"{name}.json").read_text())


def agrees(published, lowest, highest):
    """Return whether a figure is one of this range, to 1 %, or as rounded or cut off to whole billions as cards print it."""
    unit = 1e11 if published >= 1e12 else next(size for size in (1e9, 1e8, 1e7) if round(published) % size == 0)
    return lowest * 0.99 <= published <= highest * 1.01 or (
        published - unit / 2 <= highest and lowest < published + unit
    )


FILES = sorted(path.stem for path in FOLDER.glob("*.json") if not path.stem.startswith("expected"))


def test_every_file_is_expected_once():
    rows = [row for path in FOLDER.glob("expected*.json") for row in json.loads(path.read_text())]
    assert sorted(row["file"] for row in rows) == sorted(f"{name}.json" for name in FILES)


@pytest.mark.parametrize("row", ROWS, ids=NAMES)
def test_published_parameters(row):
    found = from_config(read(row["file"].removesuffix(".json")))
    if row["published_total"] is not None:
        assert agrees(row["published_total"], found.total_parameters, found.total_parameters)
    if row["published_activated"] is not None:  # some count embedding and head, some do not
        head = found.hidden_size * found.vocabulary
        lowest = found.activated_parameters - head
        assert agrees(row["published_activated"], lowest, found.formula_parameters)


@pytest.mark.parametrize("row", ROWS, ids=NAMES)
def test_parameters_are_those_of_transformers(row):
    values = read(row["file"].removesuffix(".json"))
    family, text = text_of(values)
    expected = parameters(family, text) if known(family) else None
    assert row["total_parameters"] == expected
    if expected is not None:
        assert from_config(values).total_parameters == expected


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("wrong", [None, 0, -1, 7.5, True, "7", [], [1], {}, {"a": 1}], ids=str)
def test_a_field_of_another_kind_is_counted_or_named(name, wrong):
    values = read(name)
    inner = values.get("text_config", values)
    for field in (*inner, "num_nextn_predict_layers", "layer_types", "mlp_layer_types", "tie_word_embeddings"):
        changed = {**inner, field: wrong}
        try:
            found = from_config(values | {"text_config": changed} if "text_config" in values else changed, "c.json")
        except ConfigError as error:
            assert str(error).startswith("c.json")
        else:
            assert found.total_parameters >= found.activated_parameters > 0
            assert found.training_flops(4096) > 0
