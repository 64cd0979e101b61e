"""Speed of the operators that dominate training, at the model's own shapes, for the roofline.

Roofline of Williams et al. 2009 (doi 10.1145/1498765.1498785): the attainable FLOP/s are the smaller of the peak and
the intensity (FLOP per byte) times the memory bandwidth.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from longcat.accelerator import Accelerator
from longcat.config import ModelConfig
from longcat.costs.flops import attention_scores, keys_read
from longcat.ops.attention import causal_attention
from longcat.ops.grouped_matmul import grouped_matmul

SQUARES = (512, 1024, 2048, 4096, 8192)
"""Sizes of the square matrix products."""
_MAX_MEMORY_FRACTION = 0.125
"""Fraction of the device's memory that the operands of one product may take."""
_COPIED_BYTES = 2**28
_MIN_REPEATS = 3


@dataclass(frozen=True)
class Kernel:
    """Measured speed of one operator at one shape."""

    name: str
    shape: str
    flops: float
    """FLOP of one call; attention counts the causal half of the scores only."""
    bytes: float
    """Least memory traffic of one call: operands read once, results written once."""
    seconds: float
    """Median time of one call."""
    product: tuple[int, int, int] | None = None
    """m, k and n of a product of [m, k] and [k, n]; None for operators that are more than one product."""

    @property
    def flops_per_second(self) -> float:
        """Return the achieved FLOP/s."""
        return self.flops / self.seconds

    @property
    def intensity(self) -> float:
        """Return the FLOP per byte of least memory traffic."""
        return self.flops / self.bytes


def measure_kernels(
    model: ModelConfig,
    tokens: int,
    sequence_length: int,
    compute: torch.dtype,
    accelerator: Accelerator,
    device: torch.device,
    *,
    seconds_each: float,
) -> list[Kernel]:
    """Measure square products, the model's products, its grouped expert products, and attention forward and backward.

    Args:
        model: model whose shapes are measured.
        tokens: rows of the products.
        sequence_length: tokens that attention sees.
        compute: type of the operands.
        accelerator: accelerator that is measured.
        device: device that is measured.
        seconds_each: time for the repeats of each operator.
    """

    def randn(*shape: int) -> Tensor:
        return torch.randn(shape, device=device).to(compute)

    def timed(call: Callable[[], object]) -> float:
        return _median_seconds(call, accelerator, seconds_each)

    width = torch.empty((), dtype=compute).element_size()
    hidden, expert = model.hidden_size, model.expert_ffn_hidden_size
    head = model.qk_nope_head_dim + model.qk_rope_head_dim
    measured: list[Kernel] = []

    def product(name: str, m: int, k: int, n: int) -> None:
        moved = width * (m * k + k * n + m * n)
        if moved <= _MAX_MEMORY_FRACTION * accelerator.memory_bytes:
            seconds = timed(partial(torch.matmul, randn(m, k), randn(k, n)))
            measured.append(Kernel(name, f"{m} x {k} x {n}", 2.0 * m * k * n, moved, seconds, (m, k, n)))

    for size in SQUARES:
        product(f"GEMM {size}", size, size, size)
        if measured[-1].seconds > seconds_each / 10:  # the next one takes eight times as long
            break
    product("query projection", tokens, model.q_lora_rank, model.num_attention_heads * head)
    product("attention output", tokens, model.num_attention_heads * model.v_head_dim, hidden)
    product("dense feed-forward", tokens, hidden, model.ffn_hidden_size)
    product("head", tokens, hidden, model.vocabulary)

    experts = model.n_routed_experts
    slots = tokens * model.moe_topk
    weight = randn(experts, 2 * expert, hidden)
    rows = randn(slots, hidden)
    for name, counts in (("even", even_load(slots, experts)), ("skewed", skewed_load(slots, experts))):
        load = torch.tensor(counts, device=device)
        moved = width * (slots * hidden + sum(map(bool, counts)) * 2 * expert * hidden + slots * 2 * expert)
        seconds = timed(partial(grouped_matmul, rows, weight, load, counts))
        measured.append(
            Kernel(
                f"grouped GEMM, {name}", f"{slots} rows, {experts} experts, {hidden} x {2 * expert}",
                4.0 * slots * hidden * expert, moved, seconds,
            )
        )  # fmt: skip

    heads, batch = model.num_attention_heads, max(1, tokens // sequence_length)
    query, key = randn(batch, heads, sequence_length, head), randn(batch, heads, sequence_length, head)
    value = randn(batch, heads, sequence_length, model.v_head_dim)
    scores = attention_scores(heads, head, model.v_head_dim, keys_read(sequence_length, "causal"))
    all_tokens = batch * sequence_length
    moved = width * all_tokens * heads * 2 * (head + model.v_head_dim)
    shape = f"{batch} x {heads} heads x {sequence_length} tokens"
    seconds = timed(lambda: causal_attention(query, key, value))
    measured.append(Kernel("attention, forward", shape, all_tokens * scores.forward, moved, seconds))
    inputs = [query.requires_grad_(), key.requires_grad_(), value.requires_grad_()]
    upstream = randn(batch, heads, sequence_length, model.v_head_dim)

    def both() -> object:
        return torch.autograd.grad(causal_attention(query, key, value), inputs, upstream)

    measured.append(Kernel("attention, both passes", shape, all_tokens * scores.training, 3 * moved, timed(both)))
    return measured


def measure_bandwidth(accelerator: Accelerator, device: torch.device, seconds: float) -> float:
    """Measure the memory bandwidth in bytes/s: the bytes that a copy reads and writes, over its time."""
    source = torch.empty(_COPIED_BYTES, dtype=torch.uint8, device=device).fill_(1)
    target = torch.empty_like(source)
    return 2 * _COPIED_BYTES / _median_seconds(lambda: target.copy_(source), accelerator, seconds)


def even_load(slots: int, experts: int) -> list[int]:
    """Return the rows of each expert under an even load; counts differ by at most one."""
    return [slots // experts + (number < slots % experts) for number in range(experts)]


def skewed_load(slots: int, experts: int) -> list[int]:
    """Return the rows of each expert under a load that falls as 1 / rank (Zipf), as unbalanced routers give."""
    weights = [1 / (number + 1) for number in range(experts)]
    counts = [int(slots * weight / sum(weights)) for weight in weights]
    counts[0] += slots - sum(counts)
    return counts


def _median_seconds(call: Callable[[], object], accelerator: Accelerator, seconds: float) -> float:
    call()
    accelerator.synchronize()
    times: list[float] = []
    end = time.perf_counter() + seconds
    while len(times) < _MIN_REPEATS or time.perf_counter() < end:
        begin = accelerator.mark()
        call()
        times.append(accelerator.seconds(begin, accelerator.mark()))
    return statistics.median(times)
