"""What the record changes in a program leaves its numbers right."""

import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils.checkpoint import checkpoint

from longcat.port.witness.recorder import Dropout, with_modes


class Halved(TorchFunctionMode):
    """Has every sine halved."""

    def __torch_function__(self, function, kinds, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        return result * 0.5 if function is torch.sin else result


@pytest.mark.parametrize("reentrant", [False, True])
def test_what_is_recomputed_is_computed_in_the_same_modes(reentrant):
    x = torch.linspace(-1, 1, 8).requires_grad_()
    with Dropout(), Halved():
        y = with_modes(checkpoint)(lambda x: torch.exp(torch.sin(x)), x, use_reentrant=reentrant)
        y.sum().backward()
    assert torch.equal(y, torch.exp(torch.sin(x) * 0.5))
    torch.testing.assert_close(x.grad, y * torch.cos(x) * 0.5)


@pytest.mark.parametrize("reentrant", [False, True])
def test_recomputed_dropout_drops_the_same_again(reentrant):
    x = torch.ones(4, 64, requires_grad=True)
    with Dropout():
        y = with_modes(checkpoint)(lambda x: torch.nn.functional.dropout(x, 0.5).exp(), x, use_reentrant=reentrant)
        y.backward(torch.ones_like(y))
    kept = y > 1
    assert 0 < kept.sum() < y.numel()
    torch.testing.assert_close(x.grad, torch.where(kept, 2 * y, 0.0))
