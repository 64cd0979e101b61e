"""Steps of operators compute the same where a compiler makes one kernel of each."""

import pytest
import torch

from longcat.ops.fusion import fuse_from_now_on, fusible, fusing, is_fusing
from longcat.ops.operators import OPERATORS
from longcat.ops.permute import inverse
from longcat.padding import IGNORE

ROUTED, ZERO = 5, 3


def on_cuda(name):
    """The implementation for CUDA, whose torch functions a CPU has too."""
    return OPERATORS[name].implementations["cuda"].function


def routed(tokens, seed=0):
    """Tokens that choose two of the experts each, and the rows of the routed ones."""
    generator = torch.Generator().manual_seed(seed)
    experts = torch.stack([torch.randperm(ROUTED + ZERO, generator=generator)[:2] for _ in range(tokens)])
    return experts, int((experts < ROUTED).sum())


def mixed(permute, combine, tokens, experts, rows, weights, rest):
    permuted, places = permute(tokens, experts, rows)
    return combine(torch.tanh(permuted), places, weights, rest)


def there_and_back(tokens, seed):
    """Values and gradients of the way to the experts and back, of both implementations."""
    experts, rows = routed(tokens, seed)
    torch.manual_seed(seed)
    leaves = [torch.randn(shape, requires_grad=True) for shape in ((tokens, 16), (tokens, 2), (tokens, 16))]
    upstream = torch.randn(tokens, 16)
    found = []
    for permute, combine in [
        (on_cuda("permute"), on_cuda("combine")),
        (OPERATORS["permute"].reference, OPERATORS["combine"].reference),
    ]:
        out = mixed(permute, combine, leaves[0], experts, rows, *leaves[1:])
        found.append((out, *torch.autograd.grad(out, leaves, upstream)))
    return zip(*found, strict=True)


def losses(tokens, seed):
    """Values and gradients of the loss of both implementations."""
    generator = torch.Generator().manual_seed(seed)
    hidden, weight = (torch.randn(n, 16, generator=generator, requires_grad=True) for n in (tokens, 40))
    targets = torch.randint(0, 40, (tokens,), generator=generator)
    targets[1] = IGNORE
    found = []
    for function in (on_cuda("linear_cross_entropy"), OPERATORS["linear_cross_entropy"].reference):
        loss = function(hidden, weight, targets)
        found.append((loss, *torch.autograd.grad(loss, (hidden, weight))))
    return zip(*found, strict=True)


def activations(rows, seed):
    """Values and gradients of SwiGLU of both implementations."""
    x = torch.randn(rows, 32, generator=torch.Generator().manual_seed(seed), requires_grad=True)
    found = []
    for function in (on_cuda("swiglu"), OPERATORS["swiglu"].reference):
        out = function(x)
        found.append((out, *torch.autograd.grad(out, x, torch.ones_like(out))))
    return zip(*found, strict=True)


@pytest.mark.parametrize("compare", [there_and_back, losses, activations])
def test_fused_steps_are_the_plain_ones_whatever_the_number_of_rows(compare):
    with fusing(True):
        for number, tokens in enumerate((20, 13, 31)):
            for ours, right in compare(tokens, number):
                torch.testing.assert_close(ours, right, atol=1e-5, rtol=1e-5)


def test_plain_steps_are_taken_unless_somebody_asks(monkeypatch):
    """And until then nothing loads the compiler."""
    compiled = []

    def compile_(step):
        compiled.append("loaded")
        return lambda *args: compiled.append(args) or step(*args)

    monkeypatch.setattr(torch, "compile", compile_)
    monkeypatch.setattr("longcat.ops.fusion._FUSES", [False])
    double = fusible(lambda x: 2 * x)
    assert (double(2), compiled) == (4, [])
    fuse_from_now_on()
    assert (double(3), compiled) == (6, ["loaded", (3,)])
    with fusing(False):
        assert not is_fusing()
        assert (double(4), compiled) == (8, ["loaded", (3,)])
    assert is_fusing()
    assert (double(5), compiled) == (10, ["loaded", (3,), (5,)])


@pytest.mark.parametrize("bad", [float("inf"), float("nan")])
def test_what_is_not_finite_stays_with_the_tokens_of_its_expert(bad):
    """A slot of a zero-computation expert has no row, and reads none."""
    experts = torch.tensor([[0, 5], [1, 6], [4, 7], [7, 7]])
    tokens = torch.randn(4, 8, requires_grad=True)
    permuted, places = on_cuda("permute")(tokens, experts, 3)
    outputs = permuted.detach().clone()
    outputs[2] = bad  # of token 2, and the last row
    outputs.requires_grad_()
    weights, rest = torch.rand(4, 2, requires_grad=True), torch.randn(4, 8)
    out = on_cuda("combine")(outputs, places, weights, rest)
    assert out.isfinite().all(-1).tolist() == [True, True, False, True]
    d_weights, d_outputs = torch.autograd.grad(out, (weights, outputs), torch.ones_like(out))
    assert d_outputs.isfinite().all()
    assert d_weights.isfinite().tolist() == [[True, True], [True, True], [False, True], [True, True]]
    upstream = torch.zeros_like(permuted)
    upstream[2] = bad
    (d_tokens,) = torch.autograd.grad(permuted, tokens, upstream)
    assert d_tokens.isfinite().all(-1).tolist() == [True, True, False, True]


def test_where_no_token_is_routed_nothing_is_added():
    experts = torch.full((3, 2), ROUTED)
    tokens, rest = (torch.randn(3, 8, requires_grad=True) for _ in range(2))
    permuted, places = on_cuda("permute")(tokens, experts, 0)
    out = on_cuda("combine")(permuted, places, torch.rand(3, 2), rest)
    assert torch.equal(out, rest)
    assert torch.equal(places, inverse(experts.flatten().argsort(stable=True)))
    assert torch.equal(torch.autograd.grad(out.sum(), tokens)[0], torch.zeros(3, 8))
