"""Comparing an operator on the emulated device with plain torch on the CPU."""

import torch
from torch.utils._pytree import tree_map

DEVICE = "npu:0"


def move(value):
    """A value with its tensors on the device."""
    return tree_map(lambda part: part.to(DEVICE) if isinstance(part, torch.Tensor) else part, value)


def halves(*shape):
    """Random float32 numbers that float16 has as well."""
    return torch.randn(shape).half().float()


def assert_near(found, expected):
    """Compare a result in float16 with what float32 gives."""
    torch.testing.assert_close(found.cpu().float(), expected, atol=3e-3, rtol=3e-3)


def run(operator, *arguments, **options):
    """Call an operator with tensors moved to the device; the results come back."""
    result = getattr(torch.ops.npu, operator)(*map(move, arguments), **move(options))
    parts = result if isinstance(result, (tuple, list)) else [result]
    back = [part.cpu() if isinstance(part, torch.Tensor) else part for part in parts]
    return back if len(back) > 1 else back[0]


def assert_same(ours, plain, *inputs, tolerance=1e-5):
    """Value and gradients of `ours` on the device and of `plain` on the CPU; the first result counts."""
    results = []
    for function, place in ((plain, lambda t: t), (ours, move)):
        leaves = [place(x.detach().clone()).requires_grad_(x.is_floating_point()) for x in inputs]
        value = function(*leaves)
        value = value[0] if isinstance(value, (tuple, list)) else value
        value.float().sin().sum().backward()
        results.append([value, *(leaf.grad for leaf in leaves if leaf.requires_grad)])
    for expected, found in zip(*results, strict=True):
        assert found.device.type == "npu"
        assert found.dtype == expected.dtype
        torch.testing.assert_close(found.cpu(), expected, atol=tolerance, rtol=tolerance)
