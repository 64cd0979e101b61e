"""`longcat emulate --explain`: what it says agrees with what runs."""

import pytest

pytestmark = pytest.mark.emulator


def explanation(name):
    from longcat.emulator.explain import explain, overloads

    return explain(overloads(name)[0])


def test_a_reference_is_named_with_file_and_gradient():
    found = explanation("npu_rms_norm")
    assert found.name == "npu::npu_rms_norm" and "Tensor gamma" in found.schema
    assert "longcat/emulator/operators/norm.py:" in found.numbers
    assert "npu_rms_norm_backward" in found.gradient
    assert "tests/emulator/test_operators.py" in found.checked


@pytest.mark.parametrize(
    "name, numbers, gradient",
    [
        ("mul.Tensor", "the CPU's kernel", "torch's formula"),
        ("npu_grouped_matmul", "ours", "none, as on a device"),
        ("npu_format_cast", "torch_npu's own code", "none, as on a device"),
        ("empty_with_format", "torch_npu's own code", "torch's, of what it is composed of"),
        ("aten::view", "a view", "torch's formula"),
        ("atb::_npu_paged_attention", "ours", "none, as on a device"),
    ],
)
def test_where_numbers_and_gradients_come_from(name, numbers, gradient):
    found = explanation(name)
    assert numbers in found.numbers and gradient in found.gradient


def test_what_has_no_kernel_says_how_to_add_one():
    import torch

    from longcat.emulator import kernels
    from longcat.emulator.explain import explain

    missing = [name for name in torch._C._dispatch_get_all_op_names() if name.startswith("npu::")]
    missing = [name for name in missing if kernels.schema(name) is not None and not kernels.has_kernel(name)]
    for name in missing:
        assert "NotImplementedError" in explain(name).numbers and "@reference" in explain(name).numbers
    assert "The wheel documents it: help(torch.ops.npu.npu_matmul_compress_dequant)" in numbers_of(
        missing, "compress_dequant"
    )
    assert "The wheel has no documentation of it" in numbers_of(missing, "npu_sub_sample")
    with pytest.raises(NotImplementedError, match="longcat emulate --explain npu::npu_sub_sample says how to add one"):
        torch.ops.npu.npu_sub_sample(torch.ones(3, device="npu"), 2, 0.5)


def numbers_of(names, word):
    from longcat.emulator.explain import explain

    return next(explain(name).numbers for name in names if word in name)


def test_an_unknown_operator_has_a_neighbour(capsys, monkeypatch):
    import sys

    from longcat.emulator.explain import main

    monkeypatch.setattr(sys, "argv", ["explain", "npu_rmsnorm"])
    assert main() == 2
    assert "no operator npu_rmsnorm" in (said := capsys.readouterr().err) and "did you mean 'npu_rms_norm'?" in said
