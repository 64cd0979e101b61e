"""The picture of the experts' load."""

import json

import pytest
from PIL import Image

from longcat.training.plots import plot_expert_load


@pytest.mark.parametrize(("layers", "routed", "zero"), [(1, 4, 0), (2, 8, 4), (11, 4, 2)])
def test_a_run_is_drawn_whatever_its_layers(tmp_path, layers, routed, zero):
    records = tmp_path / "expert-load.jsonl"
    row = [list(range(routed + zero))] * (layers - 1) + [[0] * (routed + zero)]  # the last layer has no load
    records.write_text("".join(json.dumps({"step": step, "slots": row}) + "\n" for step in (1, 2)))
    plot_expert_load(records, routed, tmp_path / "load.png")
    with Image.open(tmp_path / "load.png") as picture:
        assert picture.format == "PNG"
        assert picture.height > 200


def test_a_run_without_records_has_no_picture(tmp_path):
    (tmp_path / "expert-load.jsonl").write_text("")
    plot_expert_load(tmp_path / "expert-load.jsonl", 4, tmp_path / "load.png")
    assert not (tmp_path / "load.png").exists()
