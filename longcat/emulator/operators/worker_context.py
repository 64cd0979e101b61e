"""Operators of attention and feed-forward workers, which find their data through addresses in a context."""

from __future__ import annotations

import ctypes
from typing import Any

import torch
from torch import Tensor

from longcat.emulator.reference import reference

_ABSENT = 1_000_000
"""Expert numbers from here on mean that there is no token."""
_ATTENTION = {"flags": (256, 264), "tokens": (272, 280)}
_FEED_FORWARD = {"info": (384, 392), "tokens": (400, 408), "sessions": (528, 536), "batches": (544, 552),
                 "experts": (560, 568)}  # fmt: skip
"""Where the context has the address and the size of a buffer."""


class _Context:
    """The 1024 bytes that workers share: sizes, then addresses of buffers in the device's memory."""

    def __init__(self, name: str, context: Tensor) -> None:
        if context.dtype != torch.int8 or context.numel() < 1024:
            raise RuntimeError(f"{name}: schedule_context must be int8 with 1024 entries")
        self.name, self.bytes = name, bytes(context.flatten().numpy().tobytes())
        numbers = [self.number(4 * i, 4) for i in range(7)]
        self.sessions, self.batches, self.rows, self.choices, self.experts, self.sent, self.returned = numbers

    def number(self, at: int, size: int) -> int:
        return int.from_bytes(self.bytes[at : at + size], "little")

    def buffer(self, places: tuple[int, int], needed: int) -> Tensor:
        """Return the bytes of a buffer, over the device's memory."""
        address, size = (self.number(at, 8) for at in places)
        if not address or size < needed:
            raise RuntimeError(f"{self.name}: a buffer of the context has {size if address else 0} bytes, not {needed}")
        memory: Any = (ctypes.c_uint8 * needed).from_address(address)
        return torch.frombuffer(memory, dtype=torch.uint8)


@reference("npu_attention_worker_combine")
def attention_worker_combine(
    schedule_context: Tensor,
    expert_scales: Tensor,
    layer_id: Tensor,
    hidden_size: int,
    *,
    token_dtype: int = 0,
    need_schedule: int = 0,
) -> tuple[Tensor, Tensor]:
    """Add up what experts made of each token, times their weights, and the shared expert's; return the next layer too.

    Args:
        schedule_context: where the context is.
        expert_scales: float32 `[tokens, choices]`.
        layer_id: of this layer.
        hidden_size: of a token.
        token_dtype: 1 for bfloat16, else float16.
        need_schedule: whether a device waits for all results; they must be there already.
    """
    name = "npu_attention_worker_combine"
    context = _Context(name, schedule_context)
    tokens, choices = expert_scales.shape
    dtype, batch = torch.bfloat16 if token_dtype == 1 else torch.float16, context.number(288, 4)
    count = context.batches * tokens * (choices + 1)
    if need_schedule:
        flags = context.buffer(_ATTENTION["flags"], 4 * count).view(torch.int32)
        if not bool(flags.view(context.batches, -1)[batch].all()):
            raise RuntimeError(f"{name}: results of this micro batch are not all there; a device waits for them")
    data = context.buffer(_ATTENTION["tokens"], 2 * count * hidden_size).view(dtype)
    rows = data.view(context.batches, tokens, choices + 1, hidden_size)[batch].float()
    result = (rows[:, :choices] * expert_scales.float().unsqueeze(-1)).sum(1) + rows[:, choices]
    return result.to(dtype), layer_id.int() + 1


@reference("npu_ffn_worker_batching")
def ffn_worker_batching(
    schedule_context: Tensor,
    expert_num: int,
    max_out_shape: list[int],
    *,
    token_dtype: int = 0,
    need_schedule: int = 0,
    layer_num: int = 0,
) -> tuple[Tensor, ...]:
    """Collect the tokens that attention workers sent, by expert.

    Args:
        schedule_context: where the context is.
        expert_num: number of experts.
        max_out_shape: `[sessions, tokens, choices, width]`.
        token_dtype: 0 float16, 1 bfloat16, 2 int8 with a float32 scale behind each.
        need_schedule: whether experts are read from what sessions sent, all of which must be there, or from the lists.
        layer_num: layers of a worker; 0 for one.

    Returns:
        rows and zeros behind them, expert and number of rows of each expert that has some, session, micro batch, token,
        choice and scale of each row, number of rows.
    """
    name = "npu_ffn_worker_batching"
    if token_dtype not in (0, 1, 2):
        raise RuntimeError(f"{name}: token_dtype must be 0, 1 or 2, got {token_dtype}")
    if layer_num:
        raise NotImplementedError(f"{name}: several layers")
    context = _Context(name, schedule_context)
    _, batch_size, choices, width = max_out_shape
    each, current = batch_size * choices, context.number(416, 8)
    if need_schedule:
        parts = context.sessions * context.batches
        info = context.buffer(_FEED_FORWARD["info"], 4 * parts * (2 + each)).view(torch.int32)
        info = info.view(context.sessions, context.batches, -1)[:, current]
        if not bool(info[:, 0].all()):
            raise RuntimeError(f"{name}: tokens of this micro batch are not all there; a device waits for them")
        experts = info[:, 2:].flatten()
        sessions = torch.arange(context.sessions)
        batches = torch.full_like(sessions, current)
    else:
        number = context.number(576, 4)
        experts = context.buffer(_FEED_FORWARD["experts"], 4 * number * each).view(torch.int32)
        sessions, batches = (
            context.buffer(_FEED_FORWARD[key], 4 * number).view(torch.int32).long() for key in ("sessions", "batches")
        )
    order = experts.argsort(stable=True)
    order = order[experts[order] < _ABSENT]
    source, rest = order // each, order % each
    token, choice = rest // choices, rest % choices
    size = context.sent
    data = context.buffer(_FEED_FORWARD["tokens"], context.sessions * context.batches * each * size)
    data = data.view(context.sessions, context.batches, batch_size, choices, size)
    found = data[sessions[source], batches[source], token, choice]
    dtype = (torch.float16, torch.bfloat16, torch.int8)[token_dtype]
    longest, count = max_out_shape[0] * each, len(order)

    def padded(values: Tensor) -> Tensor:
        return torch.cat([values, values.new_zeros(longest - count, *values.shape[1:])])

    rows = found[:, : width * dtype.itemsize].contiguous().view(dtype)
    scales = torch.zeros(count)
    if token_dtype == 2:
        scales = found[:, width : width + 4].contiguous().view(torch.float32).flatten()
    present, sizes = experts[order].unique_consecutive(return_counts=True)
    groups = torch.zeros(expert_num, 2, dtype=torch.int64)
    groups[: len(present)] = torch.stack([present.long(), sizes], 1)
    places = (sessions[source], batches[source], token, choice)
    return padded(rows), groups, *(padded(place.int()) for place in places), padded(scales), torch.tensor([count])
