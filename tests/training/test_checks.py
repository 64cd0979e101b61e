"""What pre-training refuses before any stage starts."""

from dataclasses import replace

import pytest

from longcat.accelerator import choose
from longcat.config import load_config
from longcat.errors import ConfigError, DeviceError
from longcat.training import checks
from longcat.training.checks import check_training


def test_presets_for_a_laptop_pass():
    for preset in ("smoke", "tiny", "tiny-2.0"):
        check_training(load_config(preset, overrides=["accelerator=cpu"]))


@pytest.mark.parametrize("preset", ["longcat-flash", "longcat-flash-lite", "longcat-2.0"])
def test_a_model_that_cannot_fit_says_so_with_its_size(preset):
    config = load_config(preset, overrides=["accelerator=cpu", "training.processes=2"])
    with pytest.raises(ConfigError, match=r"the model does not fit: its weights, gradients and optimizer states need at "
                       r"least [\d,.]+ GiB in all processes, this machine has [\d,.]+ GiB"):  # fmt: skip
        check_training(config)


def test_memory_is_counted_per_device_on_an_accelerator(monkeypatch):
    device = replace(choose("cpu"), kind="cuda", name="NVIDIA A100", count=8, memory_bytes=2**10)
    monkeypatch.setattr(checks, "training_device", lambda _: device)
    with pytest.raises(ConfigError, match=r"GiB per device, a device \(NVIDIA A100\) has 0\.0 GiB"):
        check_training(load_config("smoke"))
    monkeypatch.setattr(checks, "training_device", lambda _: replace(device, memory_bytes=80 * 2**30))
    check_training(load_config("smoke"))


def test_batch_layout_and_device_are_checked():
    with pytest.raises(ConfigError, match=r"training\.global_batch_sequences=7 is not a multiple"):
        check_training(load_config("smoke", overrides=["training.global_batch_sequences=7", "training.processes=2"]))
    with pytest.raises(DeviceError, match="accelerator cuda"):
        check_training(load_config("smoke", overrides=["accelerator=cuda"]))
