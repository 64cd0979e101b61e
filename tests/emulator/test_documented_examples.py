"""The examples in torch_npu's documentation, as the wheel carries them, with the results that its words or numbers give."""

import importlib.util
import re
import unittest
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

pytestmark = pytest.mark.emulator


def documentation(name):
    folder = Path(importlib.util.find_spec("torch_npu").origin).parent
    text = (folder / "_op_plugin_docs.py").read_text(encoding="utf-8")
    return re.search(rf'_add_torch_npu_docstr\(\s*"{name}",\s*r?"""(.*?)"""', text, re.DOTALL)[1]


def example(name):
    """The first example's source: without the words around it, printed results and the graph mode's part."""
    text = re.split(r"示例.*\n", documentation(name), maxsplit=1)[1].partition("图模式")[0]
    typed = re.findall(r"^ *>>> (.*)$", documentation(name).partition("示例2")[0], re.MULTILINE)
    if typed:
        return "\n".join(typed)
    lines = []
    for line in text.splitlines():
        if line.startswith(("tensor(", "print(")):
            break
        if not re.search(r"[\u200b\u4e00-\u9fff\uff0c-\uff1a]", line):
            lines.append(line)
    return "\n".join(lines)


def run(name):
    """What the example's variables are in the end."""
    torch.manual_seed(0)
    variables = {"torch": torch, "torch_npu": __import__("torch_npu"), "__name__": "example"}
    exec(compile(example(name), name, "exec"), variables)
    return {key: value.cpu() if isinstance(value, torch.Tensor) else value for key, value in variables.items()}


def test_rms_norm():
    found = run("npu_rms_norm")
    expected = F.rms_norm(found["x"], (128,), found["w"], 1e-5)
    torch.testing.assert_close(found["out1"], expected)


def test_swiglu():
    found = run("npu_swiglu")
    gate, up = found["input_tensor"].chunk(2, -1)
    torch.testing.assert_close(found["output"], F.silu(gate) * up)


def rotated_halves(x):
    first, second = x.chunk(2, -1)
    return torch.cat([-second, first], -1)


def test_rotary_mul():
    """The other two examples hand over a matrix that was left on the CPU, which this device refuses."""
    found = run("npu_rotary_mul")
    x, cos, sin = found["x"], found["r1"], found["r2"]
    assert cos.shape == (1, 2, 1, 128)
    torch.testing.assert_close(found["out"], x * cos + rotated_halves(x) * sin)


def test_grouped_matmul():
    found = run("npu_grouped_matmul")
    assert [tuple(out.shape) for out in found["npu_out"]] == [(256, 256), (1024, 1024), (512, 128)]
    for out, x, weight, bias in zip(found["npu_out"], found["x"], found["weight"], found["bias"], strict=True):
        expected = x.cpu().float() @ weight.cpu().float() + bias.cpu().float()
        torch.testing.assert_close(out.cpu().float(), expected, atol=0.1, rtol=1e-2)


def test_gating_top_k():
    found = run("npu_moe_gating_top_k")
    scores = found["x_tensor"].float().sigmoid()
    wanted = scores + found["bias_tensor"].float()
    groups = wanted.view(16, 8, 32).topk(2, -1).values.sum(-1).topk(4, -1).indices  # the best groups by their best two
    allowed = torch.zeros(16, 8, dtype=torch.bool).scatter_(1, groups, True).repeat_interleave(32, 1)
    best = wanted.masked_fill(~allowed, -torch.inf).argmax(-1, keepdim=True)
    assert torch.equal(found["expert_idx_npu"].long(), best)
    torch.testing.assert_close(found["y_npu"].float(), torch.ones(16, 1), atol=1e-2, rtol=0)  # one expert, normalised


def test_permute():
    found = run("npu_moe_token_permute")
    order = found["indices"].flatten().argsort(stable=True)
    assert torch.equal(found["permuted_tokens"], found["tokens"][order // 2])
    assert torch.equal(found["sorted_indices"].long(), order.argsort())


def test_unpermute():
    """What was permuted above comes back: its tokens were 1, 2, 3 and 0."""
    found = run("npu_moe_token_unpermute")
    rows = found["permuted_tokens"][found["sorted_indices"].long()].view(4, 2, 3)
    assert torch.equal(found["unpermuted_tokens"], rows.mean(1))


def test_fusion_attention():
    """The example is a test of its own, against an attention of plain torch."""
    torch.manual_seed(0)
    variables = {"__name__": "example"}
    exec(compile(example("npu_fusion_attention"), "npu_fusion_attention", "exec"), variables)
    case = variables["TestNPUFlashAttention"]
    result = unittest.TestResult()
    unittest.defaultTestLoader.loadTestsFromTestCase(case).run(result)
    assert result.testsRun >= 1
    assert not result.errors + result.failures, (result.errors + result.failures)[0][1]
    assert not result.skipped, result.skipped
