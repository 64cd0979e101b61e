"""Which function computes an operator, and that a wrong one is noticed before it is used."""

import logging

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from longcat.config import load_config
from longcat.config.training import operator_names
from longcat.errors import ConfigError, DeviceError
from longcat.model import LongcatModel
from longcat.ops import registry
from longcat.ops.operators import OPERATORS
from longcat.ops.registry import OperatorSettings, check, operator

CPU = torch.device("cpu")
PATHS = [(name, kind) for name, of in OPERATORS.items() for kind in ("cpu", "cuda") if kind in of.implementations]


def test_all_operators_can_be_named_in_the_configuration():
    assert sorted(operator_names()) == sorted(OPERATORS)
    named = load_config("smoke", overrides=[f"training.reference_operators={sorted(OPERATORS)}"])
    assert named.training.reference_operators == sorted(OPERATORS)


def test_an_unknown_operator_is_refused_with_the_nearest_name():
    message = (
        r"training\.reference_operators\.1: unknown operator 'rotery'; did you mean 'rotary'\?; there are: .*swiglu"
    )
    with pytest.raises(ConfigError, match=message):
        load_config("smoke", overrides=["training.reference_operators=[gating, rotery]"])
    with pytest.raises(ConfigError, match=r"unknown operator 'xyz'; there are: "):
        load_config("smoke", overrides=["training.reference_operators=[xyz]"])


def test_models_in_one_process_have_settings_of_their_own(monkeypatch):
    """What one model computes by the reference does not change the other."""
    config = load_config("smoke").model
    first, second = LongcatModel(config, OperatorSettings(["attention"])), LongcatModel(config)
    calls = []
    monkeypatch.setattr(OPERATORS["attention"], "reference", lambda *args: calls.append(args) or args[2])
    for model, references in ((first, 2 * config.num_layers), (second, 0), (first, 2 * config.num_layers)):
        calls.clear()
        model.initialize(0)
        model(torch.ones(1, 4, dtype=torch.long))
        assert len(calls) == references


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("name", "kind"), PATHS)
def test_paths_agree_with_their_reference(name, kind, dtype):
    """Those for CUDA are torch's own functions, which a CPU has too."""
    check(OPERATORS[name], OPERATORS[name].implementations[kind], CPU, dtype)


@pytest.fixture
def calls(monkeypatch):
    """A machine whose tensors say that they are an NPU's, and what was called on it."""
    monkeypatch.setattr(registry, "STANDARD", OperatorSettings())
    monkeypatch.setattr(registry, "kind_of", lambda tensor: "npu")
    return []


def doubled(calls, implementation=None, unsupported_reason=None):
    """An operator that doubles, with an implementation that does `implementation`."""

    @operator("swiglu", lambda draw: [(draw(3, 4),)])
    def double(x):
        calls.append("reference")
        return 2 * x

    def fast(x):
        calls.append("implementation")
        return x + x if implementation is None else implementation(x)

    double.implementation("npu", **({} if unsupported_reason is None else {"unsupported_reason": unsupported_reason}))(
        fast
    )
    return double


def test_the_path_of_the_device_is_taken_and_checked_once(calls):
    double = doubled(calls)
    assert torch.equal(double(torch.ones(2)), torch.full((2,), 2.0))
    assert calls == ["reference", "implementation", "implementation"]
    double(torch.ones(2))
    assert calls[3:] == ["implementation"]
    double(torch.ones(2, dtype=torch.bfloat16))  # another type is another kernel
    assert calls[4:] == ["reference", "implementation", "implementation"]


def test_other_devices_take_the_reference(calls, monkeypatch):
    monkeypatch.setattr(registry, "kind_of", lambda tensor: "cuda")
    doubled(calls)(torch.ones(2))
    assert calls == ["reference"]


def test_the_user_can_ask_for_the_reference(calls):
    double = doubled(calls)
    OperatorSettings(["swiglu"]).run(double, torch.ones(2))
    assert calls == ["reference"]


def test_an_obstacle_is_told_once(calls, caplog):
    double = doubled(calls, unsupported_reason=lambda x: "x is long" if len(x) > 2 else None)
    with caplog.at_level(logging.WARNING):
        double(torch.ones(3))
        double(torch.ones(3))
    assert calls == ["reference", "reference"]
    assert [record.getMessage() for record in caplog.records] == [
        "operator swiglu is computed by its reference, not by its implementation for npu: x is long"
    ]
    double(torch.ones(2))
    assert "implementation" in calls


class WrongGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return 2 * x

    @staticmethod
    def backward(ctx, gradient):
        return 3 * gradient


def broken(x):
    raise RuntimeError("no kernel")


@pytest.mark.parametrize(
    ("implementation", "message"),
    [
        (lambda x: 2.1 * x, "differs from its reference: result 0 by up to"),
        (lambda x: (2 * x)[:2], "differs from its reference: result 0 by up to nan"),
        (lambda x: 2 * x * torch.nan, "differs from its reference: result 0 by up to nan"),
        (WrongGradient.apply, "differs from its reference: gradient of argument 0 by up to"),
        (broken, r"fails on cpu with torch.float32 \(no kernel\)"),
    ],
    ids=["value", "shape", "nan", "gradient", "error"],
)
def test_a_wrong_path_is_refused_with_the_remedy(calls, implementation, message):
    double = doubled(calls, implementation)
    for _ in range(2):  # it stays refused
        with pytest.raises(DeviceError, match=f"operator swiglu .*{message}.*training.reference_operators"):
            double(torch.ones(2))


def test_the_check_goes_unnoticed_by_what_surrounds_it(calls):
    x = torch.ones(2, requires_grad=True)
    checkpoint(doubled(calls), x, use_reentrant=False).sum().backward()
    assert torch.equal(x.grad, torch.full((2,), 2.0))
    with torch.inference_mode():
        assert torch.equal(doubled(calls)(torch.ones(2)), torch.full((2,), 2.0))
    state = torch.random.get_rng_state()
    registry.STANDARD.checked.clear()
    doubled(calls)(torch.ones(2))
    assert torch.equal(torch.random.get_rng_state(), state)
