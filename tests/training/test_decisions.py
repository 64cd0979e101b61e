"""What is said before training begins."""

import pytest

from longcat.accelerator import Accelerator
from longcat.config import load_config
from longcat.errors import ConfigError
from longcat.training import decisions as module
from longcat.training.decisions import decisions


def test_on_a_cpu_it_says_why_it_is_one():
    said = decisions(load_config("smoke", None, ["training.processes=2", "training.precision=fp32"]))
    assert list(said) == ["device", "layout", "precision", "kernels", "model", "training", "work"]
    assert said["device"].startswith("cpu, ") and "no NPU: " in said["device"]
    assert said["layout"].startswith("2 processes: ")
    assert said["precision"] == "fp32 (training.precision)"
    assert "reference, as there is none for cpu: " in said["kernels"]
    assert "parameters, of which a token activates" in said["model"]
    assert said["training"].startswith("12 steps of ")
    assert "MFLOP a token, " in said["work"] and "GFLOP in all" in said["work"]
    asked = decisions(load_config("smoke", None, ["accelerator=cpu", "training.processes=1"]))
    assert asked["device"].endswith("(accelerator=cpu)")
    assert asked["layout"] == "1 process"


def test_on_an_accelerator_it_names_the_kernels_and_those_that_are_refused(monkeypatch):
    npu = Accelerator("npu", "Ascend910B2", 8, 64 << 30, supports_bf16=True)
    monkeypatch.setattr(module, "training_device", lambda _: npu)
    said = decisions(load_config("smoke", None, ["training.reference_operators=[rms_norm]"]))
    assert said["device"] == "8 x npu, Ascend910B2"
    assert said["layout"].startswith("8 processes: ") and "training.processes=0" in said["layout"]
    assert said["precision"] == "bf16 (training.precision=auto: Ascend910B2 has bf16)"
    chosen, refused, *_ = said["kernels"].split("; ")
    assert chosen.startswith("of npu: ") and "swiglu" in chosen and "rms_norm" not in chosen
    assert refused == "reference, as training.reference_operators says: rms_norm"


def test_where_bits_do_not_repeat_it_says_so(monkeypatch):
    monkeypatch.setattr(module, "training_device", lambda _: Accelerator("cuda", "NVIDIA H200", 1, 141 << 30, True))
    said = decisions(load_config("smoke"))
    searched = ", and silent corruption is looked for in copies of weights only"
    assert said["bits"].endswith(searched)
    unsearched = decisions(load_config("smoke", None, ["training.check_every_steps=0"]))
    assert unsearched["bits"] + searched == said["bits"]


def test_what_does_not_fit_is_refused():
    with pytest.raises(ConfigError, match="training.processes=3"):
        decisions(load_config("smoke", None, ["training.processes=3"]))
