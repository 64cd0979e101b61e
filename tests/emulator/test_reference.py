"""Registering references: a name has one, and where each lies is known."""

import pytest

from longcat.emulator import reference as module
from longcat.emulator.reference import reference


@pytest.fixture
def nothing_registered(monkeypatch):
    for table in ("REFERENCES", "DIFFERENTIABLE"):
        monkeypatch.setattr(module, table, {})
    for names in ("MIXED", "FACTORIES"):
        monkeypatch.setattr(module, names, set())


@pytest.mark.parametrize("first", [{}, {"differentiable": True}])
@pytest.mark.parametrize("second", [{}, {"factory": True}])
def test_a_second_reference_of_a_name_is_refused(nothing_registered, first, second):
    reference("npu_one", "npu_two", **first)(abs)
    with pytest.raises(ValueError, match="npu_two has two references"):
        reference("npu_two", **second)(len)
    reference("npu_two.out")(len)


def test_what_a_reference_is_registered_as(nothing_registered):
    reference("npu_one", mixed=True)(abs)
    reference("npu_two", factory=True)(len)
    assert ({"npu_one": abs}, {"npu_two": len}) == (module.REFERENCES, module.DIFFERENTIABLE)
    assert ({"npu_one"}, {"npu_two"}) == (module.MIXED, module.FACTORIES)
