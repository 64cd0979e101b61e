"""Every result has the shape, the type and the None-ness that the wheel's meta kernel gives it."""

import pytest
import torch
from torch.utils._pytree import tree_map

from tests.emulator.samples import SAMPLES, WITHOUT

pytestmark = [pytest.mark.emulator, pytest.mark.usefixtures("npu")]


def described(result):
    """Shapes, types and None, in the order of the results; of a number its type."""
    results = result if isinstance(result, (tuple, list)) else [result]
    return [(list(part.shape), part.dtype) if isinstance(part, torch.Tensor) else type(part) for part in results]


def references():
    from longcat.emulator.reference import DIFFERENTIABLE, REFERENCES

    return REFERENCES | DIFFERENTIABLE


@pytest.mark.parametrize("name", sorted(SAMPLES))
def test_results_agree_with_the_meta_kernel(name):
    from longcat.emulator.reference import operator_of, without_data

    assert name in references()
    operator = operator_of(name)
    for arguments, options in SAMPLES[name]:
        on_meta, on_device = (
            tree_map(change, (arguments, options)) for change in (without_data, lambda value: moved(value))
        )
        expected = described(operator(*on_meta[0], **on_meta[1]))
        found = described(operator(*on_device[0], **on_device[1]))
        assert found == expected, (described(arguments), options.keys())


def moved(value):
    return value.to("npu") if isinstance(value, torch.Tensor) else value


def test_every_operator_with_a_meta_kernel_has_a_sample():
    from longcat.emulator.reference import operator_of

    missing = []
    for name in references():
        try:
            operator = operator_of(name)
        except AttributeError:
            continue  # an operator of aten, or of another version
        if torch._C._dispatch_has_kernel_for_dispatch_key(operator.name(), "Meta"):
            missing += [name] if name not in SAMPLES and name not in WITHOUT else []
    assert not missing, f"add samples of these operators to samples.py, or a reason: {', '.join(sorted(missing))}"
