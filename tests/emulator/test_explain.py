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


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("npu::npu_swiglu", "npu::npu_swiglu"),
        ("npu.npu_swiglu", "npu::npu_swiglu"),
        ("torch_npu.npu_swiglu", "npu::npu_swiglu"),
        ("torch.ops.npu.npu_swiglu", "npu::npu_swiglu"),
        ("torch.ops.aten.mm.out", "aten::mm.out"),
        ("mm.out", "aten::mm.out"),
        ("aten.softmax.int", "aten::softmax.int"),
        ("torch.softmax", "aten::softmax.int"),
    ],
)
def test_names_are_taken_as_c_and_python_write_them(written, meant):
    from longcat.emulator.explain import overloads

    assert meant in overloads(written)


@pytest.mark.parametrize("name", ["", "::", "torch_npu.", "npu::", "a b"])
def test_rubbish_is_no_operator(name):
    from longcat.emulator.explain import overloads

    with pytest.raises(LookupError, match="no operator"):
        overloads(name)


@pytest.mark.parametrize(
    ("name", "gradients"),
    [
        ("npu_swiglu", "npu_swiglu_backward"),  # not that of npu_swiglu_group_quant
        ("npu_moe_token_permute", "npu_moe_token_permute_grad, npu_moe_token_permute_grad_v2"),
        ("_npu_ciou", "npu_ciou_backward"),
        ("npu_silu_", "npu_silu_backward"),
        ("npu_fusion_attention_v2", "npu_fusion_attention_grad_v2"),
    ],
)
def test_the_gradient_is_that_of_the_operator_and_not_of_one_whose_name_goes_on(name, gradients):
    assert explanation(name).gradient == f"torch_npu's formula, computed by {gradients}"


def test_what_has_no_kernel_says_how_to_add_one():
    import torch

    from longcat.emulator import kernels
    from longcat.emulator.explain import explain

    missing = [name for name in torch._C._dispatch_get_all_op_names() if name.startswith("npu::")]
    missing = [name for name in missing if kernels.schema(name) is not None and not kernels.has_kernel(name)]
    for name in missing:
        assert "NotImplementedError" in explain(name).numbers and "@reference" in explain(name).numbers
    assert "The wheel documents it: help(torch_npu.npu_matmul_compress" in numbers_of(missing, "compress_dequant")
    assert "The wheel does not document it" in numbers_of(missing, "npu_sub_sample")


def numbers_of(names, word):
    from longcat.emulator.explain import explain

    return next(explain(name).numbers for name in names if word in name)


def test_an_unknown_operator_has_a_neighbour(capsys, monkeypatch):
    import sys

    from longcat.emulator.explain import main

    monkeypatch.setattr(sys, "argv", ["explain", "npu_rmsnorm"])
    assert main() == 2
    assert "no operator npu_rmsnorm" in (said := capsys.readouterr().err) and "did you mean 'npu_rms_norm'?" in said
