"""Orthogonalisation by its law, and Muon by a plain matrix-by-matrix one."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from longcat.training.muon import Muon, orthogonalise


@given(rows=st.integers(2, 40), columns=st.integers(2, 40), scale=st.sampled_from([1e-6, 1.0, 1e4]))
@settings(max_examples=25, deadline=None)
def test_singular_values_come_near_one_and_directions_stay(rows, columns, scale):
    torch.manual_seed(rows * 41 + columns)
    left, _ = torch.linalg.qr(torch.randn(rows, min(rows, columns)))
    right, _ = torch.linalg.qr(torch.randn(columns, min(rows, columns)))
    singular = torch.linspace(0.3, 1, min(rows, columns))
    out = orthogonalise(scale * (left * singular) @ right.T).float()
    values = torch.linalg.svdvals(out)
    assert values.min() > 0.5
    assert values.max() < 1.4
    assert (left.T @ out @ right).diagonal().min() > 0.4


def test_zeros_stay_zeros():
    assert torch.equal(orthogonalise(torch.zeros(3, 4, 5)), torch.zeros(3, 4, 5, dtype=torch.bfloat16))


def test_steps_are_of_the_type_asked_for():
    """On a CPU without bf16 in hardware its products cost several times the rest of a training step."""
    torch.manual_seed(0)
    matrices = torch.randn(3, 16, 24)
    narrow, wide = (orthogonalise(matrices, dtype) for dtype in (torch.bfloat16, torch.float32))
    assert (narrow.dtype, wide.dtype) == (torch.bfloat16, torch.float32)
    torch.testing.assert_close(narrow.float(), wide, atol=0.05, rtol=0.05)
    weights = {dtype: torch.nn.Parameter(matrices[0].clone()) for dtype in (torch.bfloat16, torch.float32)}
    for dtype, parameter in weights.items():
        parameter.grad = matrices[1].clone()
        Muon([parameter], lr=0.1, momentum=0.9, weight_decay=0.0, dtype=dtype).step()
    moved = {dtype: matrices[0] - parameter.detach() for dtype, parameter in weights.items()}
    assert not torch.equal(moved[torch.bfloat16], moved[torch.float32])
    torch.testing.assert_close(moved[torch.bfloat16], moved[torch.float32], atol=0.01, rtol=0.05)


def test_stacked_experts_move_like_single_matrices():
    torch.manual_seed(0)
    stack = torch.nn.Parameter(torch.randn(3, 6, 4))
    singles = [torch.nn.Parameter(stack.data[i].clone()) for i in range(3)]
    batched = Muon([stack], lr=0.1, momentum=0.9, weight_decay=0.1)
    plain = Muon(singles, lr=0.1, momentum=0.9, weight_decay=0.1)
    for _ in range(3):
        stack.grad = torch.randn(3, 6, 4)
        for i, single in enumerate(singles):
            single.grad = stack.grad[i].clone()
        batched.step()
        plain.step()
    torch.testing.assert_close(stack.data, torch.stack([s.data for s in singles]), atol=2e-2, rtol=2e-2)
