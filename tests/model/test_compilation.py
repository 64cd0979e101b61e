"""Compiled layers compute what they do without, and leave their graphs where the design says."""

import pytest

from longcat.config import load_config
from longcat.model import LongcatModel
from longcat.ops import registry
from tests.model.compilation import ROUTING, compare_compiled


@pytest.mark.parametrize("preset", ["smoke", "tiny-2.0"])
@pytest.mark.parametrize("kind, apart", [("cpu", {"block_attention"}), ("cuda", set())])
def test_graphs_are_left_for_routing_and_kernels_of_their_own(kind, apart, preset, monkeypatch):
    monkeypatch.setattr(registry, "kind_of", lambda tensor: kind)
    monkeypatch.setattr(registry, "check", lambda *arguments: None)  # not a GPU's kernels, but the CPU's of that name
    model = LongcatModel(load_config(preset).model)
    model.initialize(0)
    assert compare_compiled(model, "aot_eager") <= ROUTING | apart
