"""Attention in float32 with everything that operators put in: values and gradients against torch's in float64."""

import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from longcat.emulator.operators.softmax import Masked, attend, attend_backward

pytestmark = pytest.mark.emulator
FEW_PRODUCTS = {"ONEDNN_MAX_CPU_ISA": "SSE41"}
"""Lets torch's library for small products believe in a CPU that has none of them."""


def plain(query, key, value, masked, bias, sink):
    """Attention as its formula says; a row that sees nothing gives 0."""
    key, value = (tensor.repeat_interleave(query.shape[1] // tensor.shape[1], 1) for tensor in (key, value))
    scores = query @ key.mT * masked.scale
    if bias is not None:
        scores = scores + bias * (masked.scale if masked.bias_before_scale else 1)
    if masked.hidden is not None:
        scores = scores.masked_fill(masked.hidden, -torch.inf)
    if sink is not None:
        scores = torch.cat((scores, sink.view(-1, 1, 1).expand(*scores.shape[:3], 1)), -1)
    probabilities = scores.softmax(-1).nan_to_num(0)[..., : key.shape[2]]
    if masked.keep is not None:
        probabilities = probabilities * masked.keep / masked.keep_prob
    return probabilities @ value, scores


def broadcast(draw, sizes):
    """Draw sizes that are broadcast to these."""
    kept = [size if draw(st.booleans()) else 1 for size in sizes]
    return kept[draw(st.integers(0, 2)) :]


@st.composite
def attentions(draw):
    torch.manual_seed(draw(st.integers(0, 1000)))
    batch, key_heads, shared = (draw(st.integers(1, 2)) for _ in range(3))
    queries, keys = (draw(st.sampled_from((1, 2, 31, 32, 33, 64, 65, 130))) for _ in range(2))
    size, width = (draw(st.sampled_from((1, 8, 24))) for _ in range(2))
    heads = key_heads * shared
    scores = (batch, heads, queries, keys)
    inputs = [
        torch.randn(batch, queries, heads, size).transpose(1, 2),
        torch.randn(batch, key_heads, keys, size),
        torch.randn(batch, key_heads, keys, width),
    ]
    masked = Masked(draw(st.sampled_from((1.0, 0.3))), bias_before_scale=draw(st.booleans()))
    if draw(st.booleans()):
        causal = torch.arange(keys) - torch.arange(queries)[:, None] > draw(st.integers(-40, 40))
        masked.hidden = causal if draw(st.booleans()) else torch.rand(broadcast(draw, scores)) < 0.5
    masked.bias = torch.randn(broadcast(draw, scores)) if draw(st.booleans()) else None
    masked.sink = torch.randn(heads) if draw(st.booleans()) else None
    if draw(st.booleans()):
        masked.keep, masked.keep_prob = torch.rand(scores) < 0.8, 0.8
    return inputs, masked


@settings(max_examples=150)
@given(attentions())
def test_values_and_gradients(drawn):
    inputs, masked = drawn
    leaves = [tensor.double().requires_grad_() for tensor in inputs]
    bias, sink = (None if t is None else t.double().requires_grad_() for t in (masked.bias, masked.sink))
    expected, scores = plain(*leaves, masked, bias, sink)
    found = attend(*inputs, masked)
    torch.testing.assert_close(found.result.double(), expected, rtol=1e-5, atol=1e-5)
    highest = scores.amax(-1, keepdim=True)
    seen = highest > -math.inf
    torch.testing.assert_close(found.maximum.double(), highest.where(seen, 0), rtol=1e-5, atol=1e-5)
    total = (scores - highest.where(seen, 0)).exp().sum(-1, keepdim=True)
    torch.testing.assert_close(found.total.double(), total, rtol=1e-5, atol=1e-5)

    d_result = torch.randn(expected.shape)
    expected.backward(d_result.double())
    for known in ((), (found.result,), (found.result, (found.maximum, found.total))):
        gradients = attend_backward(*inputs, masked, d_result, *known)
        for gradient, leaf in zip((gradients.query, gradients.key, gradients.value), leaves, strict=True):
            torch.testing.assert_close(gradient.double(), leaf.grad, rtol=1e-4, atol=1e-4)
        for gradient, leaf in ((gradients.bias, bias), (gradients.sink, sink)):
            assert (gradient is None) == (leaf is None)
            if leaf is not None:
                whole = gradient.double().sum_to_size(leaf.shape)
                torch.testing.assert_close(whole, leaf.grad, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("empty", [(0, 5), (5, 0)])
def test_without_queries_or_keys(empty):
    query, key, value = (torch.randn(1, 2, tokens, 4) for tokens in (empty[0], empty[1], empty[1]))
    found = attend(query, key, value, Masked())
    assert torch.equal(found.result, torch.zeros_like(query))
    gradients = attend_backward(query, key, value, Masked(), torch.ones_like(query))
    assert torch.equal(gradients.query, torch.zeros_like(query))
    assert torch.equal(gradients.value, torch.zeros_like(value))


def test_probabilities_are_rounded_to_the_type_of_the_values():
    query, key = (torch.randn(1, 1, 40, 8) for _ in range(2))
    probabilities = (query @ key.mT).softmax(-1)
    value = torch.eye(40, dtype=torch.bfloat16)[None, None]
    found = attend(query, key, value, Masked(rounded=True)).result
    assert torch.equal(found, found.bfloat16().float())
    torch.testing.assert_close(found, probabilities, rtol=2**-8, atol=0)


def test_on_a_cpu_without_small_products():
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        __file__,
        "-k",
        "values or without_queries",
        "-p",
        "no:cacheprovider",
    ]
    run = subprocess.run(
        command, env={**os.environ, **FEW_PRODUCTS}, capture_output=True, text=True, timeout=300, check=False,
        cwd=Path(__file__).resolve().parents[2],
    )  # fmt: skip
    assert run.returncode == 0, run.stdout[-2000:]
