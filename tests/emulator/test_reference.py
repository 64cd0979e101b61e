"""Registering references: a name has one, and where each lies is known."""

import pytest
import torch

from longcat.emulator import reference as module
from longcat.emulator.reference import check_types, kernel, reference


@pytest.fixture
def nothing_registered(monkeypatch):
    for table in ("REFERENCES", "DIFFERENTIABLE"):
        monkeypatch.setattr(module, table, {})
    monkeypatch.setattr(module, "FACTORIES", set())


@pytest.mark.parametrize("first", [{}, {"differentiable": True}])
@pytest.mark.parametrize("second", [{}, {"factory": True}])
def test_a_second_reference_of_a_name_is_refused(nothing_registered, first, second):
    reference("npu_one", "npu_two", **first)(abs)
    with pytest.raises(ValueError, match="npu_two has two references"):
        reference("npu_two", **second)(len)
    reference("npu_two.out")(len)


def test_what_a_reference_is_registered_as(nothing_registered):
    reference("npu_one")(abs)
    reference("npu_two", factory=True)(len)
    assert ({"npu_one": abs}, {"npu_two": len}) == (module.REFERENCES, module.DIFFERENTIABLE)
    assert {"npu_two"} == module.FACTORIES


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (RuntimeError("sizes differ"), "npu_one: sizes differ"),
        (IndexError("index 9 is out of range"), "npu_one: index 9 is out of range"),
        (NotImplementedError("npu_other: not so"), "npu_other: not so"),
    ],
)
def test_errors_name_the_operator(error, said):
    def fails(x):
        raise error

    with pytest.raises(type(error)) as caught:
        kernel("npu_one", fails)(1)
    assert str(caught.value) == said


def test_types_are_refused_by_name():
    whole, half = torch.zeros(1, dtype=torch.int32), torch.zeros(1, dtype=torch.float16)
    check_types("npu_one", (torch.float16, torch.float32), x=half, y=None)
    with pytest.raises(RuntimeError, match="npu_one: y must be float16 or float32, got torch.int32"):
        check_types("npu_one", (torch.float16, torch.float32), x=half, y=whole)
