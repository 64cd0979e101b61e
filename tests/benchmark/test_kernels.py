"""Kernels: what is counted, and that all of them are measured."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from longcat.accelerator import choose
from longcat.benchmark.kernels import Kernel, even_load, measure_bandwidth, measure_kernels, skewed_load
from longcat.config import load_config
from longcat.ops.grouped_matmul import grouped_matmul

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def kernels():
    model = load_config("smoke").model
    found = measure_kernels(model, 128, 64, torch.float32, choose("cpu"), CPU, seconds_each=0.001)
    return {kernel.name: kernel for kernel in found}


def test_the_model_and_the_machine_are_both_there(kernels):
    names = list(kernels)
    assert names[0] == "GEMM 512"
    for name in ("query projection", "attention output", "dense feed-forward", "head", "attention, forward"):
        assert name in names
    assert all(kernel.seconds > 0 and kernel.intensity > 0 for kernel in kernels.values())
    # a larger square only where the one before was quick
    assert "GEMM 8192" not in names


def test_counts_are_torchs(kernels):
    model = load_config("smoke").model
    m, k, n = 128, model.hidden_size, model.vocabulary
    with FlopCounterMode(display=False) as counter:
        torch.randn(m, k) @ torch.randn(k, n)
    assert kernels["head"].flops == counter.get_total_flops()

    slots, experts = 128 * model.moe_topk, model.n_routed_experts
    weight = torch.randn(experts, 2 * model.expert_ffn_hidden_size, model.hidden_size)
    with FlopCounterMode(display=False) as counter:
        load = even_load(slots, experts)
        grouped_matmul.reference(torch.randn(slots, model.hidden_size), weight, torch.tensor(load), load)
    assert kernels["grouped GEMM, even"].flops == kernels["grouped GEMM, skewed"].flops == counter.get_total_flops()

    heads, head = model.num_attention_heads, model.qk_nope_head_dim + model.qk_rope_head_dim
    square = 2 * 2 * heads * 64 * 64 * (head + model.v_head_dim)  # two sequences of 64
    assert kernels["attention, forward"].flops == square / 2
    assert kernels["attention, both passes"].flops == 3 * square / 2


@given(st.integers(0, 10_000), st.integers(1, 600))
def test_loads_share_out_all_rows(slots, experts):
    for load in (even_load(slots, experts), skewed_load(slots, experts)):
        assert len(load) == experts
        assert sum(load) == slots
        assert min(load) >= 0
    assert max(even_load(slots, experts)) - min(even_load(slots, experts)) <= 1


def test_by_hand():
    kernel = Kernel("GEMM", "2 x 3 x 4", flops=48, bytes=4 * (6 + 12 + 8), seconds=2)
    assert kernel.flops_per_second == 24
    assert kernel.intensity == pytest.approx(48 / 104)


def test_a_copy_reads_and_writes():
    assert 1e8 < measure_bandwidth(choose("cpu"), CPU, 0.01) < 1e13
