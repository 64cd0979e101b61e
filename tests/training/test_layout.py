"""What is settled before a process starts."""

import pytest

from longcat.accelerator import Accelerator, choose
from longcat.config import load_config
from longcat.costs.memory import training_memory
from longcat.errors import ConfigError
from longcat.parallel.asked import spread_of
from longcat.training.layout import settle_layout


@pytest.mark.parametrize(("devices", "fits"), [(2, True), (4, True), (8, True), (3, False)])
def test_nodes_that_experts_fill_unevenly_are_refused_before_anything_starts(devices, fits):
    settings = ["training.processes=4", "parallel.expert=4", "parallel.two_level=true"]
    config = load_config("smoke", None, [*settings, f"parallel.devices_per_node={devices}"])
    if fits:
        assert settle_layout(config, choose("cpu")).degrees.expert == 4
        return
    with pytest.raises(ConfigError, match="nodes of 3 devices have 1 or 3 of them"):
        settle_layout(config, choose("cpu"))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            ["parallel.tensor=3", "training.processes=3"],
            "parallel.tensor=3 does not divide model.num_attention_heads=2",
        ),
        (
            ["parallel.pipeline=4", "training.processes=4"],
            "parallel.pipeline=4 makes 4 stages, more than model.num_layers=1",
        ),
        (["parallel.context=3", "training.processes=3"], "parallel.context=3 needs it"),
        (["parallel.context=2", "training.processes=3"], "parallel.context=2 does not divide training.processes=3"),
    ],
)
def test_an_axis_that_does_not_fit_the_model_is_refused_with_one_that_does(settings, message):
    with pytest.raises(ConfigError, match=message) as caught:
        settle_layout(load_config("smoke", None, [*settings, "training.global_batch_sequences=12"]), choose("cpu"))
    assert "would fit" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("preset", "processes"), [("longcat-flash-lite", 128), ("longcat-flash", 1792), ("longcat-2.0", 49152)]
)
def test_a_preset_fits_at_the_world_size_that_it_states(preset, processes):
    memory = 64 * 10**9
    config = load_config(preset, overrides=[f"training.processes={processes}"])
    layout = settle_layout(config, Accelerator("cpu", "none", 1, memory, supports_bf16=True))
    spread, length = spread_of(layout.degrees), config.corpus.sequence_length_tokens
    found = training_memory(config.model, config.training, spread, layout.precision, config.parallel, length, memory)
    assert 0.5 * memory < found.peak < memory
