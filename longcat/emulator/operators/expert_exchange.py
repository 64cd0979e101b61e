"""Dispatch of tokens to the ranks of their experts, and the combination of what these return.

Rows on a rank are sorted by its experts, then by the rank they came from, then by that rank's order; the counts that
dispatch returns are running totals in this order, from which combine knows where rows belong.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from longcat.emulator.communicators import Communicator, communicator
from longcat.emulator.reference import check, operator_of, reference, without_data

_FLOAT = (torch.float16, torch.bfloat16)


class _Layout:
    """Which choices of experts go where: tokens of one rank, experts spread evenly over all."""

    def __init__(
        self,
        operator: str,
        expert_ids: Tensor,
        experts: int,
        ranks: int,
        active: Tensor | None,
        options: dict[str, Any],
    ) -> None:
        if options.get("shared_expert_rank_num") or options.get("tp_world_size", 0) > 1:
            raise NotImplementedError(f"{operator}: ranks of shared experts and tensor parallelism are not emulated")
        check(experts % ranks == 0, operator, f"{experts} experts are not a multiple of {ranks} ranks")
        check(
            expert_ids.dim() == 2 and expert_ids.dtype == torch.int32, operator, "expert_ids are int32 of 2 dimensions"
        )
        flat = expert_ids.flatten().long()
        there = (flat >= 0) & (flat < experts)
        if active is not None:
            there &= _mask(active, expert_ids).flatten()
        self.ranks, self.each, self.k = ranks, experts // ranks, expert_ids.shape[1]
        chosen = there.nonzero()[:, 0]
        order = flat[chosen].argsort(stable=True)
        self.choices = chosen[order]
        """Choices that are sent, as token times k plus place, sorted by expert."""
        self.experts = flat[self.choices]
        self.counts = self.experts.bincount(minlength=experts)
        """Choices of each expert."""

    @property
    def sent(self) -> list[int]:
        """Rows that go to each rank."""
        totals: list[int] = self.counts.reshape(self.ranks, self.each).sum(1).tolist()
        return totals


def _mask(active: Tensor, expert_ids: Tensor) -> Tensor:
    """Return which choices take part, from a mask of tokens or of choices."""
    return (active if active.dim() == 2 else active[:, None].expand(expert_ids.shape)).bool()


def _dispatch(
    operator: str,
    x: Tensor,
    expert_ids: Tensor,
    group: str,
    ranks: int,
    rank: int,
    experts: int,
    options: dict[str, Any],
) -> tuple[Tensor, ...]:
    """Send each token to its experts' ranks; results have the shapes that the wheel's meta kernel gives them."""
    arguments = (x, expert_ids, group, ranks, rank, experts)
    described = operator_of(operator)(
        *map(without_data, arguments), **{name: without_data(value) for name, value in options.items()}
    )
    results = [torch.zeros(part.shape, dtype=part.dtype) for part in described]
    rows, dynamic, places, numbers, received, _, weights = results
    quant_mode, scales = options.get("quant_mode", 0), options.get("scales")
    if quant_mode not in (0, 2) or any(options.get(name) for name in ("y_dtype", "x_dtype", "scales_dtype")):
        raise NotImplementedError(f"{operator}: only quant_mode 0 and 2, to int8, are emulated")
    check(x.dim() == 2 and x.dtype in _FLOAT, operator, f"x is float16 or bfloat16 of 2 dimensions, found {x.dtype}")
    layout = _Layout(operator, expert_ids, experts, ranks, options.get("x_active_mask"), options)
    own = communicator(group, operator, ranks)
    counts = own.all_to_all(layout.counts.reshape(ranks, layout.each), [1] * ranks, [1] * ranks)
    token = layout.choices // layout.k
    sent = x[token]
    scale = torch.zeros(len(token))
    if quant_mode == 2:
        values = sent.float() if scales is None else sent.float() * scales[layout.experts]
        scale = values.abs().amax(-1) / 127
        sent = torch.where(scale[:, None] > 0, values / scale[:, None], 0.0).round().to(torch.int8)
    order = _by_expert(counts)
    came = counts.sum(1).tolist()

    def exchange(values: Tensor, into: Tensor) -> None:
        found = own.all_to_all(values, layout.sent, came)[order]
        into[: len(found)] = found

    exchange(sent, rows)
    if quant_mode == 2:
        exchange(scale, dynamic)
    if (given := options.get("expert_scales")) is not None:
        exchange(given.float().flatten()[layout.choices], weights)
    of_expert = counts.sum(0)
    numbers.copy_(of_expert.cumsum(0) if options.get("expert_token_nums_type", 1) == 0 else of_expert)
    received[: counts.numel()] = counts.mT.flatten().cumsum(0).to(torch.int32)
    first = layout.counts.cumsum(0) - layout.counts
    places[layout.choices] = (torch.arange(len(token)) - first[layout.experts]).to(torch.int32)
    return tuple(results)


def _by_expert(counts: Tensor) -> Tensor:
    """Return the order that sorts rows by expert which are sorted by rank and then expert: counts `[ranks, experts]`."""
    expert = torch.arange(counts.shape[1]).repeat(counts.shape[0]).repeat_interleave(counts.flatten())
    return expert.argsort(stable=True)


def _combine(
    operator: str,
    rows: Tensor,
    expert_ids: Tensor,
    received: Tensor,
    expert_scales: Tensor,
    group: str,
    ranks: int,
    experts: int,
    options: dict[str, Any],
) -> Tensor:
    """Return each token's sum of its experts' rows times their weights, in float32."""
    if options.get("comm_quant_mode") or options.get("out_dtype"):
        raise NotImplementedError(f"{operator}: quantised communication is not emulated")
    check(rows.dtype in _FLOAT, operator, f"expand_x is float16 or bfloat16, found {rows.dtype}")
    check(expert_scales.shape == expert_ids.shape, operator, "expert_scales have the shape of expert_ids")
    layout = _Layout(operator, expert_ids, experts, ranks, options.get("x_active_mask"), options)
    own: Communicator = communicator(group, operator, ranks)
    totals = received[: ranks * layout.each].long()
    counts = totals.diff(prepend=totals.new_zeros(1)).reshape(layout.each, ranks).mT
    order = _by_expert(counts)
    back = torch.empty_like(order)
    back[order] = torch.arange(len(order))
    returned = own.all_to_all(rows[back], counts.sum(1).tolist(), layout.sent)
    weights = expert_scales.float().flatten()[layout.choices]
    total = torch.zeros(len(expert_ids), rows.shape[1])
    total.index_add_(0, layout.choices // layout.k, returned.float() * weights[:, None])
    total += _special(operator, expert_ids, expert_scales, experts, options, rows.shape[1])
    shared = options.get("shared_expert_x")
    return total if shared is None else total + shared.reshape(total.shape).float()


def _special(
    operator: str, expert_ids: Tensor, expert_scales: Tensor, experts: int, options: dict[str, Any], hidden: int
) -> Tensor:
    """Return what experts without weights give: nothing, a copy of the token, or a mixture of it and a constant."""
    total = torch.zeros(len(expert_ids), hidden)
    copies = experts + options.get("zero_expert_num", 0)
    constants = copies + options.get("copy_expert_num", 0)
    there = expert_ids >= copies
    if (active := options.get("x_active_mask")) is not None:
        there &= _mask(active, expert_ids)
    token, choice = there.nonzero().unbind(1)
    if len(token) == 0:
        return total
    x = options.get("ori_x")
    check(x is not None, operator, "experts that copy need ori_x")
    assert x is not None
    expert = expert_ids[token, choice].long()
    values = x[token].float()
    mixed = expert >= constants
    if bool(mixed.any()):
        number = (expert - constants).clamp_min(0)
        parts = [options.get(name) for name in ("const_expert_alpha_1", "const_expert_alpha_2", "const_expert_v")]
        check(all(part is not None for part in parts), operator, "constant experts need their alphas and v")
        one, two, constant = (part[number].float() for part in parts if part is not None)
        values = torch.where(mixed[:, None], one * values + two * constant, values)
    return total.index_add_(0, token, values * expert_scales.float()[token, choice][:, None])


@reference("npu_moe_distribute_dispatch")
def dispatch(
    x: Tensor,
    expert_ids: Tensor,
    group_ep: str,
    ep_world_size: int,
    ep_rank_id: int,
    moe_expert_num: int,
    **options: Any,
) -> tuple[Tensor, ...]:
    """Send tokens to the ranks of their experts.

    Args:
        x: `[tokens, hidden]`.
        expert_ids: int32 `[tokens, k]`.
        group_ep: name of the communicator.
        ep_world_size: its ranks.
        ep_rank_id: own rank.
        moe_expert_num: experts of all ranks.
        options: as torch_npu names them. `x_active_mask` leaves out tokens or choices; `quant_mode` 2 makes int8 of
            rows, times `scales` of their experts.

    Returns:
        Rows, their scales, the place of each choice among those of its expert, rows of each own expert, running totals
        of rows by expert and rank, nothing, and the weights of rows. Rows behind the last are zero here.
    """
    operator = "npu_moe_distribute_dispatch"
    return _dispatch(operator, x, expert_ids, group_ep, ep_world_size, ep_rank_id, moe_expert_num, options)


@reference("npu_moe_distribute_dispatch_v2")
def dispatch_v2(
    x: Tensor,
    expert_ids: Tensor,
    group_ep: str,
    ep_world_size: int,
    ep_rank_id: int,
    moe_expert_num: int,
    **options: Any,
) -> tuple[Tensor, ...]:
    """Send tokens as `dispatch` does; experts behind `moe_expert_num` have no rank, see `combine_v2`."""
    operator = "npu_moe_distribute_dispatch_v2"
    return _dispatch(operator, x, expert_ids, group_ep, ep_world_size, ep_rank_id, moe_expert_num, options)


@reference("npu_moe_distribute_combine")
def combine(
    rows: Tensor,
    expert_ids: Tensor,
    expand_idx: Tensor,
    ep_send_counts: Tensor,
    expert_scales: Tensor,
    group_ep: str,
    ep_world_size: int,
    ep_rank_id: int,
    moe_expert_num: int,
    **options: Any,
) -> Tensor:
    """Return rows to their tokens' ranks, and add them up times `expert_scales` `[tokens, k]`."""
    operator = "npu_moe_distribute_combine"
    arguments = rows, expert_ids, ep_send_counts, expert_scales, group_ep, ep_world_size, moe_expert_num
    return _combine(operator, *arguments, options).to(rows.dtype)


@reference("npu_moe_distribute_combine_v2")
def combine_v2(
    rows: Tensor,
    expert_ids: Tensor,
    assist_info_for_combine: Tensor,
    ep_send_counts: Tensor,
    expert_scales: Tensor,
    group_ep: str,
    ep_world_size: int,
    ep_rank_id: int,
    moe_expert_num: int,
    **options: Any,
) -> Tensor:
    """Combine as `combine` does; experts behind `moe_expert_num` give nothing, `ori_x`, or a mixture with a constant."""
    operator = "npu_moe_distribute_combine_v2"
    arguments = rows, expert_ids, ep_send_counts, expert_scales, group_ep, ep_world_size, moe_expert_num
    return _combine(operator, *arguments, options).to(rows.dtype)


@reference("npu_moe_distribute_combine_add_rms_norm")
def combine_add_rms_norm(
    rows: Tensor,
    expert_ids: Tensor,
    expand_idx: Tensor,
    ep_send_counts: Tensor,
    expert_scales: Tensor,
    residual: Tensor,
    gamma: Tensor,
    group_ep: str,
    ep_world_size: int,
    ep_rank_id: int,
    moe_expert_num: int,
    *,
    norm_eps: float = 0.0,
    **options: Any,
) -> tuple[Tensor, Tensor, Tensor]:
    """Combine as `combine_v2` does, add a residual, and normalise by the root mean square.

    Returns:
        The normalised sum `[tokens, 1, hidden]`, the inverse root `[tokens, 1, 1]` in float32, and the sum.
    """
    operator = "npu_moe_distribute_combine_add_rms_norm"
    arguments = rows, expert_ids, ep_send_counts, expert_scales, group_ep, ep_world_size, moe_expert_num
    total = _combine(operator, *arguments, options)[:, None] + residual.float().reshape(-1, 1, rows.shape[1])
    inverse = (total.square().mean(-1, keepdim=True) + norm_eps).rsqrt()
    return (total * inverse * gamma.float()).to(rows.dtype), inverse, total.to(rows.dtype)


@reference("_npu_distribute_barrier")
def barrier(
    x: Tensor, group: str, world_size: int, *, time_out: Tensor | None = None, elastic_info: Tensor | None = None
) -> Tensor:
    """Wait for all ranks of a communicator; returns x."""
    communicator(group, "_npu_distribute_barrier", world_size).all_reduce(torch.zeros(1))
    return x
