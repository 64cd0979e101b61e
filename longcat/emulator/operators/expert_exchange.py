"""Tokens sent to the ranks of their experts and back, over the communicator that an operator names."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from longcat.emulator.communicators import Communicator, communicator
from longcat.emulator.operators.quantization import quantize_rows
from longcat.emulator.reference import operator_of, reference, without_data

_INT32_OF_ROW = 128
"""Numbers that the second version keeps of every row that came; three are used."""


@dataclass
class _Plan:
    """What a rank sends, in the order of the ranks, of their experts and of the tokens; one entry a row.

    Attributes:
        rank: that the row goes to.
        expert: of that rank.
        token: of this rank.
        slot: which of the token's choices; behind them the shared experts.
        scale_row: row of `scales` that belongs to the expert.
        choices: number of choices of a token.
    """

    rank: Tensor
    expert: Tensor
    token: Tensor
    slot: Tensor
    scale_row: Tensor
    choices: int

    def per_rank(self, ranks: int) -> list[int]:
        """Return how many rows each rank gets."""
        return torch.bincount(self.rank, minlength=ranks).tolist()


@dataclass
class _Experts:
    """Where experts are: shared ones on the first ranks, in copies, the others in equal parts on the rest."""

    name: str
    ranks: int
    own_rank: int
    count: int
    shared: int
    shared_ranks: int

    @property
    def on_a_rank(self) -> int:
        return self.count // (self.ranks - self.shared_ranks)

    @property
    def here(self) -> int:
        return 1 if self.own_rank < self.shared_ranks else self.on_a_rank

    def plan(self, expert_ids: Tensor, mask: Tensor | None, special: int) -> _Plan:
        """Return what this rank sends; choices of a special expert, which has no rank, are left out."""
        ids = expert_ids.long()
        _need(
            self.name, not ids.numel() or (int(ids.min()) >= 0 and int(ids.max()) < self.count + special),
            f"expert_ids must be in [0, {self.count + special})",
        )  # fmt: skip
        active = _active(self.name, mask, ids)
        token, slot = (active & (ids < self.count)).nonzero(as_tuple=True)
        expert = ids[token, slot]
        shared = self.shared if self.shared_ranks else 0
        columns = [
            (self.shared_ranks + expert // self.on_a_rank, expert % self.on_a_rank, token, slot, shared + expert)
        ]
        tokens = active.any(1).nonzero().flatten()
        copies = self.shared_ranks // max(shared, 1)
        for number in range(shared):
            same = torch.full_like(tokens, number)
            rank = same * copies + self.own_rank % copies
            columns.append((rank, torch.zeros_like(tokens), tokens, ids.shape[1] + same, same))
        rank, expert, token, slot, row = (torch.cat(parts) for parts in zip(*columns, strict=True))
        order = ((rank * self.count + expert) * max(len(ids), 1) + token).argsort(stable=True)
        return _Plan(rank[order], expert[order], token[order], slot[order], row[order], ids.shape[1])


def _need(name: str, condition: bool, reason: str) -> None:
    if not condition:
        raise RuntimeError(f"{name}: {reason}")


def _active(name: str, mask: Tensor | None, ids: Tensor) -> Tensor:
    """Return which choices of which tokens take part."""
    if mask is None:
        return torch.ones_like(ids, dtype=torch.bool)
    _need(
        name, mask.dtype == torch.bool and mask.shape in (ids.shape, ids.shape[:1]),
        "x_active_mask must be bool, [tokens] or [tokens, choices]",
    )  # fmt: skip
    if mask.dim() == 2:
        return mask
    _need(name, bool((mask[1:] <= mask[:-1]).all()), "x_active_mask must be true first, then false")
    return mask.unsqueeze(1).expand_as(ids)


def _experts(
    name: str,
    x: Tensor,
    expert_ids: Tensor,
    ep_world_size: int,
    ep_rank_id: int,
    moe_expert_num: int,
    tp_world_size: int = 0,
    expert_shard_type: int = 0,
    shared_expert_num: int = 1,
    shared_expert_rank_num: int = 0,
    elastic_info: Tensor | None = None,
    comm_alg: str = "",
    **_: Any,
) -> _Experts:
    """Check what dispatch and combine have in common."""
    _need(name, x.dim() == 2 and expert_ids.dim() == 2, "takes rows [tokens, width] and expert_ids [tokens, choices]")
    _need(name, expert_ids.dtype == torch.int32, f"expert_ids must be int32, got {expert_ids.dtype}")
    widest = 10240 if comm_alg == "hierarchy" else 7168
    _need(
        name, 0 < x.shape[1] <= widest and x.shape[1] % 32 == 0,
        f"the width must be a multiple of 32 up to {widest}, got {x.shape[1]}",
    )  # fmt: skip
    _need(name, comm_alg in ("", "fullmesh", "hierarchy"), f"comm_alg {comm_alg!r} is not supported on this device")
    _need(name, tp_world_size in (0, 1), f"tp_world_size must be 0 or 1, got {tp_world_size}")
    _need(name, expert_shard_type == 0, f"expert_shard_type must be 0, got {expert_shard_type}")
    _need(name, elastic_info is None, "elastic_info is not supported")
    _need(name, 0 <= ep_rank_id < ep_world_size, f"ep_rank_id must be in [0, {ep_world_size}), got {ep_rank_id}")
    shared, ranks = shared_expert_num, shared_expert_rank_num
    _need(
        name, 0 <= ranks < ep_world_size and (not ranks or (shared > 0 and ranks % shared == 0)) and shared <= 4,
        f"{shared} shared experts cannot be on {ranks} of {ep_world_size} ranks",
    )  # fmt: skip
    _need(
        name, 0 < moe_expert_num <= 1024 and moe_expert_num % (ep_world_size - ranks) == 0,
        f"{moe_expert_num} experts cannot be on {ep_world_size - ranks} ranks in equal parts",
    )  # fmt: skip
    return _Experts(name, ep_world_size, ep_rank_id, moe_expert_num, shared, ranks)


def _group(experts: _Experts, group_ep: str) -> Communicator:
    group = communicator(group_ep, experts.name, experts.ranks)
    _need(
        experts.name, group.rank == experts.own_rank,
        f"ep_rank_id is {experts.own_rank}, but this is rank {group.rank} of the communicator",
    )  # fmt: skip
    return group


def _special(zero_expert_num: int = 0, copy_expert_num: int = 0, const_expert_num: int = 0, **_: Any) -> int:
    return zero_expert_num + copy_expert_num + const_expert_num


def _dispatch(
    name: str,
    x: Tensor,
    expert_ids: Tensor,
    group_ep: str,
    ep_world_size: int,
    ep_rank_id: int,
    moe_expert_num: int,
    **options: Any,
) -> tuple[Tensor, ...]:
    size = ep_world_size, ep_rank_id, moe_expert_num
    experts = _experts(name, x, expert_ids, *size, **options)
    mode, scales = options.get("quant_mode", 0), options.get("scales")
    _need(name, mode in (0, 2), f"quant_mode must be 0 or 2 on this device, got {mode}")
    whole = x.dtype == torch.int32
    _need(name, whole or x.dtype in (torch.float16, torch.bfloat16), f"x must be float16 or bfloat16, got {x.dtype}")
    _need(name, not whole or (mode == 0 and scales is not None), "int32 tokens need scales and quant_mode 0")
    _need(name, whole or mode == 2 or scales is None, "scales are for quant_mode 2")
    shared = experts.shared if experts.shared_ranks else 0
    wanted = (x.shape[0],) if whole else (shared + moe_expert_num, x.shape[1])
    _need(
        name, scales is None or (scales.shape == wanted and scales.dtype == torch.float32),
        f"scales must be float32 {list(wanted)}",
    )  # fmt: skip
    results = operator_of(name)(
        without_data(x), without_data(expert_ids), group_ep, *size,
        **{key: without_data(value) for key, value in options.items()},
    )  # fmt: skip
    rows, row_scales, index, token_nums, counts, tp_counts, row_weights = (
        torch.zeros(result.shape, dtype=result.dtype) for result in results
    )
    group = _group(experts, group_ep)
    plan = experts.plan(expert_ids, options.get("x_active_mask"), _special(**options))
    sent = plan.per_rank(group.size)
    received = group.all_to_all(torch.tensor(sent), [1] * group.size, [1] * group.size).tolist()

    def bring(values: Tensor) -> Tensor:
        return group.all_to_all(values, sent, received)

    source = torch.arange(group.size).repeat_interleave(torch.tensor(received))
    place = bring(plan.expert) * group.size + source
    order = place.argsort(stable=True)
    _need(name, len(order) <= len(rows), f"{len(order)} rows came, more than global_bs says ({len(rows)})")
    values, scale = x[plan.token], None
    if whole and scales is not None:
        scale = scales[plan.token]
    elif mode == 2:
        values = values.float() if scales is None else values.float() * scales[plan.scale_row]
        values, scale = quantize_rows(values)
    rows[: len(order)] = bring(values)[order]
    if scale is not None:
        row_scales[: len(order)] = bring(scale.float().flatten())[order]
    number = torch.bincount(place, minlength=experts.here * group.size)
    counts[: len(number)] = number.cumsum(0)
    token_nums[:] = number.view(experts.here, group.size).sum(1)
    if options.get("expert_token_nums_type", 1) == 0:
        token_nums = token_nums.cumsum(0)
    chosen = plan.slot < plan.choices
    if name.endswith("_v2"):
        entry = torch.stack([bring(plan.token), bring(plan.slot)])[:, order]
        index[: len(order) * _INT32_OF_ROW].view(-1, _INT32_OF_ROW)[:, :3] = torch.stack([source[order], *entry], 1)
    else:
        position = torch.arange(len(plan.rank)) - torch.searchsorted(
            key := plan.rank * experts.count + plan.expert, key
        )
        index[(plan.token * plan.choices + plan.slot)[chosen]] = position[chosen].int()
    if options.get("expert_scales") is not None:
        row_weights[: len(order)] = bring(_weights(plan, options["expert_scales"]))[order]
    return rows, row_scales, index, token_nums, counts, tp_counts, row_weights


def _weights(plan: _Plan, expert_scales: Tensor) -> Tensor:
    """Return what each row is multiplied with: shared experts are added as they are."""
    weights = expert_scales.float()[plan.token, plan.slot.clamp(max=plan.choices - 1)]
    return torch.where(plan.slot < plan.choices, weights, 1.0)


@reference("npu_moe_distribute_dispatch")
def moe_distribute_dispatch(*arguments: Any, **options: Any) -> tuple[Tensor, ...]:
    """Send tokens to the ranks of their experts: rows by expert and rank, zeros behind them (a device leaves those).

    Returns:
        rows, their scales, the place of each choice among those for the same expert, rows of each expert, ends of the
        rows by expert and rank, nothing, weights of the rows.
    """
    return _dispatch("npu_moe_distribute_dispatch", *arguments, **options)


@reference("npu_moe_distribute_dispatch_v2")
def moe_distribute_dispatch_v2(*arguments: Any, **options: Any) -> tuple[Tensor, ...]:
    """Send tokens as the first version does; the third result has rank, token and choice of each row."""
    return _dispatch("npu_moe_distribute_dispatch_v2", *arguments, **options)


def _combine(
    name: str,
    expand_x: Tensor,
    expert_ids: Tensor,
    ep_send_counts: Tensor,
    expert_scales: Tensor,
    group_ep: str,
    ep_world_size: int,
    ep_rank_id: int,
    moe_expert_num: int,
    **options: Any,
) -> Tensor:
    """Bring the experts' rows back and return their weighted sums in float32."""
    experts = _experts(name, expand_x, expert_ids, ep_world_size, ep_rank_id, moe_expert_num, **options)
    for key in ("activation_scale", "weight_scale", "group_list"):
        _need(name, options.get(key) is None, f"{key} is not supported")
    _need(name, options.get("comm_quant_mode", 0) in (0, 2), "comm_quant_mode must be 0 or 2")
    _need(
        name, expand_x.dtype in (torch.float16, torch.bfloat16),
        f"expand_x must be float16 or bfloat16, got {expand_x.dtype}",
    )  # fmt: skip
    _need(
        name, expert_scales.shape == expert_ids.shape and expert_scales.dtype == torch.float32,
        f"expert_scales must be float32 {list(expert_ids.shape)}",
    )  # fmt: skip
    group = _group(experts, group_ep)
    plan = experts.plan(expert_ids, options.get("x_active_mask"), _special(**options))
    number = experts.here * group.size
    _need(name, ep_send_counts.numel() >= number, f"ep_send_counts needs {number} entries")
    counts = ep_send_counts.flatten()[:number].long().diff(prepend=torch.zeros(1, dtype=torch.int64))
    source = torch.arange(group.size).repeat(experts.here).repeat_interleave(counts)
    sent = counts.view(experts.here, group.size).sum(0).tolist()
    rows = group.all_to_all(expand_x[: len(source)][source.argsort(stable=True)], sent, plan.per_rank(group.size))
    result = torch.zeros(expert_ids.shape[0], expand_x.shape[1])
    result.index_add_(0, plan.token, rows.float() * _weights(plan, expert_scales).unsqueeze(1))
    _add_special(name, result, expert_ids.long(), expert_scales, moe_expert_num, **options)
    extra = options.get("shared_expert_x")
    return result if extra is None else result + extra.float().reshape(result.shape)


def _add_special(
    name: str,
    result: Tensor,
    ids: Tensor,
    expert_scales: Tensor,
    moe_expert_num: int,
    zero_expert_num: int = 0,
    copy_expert_num: int = 0,
    const_expert_num: int = 0,
    x_active_mask: Tensor | None = None,
    ori_x: Tensor | None = None,
    const_expert_alpha_1: Tensor | None = None,
    const_expert_alpha_2: Tensor | None = None,
    const_expert_v: Tensor | None = None,
    **_: Any,
) -> None:
    """Add what experts without a rank give: the token itself, or the token and a constant, each times a factor."""
    if not copy_expert_num and not const_expert_num:
        return
    weights = expert_scales * _active(name, x_active_mask, ids)
    _need(name, ori_x is not None, "experts that copy, and constant ones, need ori_x")
    assert ori_x is not None
    first = moe_expert_num + zero_expert_num
    copied = (ids >= first) & (ids < first + copy_expert_num)
    result += (weights * copied).sum(1, keepdim=True) * ori_x.float()
    if not const_expert_num:
        return
    constants = const_expert_alpha_1, const_expert_alpha_2, const_expert_v
    _need(name, all(part is not None for part in constants), "constant experts need const_expert_alpha_1, _2 and _v")
    one, two, value = (part.float() for part in constants if part is not None)
    token, slot = (ids >= first + copy_expert_num).nonzero(as_tuple=True)
    which = ids[token, slot] - first - copy_expert_num
    rows = one[which] * ori_x[token].float() + two[which] * value[which]
    result.index_add_(0, token, rows * weights[token, slot].unsqueeze(1))


@reference("npu_moe_distribute_combine")
def moe_distribute_combine(
    expand_x: Tensor, expert_ids: Tensor, expand_idx: Tensor, *arguments: Any, **options: Any
) -> Tensor:
    """Return each token's weighted sum of what its experts made of it."""
    return _combine("npu_moe_distribute_combine", expand_x, expert_ids, *arguments, **options).to(expand_x.dtype)


@reference("npu_moe_distribute_combine_v2")
def moe_distribute_combine_v2(
    expand_x: Tensor, expert_ids: Tensor, assist_info_for_combine: Tensor, *arguments: Any, **options: Any
) -> Tensor:
    """Return each token's weighted sum of what its experts made of it."""
    return _combine("npu_moe_distribute_combine_v2", expand_x, expert_ids, *arguments, **options).to(expand_x.dtype)


@reference("npu_moe_distribute_combine_add_rms_norm")
def moe_distribute_combine_add_rms_norm(
    expand_x: Tensor,
    expert_ids: Tensor,
    expand_idx: Tensor,
    ep_send_counts: Tensor,
    expert_scales: Tensor,
    residual_x: Tensor,
    gamma: Tensor,
    *arguments: Any,
    norm_eps: float = 1e-6,
    **options: Any,
) -> tuple[Tensor, Tensor, Tensor]:
    """Add the tokens' sums to the residual, and return its RMSNorm, the reciprocal root and the residual."""
    name = "npu_moe_distribute_combine_add_rms_norm"
    total = _combine(name, expand_x, expert_ids, ep_send_counts, expert_scales, *arguments, **options)
    shape = expert_ids.shape[0], 1, expand_x.shape[1]
    _need(name, residual_x.shape == shape, f"residual_x must be {list(shape)}, got {list(residual_x.shape)}")
    total = total.unsqueeze(1) + residual_x.float()
    root = (total.square().mean(-1, keepdim=True) + norm_eps).rsqrt()
    return (total * root * gamma.float()).to(expand_x.dtype), root, total.to(expand_x.dtype)


@reference("_npu_distribute_barrier")
def distribute_barrier(x_ref: Tensor, group: str, world_size: int, **options: Any) -> Tensor:
    """Wait for all ranks of the group."""
    _need("_npu_distribute_barrier", options.get("elastic_info") is None, "elastic_info is not supported")
    communicator(group, "_npu_distribute_barrier", world_size).all_reduce(torch.zeros(1))
    return x_ref.clone()
