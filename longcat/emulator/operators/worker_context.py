"""Operators of attention and feed-forward workers, which find their data through addresses in a context."""

from __future__ import annotations

import ctypes
from typing import Any

import torch
from torch import Tensor

from longcat.emulator.reference import check, reference

_ABSENT = 1_000_000
"""Expert numbers from here on mean that there is no token."""
_ATTENTION = {"flags": (256, 264), "tokens": (272, 280)}
_FEED_FORWARD = {"info": (384, 392), "tokens": (400, 408), "layers": (512, 520), "sessions": (528, 536),
                 "batches": (544, 552), "experts": (560, 568)}  # fmt: skip
"""Where the context has the address and the size of a buffer."""
_RUNNING, _ATTENTION_BATCH, _FEED_FORWARD_BATCH, _DONE = (128, 4), (288, 4), (416, 8), (576, 4)
"""Where it says whether workers run, which micro batch is ready, which comes next, and how many sessions were listed."""


class _Context:
    """The 1024 bytes that workers share: sizes, then addresses of buffers in the device's memory."""

    def __init__(self, name: str, context: Tensor) -> None:
        entries = context.numel() if context.dtype == torch.int8 else 0
        check(entries >= 1024, name, "schedule_context must be int8 with 1024 entries")
        self.name, self.bytes = name, bytes(context.flatten().numpy().tobytes())
        numbers = [self.number(4 * i, 4) for i in range(7)]
        self.sessions, self.batches, self.rows, self.choices, self.experts, self.sent, self.returned = numbers
        check(self.batches > 0, name, "schedule_context has no micro batches")

    def number(self, at: int, size: int) -> int:
        return int.from_bytes(self.bytes[at : at + size], "little")

    def ready(self, flags: Tensor, what: str) -> None:
        """Refuse to go on where a flag is not set: nothing else runs that could set it."""
        there = bool((flags == 1).all())
        check(there, self.name, f"{what} of this micro batch are not all there; a device waits for them")

    def buffer(self, places: tuple[int, int], needed: int) -> Tensor:
        """Return the bytes of a buffer, over the device's memory."""
        if not needed:
            return torch.empty(0, dtype=torch.uint8)
        address, size = (self.number(at, 8) for at in places)
        size = size if address else 0
        check(size >= needed, self.name, f"a buffer of the context has {size} bytes, not {needed}")
        memory: Any = (ctypes.c_uint8 * needed).from_address(address)
        return torch.frombuffer(memory, dtype=torch.uint8)


def _write(schedule_context: Tensor, place: tuple[int, int], value: int) -> None:
    """Write a number into a context, where a reference of it is to read it."""
    at, size = place
    data = torch.frombuffer(bytearray(value.to_bytes(size, "little")), dtype=torch.int8)
    schedule_context.view(-1)[at : at + size] = data


@reference("attention_worker_scheduler_")
def attention_worker_scheduler_(schedule_context: Tensor) -> Tensor:
    """Take the results of the next micro batch: clear their flags and name that micro batch in the context.

    Nothing is done once the workers are told to stop. A device waits for the results; here they must be there already.
    """
    context = _Context("attention_worker_scheduler", schedule_context)
    if context.number(*_RUNNING):
        batch = (context.number(*_ATTENTION_BATCH) + 1) % context.batches
        count = context.rows * context.choices
        flags = context.buffer(_ATTENTION["flags"], 4 * count * context.batches).view(torch.int32)
        flags = flags.view(context.batches, count)[batch]
        context.ready(flags, "results")
        flags.zero_()
        _write(schedule_context, _ATTENTION_BATCH, batch)
    return schedule_context


@reference("attention_worker_scheduler")
def attention_worker_scheduler(schedule_context: Tensor) -> Tensor:
    """Do what `attention_worker_scheduler_` does, and return the context's new state in a copy of it."""
    return attention_worker_scheduler_(schedule_context.clone())


@reference("ffn_worker_scheduler_")
def ffn_worker_scheduler_(schedule_context: Tensor, *, sync_group_size: int = 1, execute_mode: int = 0) -> Tensor:
    """List what all sessions sent for the next micro batch: layers, sessions, micro batches and experts.

    Then their flags are cleared, and the context has the number of sessions and the micro batch that comes next. A device
    waits for what is sent; here it must be there already.

    Args:
        schedule_context: where the context is.
        sync_group_size: sessions that a device waits for together; it does not document in which order several groups
            are listed, so all are one here.
        execute_mode: 0.
    """
    name = "ffn_worker_scheduler"
    context = _Context(name, schedule_context)
    check(execute_mode == 0, name, f"execute_mode must be 0, got {execute_mode}")
    check(0 < sync_group_size <= context.sessions, name, f"sync_group_size must be 1 to {context.sessions}")
    if sync_group_size != context.sessions:
        raise NotImplementedError(
            f"{name}: the emulated Ascend has no groups of sessions, sync_group_size is their number"
        )
    if not context.number(*_RUNNING):
        return schedule_context
    count, batch = context.rows * context.choices, context.number(*_FEED_FORWARD_BATCH)
    info = context.buffer(_FEED_FORWARD["info"], 4 * context.sessions * context.batches * (2 + count)).view(torch.int32)
    info = info.view(context.sessions, context.batches, 2 + count)[:, batch]
    context.ready(info[:, 0], "tokens")
    sessions = torch.arange(context.sessions, dtype=torch.int32)
    lists = {"layers": info[:, 1], "sessions": sessions, "batches": sessions * 0 + batch, "experts": info[:, 2:]}
    for key, values in lists.items():
        context.buffer(_FEED_FORWARD[key], 4 * values.numel()).view(torch.int32).copy_(values.flatten())
    info[:, 0] = 0
    _write(schedule_context, _FEED_FORWARD_BATCH, (batch + 1) % context.batches)
    _write(schedule_context, _DONE, context.sessions)
    return schedule_context


@reference("ffn_worker_scheduler")
def ffn_worker_scheduler(schedule_context: Tensor, *, sync_group_size: int = 1, execute_mode: int = 0) -> Tensor:
    """Do what `ffn_worker_scheduler_` does, and return the context's new state in a copy of it."""
    copy = schedule_context.clone()
    return ffn_worker_scheduler_(copy, sync_group_size=sync_group_size, execute_mode=execute_mode)


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
    dtype, batch = torch.bfloat16 if token_dtype == 1 else torch.float16, context.number(*_ATTENTION_BATCH)
    count = context.batches * tokens * (choices + 1)
    if need_schedule:
        flags = context.buffer(_ATTENTION["flags"], 4 * count).view(torch.int32)
        context.ready(flags.view(context.batches, -1)[batch], "results")
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
    check(token_dtype in (0, 1, 2), name, f"token_dtype must be 0, 1 or 2, got {token_dtype}")
    check(len(max_out_shape) == 4, name, f"max_out_shape must have 4 numbers, got {len(max_out_shape)}")
    if layer_num:
        raise NotImplementedError(f"{name}: several layers")
    context = _Context(name, schedule_context)
    _, batch_size, choices, width = max_out_shape
    each, current = batch_size * choices, context.number(*_FEED_FORWARD_BATCH)
    if need_schedule:
        parts = context.sessions * context.batches
        info = context.buffer(_FEED_FORWARD["info"], 4 * parts * (2 + each)).view(torch.int32)
        info = info.view(context.sessions, context.batches, -1)[:, current]
        context.ready(info[:, 0], "tokens")
        experts = info[:, 2:].flatten()
        sessions = torch.arange(context.sessions)
        batches = torch.full_like(sessions, current)
    else:
        number = context.number(*_DONE)
        experts = context.buffer(_FEED_FORWARD["experts"], 4 * number * each).view(torch.int32)
        sessions, batches = (
            context.buffer(_FEED_FORWARD[key], 4 * number).view(torch.int32).long() for key in ("sessions", "batches")
        )
    order = experts.argsort(stable=True)
    order = order[experts[order] < _ABSENT]
    source, rest = order // each, order % each
    token, choice = rest // choices, rest % choices
    dtype, size = (torch.float16, torch.bfloat16, torch.int8)[token_dtype], context.sent
    needed = width * dtype.itemsize + (4 if token_dtype == 2 else 0)
    check(needed <= size, name, f"a token of width {width} has {needed} bytes, schedule_context has {size}")
    data = context.buffer(_FEED_FORWARD["tokens"], context.sessions * context.batches * each * size)
    data = data.view(context.sessions, context.batches, batch_size, choices, size)
    found = data[sessions[source], batches[source], token, choice]
    longest, count = max_out_shape[0] * each, len(order)

    def padded(values: Tensor) -> Tensor:
        return torch.cat([values, values.new_zeros(longest - count, *values.shape[1:])])

    rows = found[:, : width * dtype.itemsize].contiguous().view(dtype)
    scales = torch.zeros(count)
    if token_dtype == 2:
        scales = found[:, width : width + 4].contiguous().view(torch.float32).flatten()
    present, sizes = experts[order].unique_consecutive(return_counts=True)
    check(len(present) <= expert_num, name, f"there are tokens of {len(present)} experts, expert_num is {expert_num}")
    groups = torch.zeros(expert_num, 2, dtype=torch.int64)
    groups[: len(present)] = torch.stack([present.long(), sizes], 1)
    places = (sessions[source], batches[source], token, choice)
    return padded(rows), groups, *(padded(place.int()) for place in places), padded(scales), torch.tensor([count])
