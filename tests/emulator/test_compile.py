"""torch.compile for the device: torchair makes its graphs, whose operators the emulator executes."""

import pytest
import torch

from longcat.accelerator import compiler
from longcat.config import load_config
from longcat.model import LongcatModel
from tests.model.compilation import ROUTING, compare_compiled

pytestmark = pytest.mark.emulator


@pytest.mark.parametrize("preset", ["smoke", "tiny-2.0"])
def test_our_model_is_converted_in_full_but_for_routing_and_fused_attention(preset):
    model = LongcatModel(load_config(preset).model)
    model.initialize(0)
    assert compare_compiled(model.to("npu"), compiler("npu")) <= ROUTING | {"_npu_attention"}


@pytest.mark.parametrize("mode", ["max-autotune", "reduce-overhead"])
def test_numbers_are_those_without_compilation(mode):
    import torchair

    config = torchair.CompilerConfig()
    config.mode = mode
    torch.manual_seed(0)
    layers = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.GELU(), torch.nn.LayerNorm(16)).npu()
    x = torch.randn(3, 8, device="npu")
    plain = layers(x)
    plain.sum().backward()
    gradient = layers[0].weight.grad.clone()
    layers.zero_grad()
    compiled = torch.compile(layers, backend=torchair.get_npu_backend(compiler_config=config))(x)
    compiled.sum().backward()
    torch.testing.assert_close(compiled, plain)
    torch.testing.assert_close(layers[0].weight.grad, gradient)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_attention_has_no_operator_of_the_cpu_in_its_graph(dtype):
    def attention(q):
        return torch.nn.functional.scaled_dot_product_attention(q, q, q, is_causal=True)

    torch.manual_seed(0)
    x = torch.randn(1, 2, 16, 64, dtype=dtype, device="npu", requires_grad=True)
    results = []
    for function in (attention, torch.compile(attention, backend="npu")):
        value = function(x)
        results.append((value, *torch.autograd.grad(value.float().sin().sum(), x)))
    for plain, compiled in zip(*results, strict=True):
        torch.testing.assert_close(compiled, plain, atol=1e-5 if dtype == torch.float32 else 5e-3, rtol=1e-3)


def test_the_backend_by_its_name():
    x = torch.arange(4.0, device="npu")
    assert torch.equal(torch.compile(lambda x: x * 2 + 1, backend="npu")(x).cpu(), torch.tensor([1.0, 3.0, 5.0, 7.0]))


def test_an_operator_that_torchair_cannot_convert_is_refused_as_on_a_device():
    x = torch.ones(4, device="npu", requires_grad=True)
    compiled = torch.compile(torch.nn.functional.silu, backend="npu")
    with pytest.raises(Exception, match="silu_backward.default ge_converter is not implemented"):
        compiled(x).sum().backward()
