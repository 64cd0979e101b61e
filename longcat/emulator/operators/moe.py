"""Routing: choice of experts from scores, and permutation of tokens to experts and back."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from longcat.emulator.reference import FLOATS, check, check_types, gradients, reference


@reference("npu_moe_gating_top_k")
def gating_top_k(
    x: Tensor,
    k: int,
    *,
    bias: Tensor | None = None,
    input_ids: Tensor | None = None,
    tid2eid: Tensor | None = None,
    k_group: int = 1,
    group_count: int = 1,
    group_select_mode: int = 0,
    renorm: int = 0,
    norm_type: int = 0,
    out_flag: bool = False,
    routed_scaling_factor: float = 1.0,
    eps: float = 1e-20,
) -> tuple[Tensor, Tensor, Tensor]:
    """Choose the k experts with the highest score plus bias; returns their scores without bias.

    Args:
        x: logits `[tokens, experts]`.
        k: experts of a token.
        bias: `[experts]`, for the choice only.
        input_ids: `[tokens]`, the row of `tid2eid` that names a token's experts, whatever their scores.
        tid2eid: `[rows, k]`.
        k_group: groups of experts a token may choose from.
        group_count: number of groups.
        group_select_mode: a group counts with its best (0) or the sum of its two best (1).
        renorm: 1 makes the chosen scores' sum 1, as `norm_type` 1 does.
        norm_type: scores are a softmax (0) or sigmoids (1).
        out_flag: whether all scores are wanted.
        routed_scaling_factor: of the chosen scores.
        eps: added to their sum.

    Returns:
        Chosen scores `[tokens, k]` in x's type, experts `[tokens, k]` int32, all scores `[tokens, experts]` float32.
    """
    operator, experts_of_group = "npu_moe_gating_top_k", x.shape[-1] // max(group_count, 1)
    check(x.dim() == 2, operator, f"x has 2 dimensions, found {x.dim()}")
    check(x.shape[-1] <= 2048, operator, f"there are at most 2048 experts, found {x.shape[-1]}")
    check(
        group_count > 0 and x.shape[-1] % group_count == 0,
        operator,
        f"{x.shape[-1]} experts are not a multiple of group_count {group_count}",
    )
    check(
        group_count == 1 or (experts_of_group > 2 and -(-experts_of_group // 32) * 32 * group_count <= 2048),
        operator,
        f"groups have more than 2 experts, and rounded up to 32 no more than 2048 in all, found {group_count} of "
        f"{experts_of_group}",
    )
    check(renorm == 0, operator, f"renorm is 0, found {renorm}")
    check(norm_type in (0, 1), operator, f"norm_type is 0 or 1, found {norm_type}")
    check(group_select_mode in (0, 1), operator, f"group_select_mode is 0 or 1, found {group_select_mode}")
    check(1 <= k_group <= group_count, operator, f"k_group is within 1 and {group_count}, found {k_group}")
    check(1 <= k <= k_group * experts_of_group, operator, f"k is within 1 and {k_group * experts_of_group}, found {k}")
    check(
        bias is None or (tuple(bias.shape) == x.shape[-1:] and bias.dtype == x.dtype),
        operator,
        f"bias has shape ({x.shape[-1]},) and is {x.dtype}",
    )
    check((input_ids is None) == (tid2eid is None), operator, "input_ids and tid2eid come together")
    scores = torch.sigmoid(x.float()) if norm_type == 1 else x.float().softmax(-1)
    if input_ids is not None and tid2eid is not None:
        check(tid2eid.dim() == 2 and tid2eid.shape[1] == k, operator, f"tid2eid has shape (rows, {k})")
        experts = tid2eid[input_ids.long()].long()
        chosen = _chosen(scores, experts, renorm, norm_type, routed_scaling_factor, eps)
        return chosen.to(x.dtype), experts.to(torch.int32), scores
    choice = scores if bias is None else scores + bias.float()
    if group_count > 1:
        groups = choice.unflatten(-1, (group_count, -1))
        value = groups.amax(-1) if group_select_mode == 0 else groups.topk(2).values.sum(-1)
        allowed = torch.zeros_like(value, dtype=torch.bool).scatter_(-1, value.topk(k_group).indices, True)
        choice = groups.masked_fill(~allowed[..., None], -torch.inf).flatten(-2)
    experts = choice.sort(dim=-1, descending=True, stable=True).indices[:, :k]
    chosen = _chosen(scores, experts, renorm, norm_type, routed_scaling_factor, eps)
    return chosen.to(x.dtype), experts.to(torch.int32), scores


def _chosen(
    scores: Tensor, experts: Tensor, renorm: int, norm_type: int, routed_scaling_factor: float, eps: float
) -> Tensor:
    chosen = scores.gather(-1, experts.long())
    if norm_type == 1 or renorm == 1:
        chosen = chosen / (chosen.sum(-1, keepdim=True) + eps)
    return chosen * routed_scaling_factor


@reference("npu_moe_gating_top_k_backward")
def gating_top_k_backward(
    scores: Tensor,
    d_chosen: Tensor,
    experts: Tensor,
    *,
    renorm: int = 0,
    norm_type: int = 0,
    routed_scaling_factor: float = 1.0,
    eps: float = 1e-20,
) -> Tensor:
    """Return the gradient of the logits, from all scores, in the type of the incoming gradient."""
    options = renorm, norm_type, routed_scaling_factor, eps
    (d_scores,) = gradients(lambda all_: _chosen(all_, experts, *options), [scores], d_chosen.float())
    assert d_scores is not None
    if norm_type == 1:
        d_x = d_scores * scores * (1 - scores)
    else:
        d_x = scores * (d_scores - (d_scores * scores).sum(-1, keepdim=True))
    return d_x.to(d_chosen.dtype)


@reference("npu_moe_gating_top_k_softmax")
def gating_top_k_softmax(x: Tensor, finished: Tensor | None = None, k: int = 1) -> tuple[Tensor, Tensor, Tensor]:
    """Choose the k highest of a softmax; returns scores, experts (int32) and row indices sorted by choice (int32).

    Args:
        x: logits `[..., experts]` of 2 or 3 dimensions.
        finished: bool `[...]`: rows whose experts do not count; they get the number of experts instead.
        k: experts of a row.
    """
    scores, experts, _ = gating_top_k_softmax_v2(x, k=k, finished=finished)
    rows = torch.arange(experts.numel(), dtype=torch.int32).reshape(k, -1).mT.reshape(experts.shape)
    return scores, experts, rows


@reference("npu_moe_gating_top_k_softmax_v2")
def gating_top_k_softmax_v2(
    x: Tensor, *, k: int = 1, finished: Tensor | None = None, renorm: int = 0, output_softmax: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    """Choose the k highest as `gating_top_k_softmax` does; the softmax is over all experts, or with `renorm` over k.

    Returns:
        Scores in x's type, experts (int32), and with `output_softmax` and no `renorm` the whole softmax in float32.
    """
    operator = "npu_moe_gating_top_k_softmax"
    check(x.dim() in (2, 3), operator, f"x has 2 or 3 dimensions, found {x.dim()}")
    check(x.dtype in FLOATS, operator, f"x is float16, bfloat16 or float32, found {x.dtype}")
    check(0 < k <= min(x.shape[-1], 1024), operator, f"k is within 1 and {min(x.shape[-1], 1024)}, found {k}")
    check(renorm in (0, 1), operator, f"renorm is 0 or 1, found {renorm}")
    check(
        finished is None or (finished.dtype == torch.bool and finished.shape == x.shape[:-1]),
        operator,
        f"finished is bool and has shape {tuple(x.shape[:-1])}",
    )
    ranking = x.float() if renorm else x.float().softmax(-1)
    ranked = ranking.sort(dim=-1, descending=True, stable=True)
    scores = ranked.values[..., :k].softmax(-1) if renorm else ranked.values[..., :k]
    experts = ranked.indices[..., :k].to(torch.int32)
    if finished is not None:
        experts = experts.masked_fill(finished[..., None], x.shape[-1])
    whole = ranking if output_softmax and not renorm else x.new_empty(0, dtype=torch.float32)
    return scores.to(x.dtype), experts, whole


@reference("npu_moe_token_permute")
def token_permute(
    tokens: Tensor, indices: Tensor, num_out_tokens: int | None = None, padded_mode: bool = False
) -> tuple[Tensor, Tensor]:
    """Copy each token once per expert, sorted by expert.

    Args:
        tokens: `[tokens, hidden]`.
        indices: experts `[tokens, k]` or `[tokens]`.
        num_out_tokens: rows that are kept; 0 keeps all.
        padded_mode: not emulated, nor is it on a device.

    Returns:
        `[rows, hidden]`, and for each choice its row (int32, `[tokens * k]`), beyond the end where it was dropped.
    """
    operator = "npu_moe_token_permute"
    check_types(operator, FLOATS, tokens=tokens)
    check_types(operator, (torch.int32, torch.int64), indices=indices)
    check(tokens.dim() == 2, operator, f"tokens have 2 dimensions, found {tokens.dim()}")
    check(
        indices.dim() in (1, 2) and indices.shape[0] == tokens.shape[0],
        operator,
        f"indices are of {tokens.shape[0]} tokens, found {list(indices.shape)}",
    )
    check(_choices(indices) <= 512, operator, f"a token has at most 512 experts, found {_choices(indices)}")
    check(not padded_mode, operator, "padded_mode is False")
    order = indices.flatten().argsort(stable=True)
    kept = order[: num_out_tokens or None]
    return tokens[kept // _choices(indices)], order.argsort().to(torch.int32)


@reference("npu_moe_token_permute_grad")
def token_permute_grad(
    tokens: Tensor, d_permuted: Tensor, indices: Tensor, rows: Tensor, padded_mode: bool = False
) -> Tensor:
    """Return the gradient of the tokens: each token's sum over its rows."""
    return _sums(d_permuted, rows, _choices(indices)).to(tokens.dtype)


@reference("npu_moe_token_permute_grad_v2")
def token_permute_grad_v2(
    d_permuted: Tensor, rows: Tensor, tokens: int, dtype: torch.dtype, k: int, padded_mode: bool = False
) -> Tensor:
    """Return the gradient of the tokens, as `token_permute_grad` does."""
    return _sums(d_permuted, rows, k).to(dtype)


@reference("npu_moe_token_unpermute")
def token_unpermute(
    permuted: Tensor,
    rows: Tensor,
    probs: Tensor | None = None,
    padded_mode: bool = False,
    restore_shape: list[int] | None = None,
) -> Tensor:
    """Sum each token's rows, weighted by `probs` `[tokens, k]`."""
    operator = "npu_moe_token_unpermute"
    check(permuted.dim() == 2 and rows.dim() == 1, operator, "permuted_tokens have 2 dimensions, sorted_indices 1")
    check(
        probs is None or (probs.dim() == 2 and probs.numel() == rows.numel()),
        operator,
        f"probs are of {rows.numel()} choices, found {None if probs is None else list(probs.shape)}",
    )
    check(not padded_mode, operator, "padded_mode is False")
    return _sums(permuted, rows, 1 if probs is None else probs.shape[1], probs).to(permuted.dtype)


@reference("_npu_moe_token_unpermute")
def token_unpermute_kept(permuted: Tensor, *arguments: Any, **options: Any) -> tuple[Tensor, Tensor]:
    """Sum each token's rows as `token_unpermute` does, and return the rows for the gradient."""
    return token_unpermute(permuted, *arguments, **options), permuted.clone()


@reference("npu_moe_token_unpermute_grad")
def token_unpermute_grad(
    permuted: Tensor,
    d_tokens: Tensor,
    rows: Tensor,
    probs: Tensor | None = None,
    padded_mode: bool = False,
    restore_shape: list[int] | None = None,
) -> tuple[Tensor | None, Tensor | None]:
    """Return the gradients of the rows and, if given, of the weights."""
    gradient = d_tokens.float()[:, None]
    spread = gradient if probs is None else gradient * probs.float()[..., None]
    kept = (rows < permuted.shape[0]).nonzero().flatten()
    d_permuted = torch.zeros(permuted.shape).index_add_(0, rows[kept].long(), spread.flatten(0, 1)[kept])
    if probs is None:
        return d_permuted.to(permuted.dtype), permuted.new_empty(0)
    d_probs = (_taken(permuted, rows, probs.shape[1]) * gradient).sum(-1)
    return d_permuted.to(permuted.dtype), d_probs.to(probs.dtype)


@reference("npu_moe_token_unpermute_grad_v2")
def token_unpermute_grad_v2(
    d_tokens: Tensor,
    rows: Tensor,
    permuted_rows: int,
    dtype: torch.dtype,
    probs: Tensor | None = None,
    padded_mode: bool = False,
    restore_shape: list[int] | None = None,
    permuted: Tensor | None = None,
) -> tuple[Tensor | None, Tensor | None]:
    """Return the gradients of the rows and weights; without weights the rows themselves are not needed."""
    if permuted is None:
        permuted = d_tokens.new_zeros(permuted_rows, d_tokens.shape[-1], dtype=dtype)
    return token_unpermute_grad(permuted, d_tokens, rows, probs)


@reference("npu_moe_init_routing")
def init_routing(x: Tensor, row_idx: Tensor, expert_idx: Tensor, active_num: int) -> tuple[Tensor, Tensor, Tensor]:
    """Copy tokens for their experts, sorted by expert.

    Args:
        x: `[tokens, hidden]`.
        row_idx: int32 `[tokens, k]`, the place of each choice, which is `choice * tokens + token`.
        expert_idx: int32 `[tokens, k]`.
        active_num: tokens that are kept, times k rows.

    Returns:
        Rows `[min(tokens, active_num) * k, hidden]`, the row of each place (int32), the sorted experts (int32).
    """
    operator = "npu_moe_init_routing"
    check(x.dim() == 2 and x.dtype in FLOATS, operator, "x has 2 dimensions and is float16, bfloat16 or float32")
    check(row_idx.shape == expert_idx.shape, operator, "row_idx and expert_idx have one shape")
    check(row_idx.dtype == expert_idx.dtype == torch.int32, operator, "row_idx and expert_idx are int32")
    tokens, k = expert_idx.shape
    experts, order = expert_idx.flatten().sort(stable=True)
    places = row_idx.flatten()[order].long()
    rows = torch.empty(tokens * k, dtype=torch.int32)
    rows[places] = torch.arange(tokens * k, dtype=torch.int32)
    return x[places[: min(active_num, tokens) * k] % tokens], rows, experts


@reference("npu_moe_init_routing_v2")
def init_routing_v2(
    x: Tensor,
    expert_idx: Tensor,
    *,
    scale: Tensor | None = None,
    offset: Tensor | None = None,
    active_num: int = -1,
    expert_capacity: int = -1,
    expert_num: int = -1,
    drop_pad_mode: int = 0,
    expert_tokens_num_type: int = 0,
    expert_tokens_num_flag: bool = False,
    quant_mode: int = -1,
    active_expert_range: list[int] | None = None,
    row_idx_type: int = 0,
    x_dtype: int | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Copy tokens for their experts, sorted by expert.

    Args:
        x: `[tokens, hidden]`.
        expert_idx: int32 `[tokens, k]`.
        scale: a number a token `[tokens]` that is copied like it, or of the quantisation, see `_quantised`.
        offset: of the static quantisation.
        active_num: rows that are kept, 0 or less for all.
        expert_capacity: rows of an expert if `drop_pad_mode` is 1.
        expert_num: number of experts.
        drop_pad_mode: 1 gives each expert the same number of rows, filled up with zeros; what is more is dropped.
        expert_tokens_num_type: tokens are told as running totals (0), as counts (1) or as pairs of expert and count of
            those that have any, filled up with zeros (2).
        expert_tokens_num_flag: whether they are told.
        quant_mode: none (-1), static (0) or a scale a row (1) to int8.
        active_expert_range: first expert that counts and the one behind the last; all by default.
        row_idx_type: for each choice its row, -1 where it has none (0), or for each row its choice (1).
        x_dtype: of types that torch has not: not emulated.

    Returns:
        Rows `[rows, hidden]` or `[experts, capacity, hidden]`, the map (int32), tokens (int64), scales (float32). Rows
        that no choice has are zero here; a device leaves them as they are.
    """
    operator = "npu_moe_init_routing_v2"
    check(x.dim() == 2, operator, f"x has 2 dimensions, found {x.dim()}")
    check(expert_idx.dim() == 2, operator, f"expert_idx has 2 dimensions, found {expert_idx.dim()}")
    check(x.shape[0] == expert_idx.shape[0], operator, "x and expert_idx have one row a token")
    check(drop_pad_mode in (0, 1), operator, f"drop_pad_mode is 0 or 1, found {drop_pad_mode}")
    check(
        expert_tokens_num_type in (0, 1, 2),
        operator,
        f"expert_tokens_num_type is 0 to 2, found {expert_tokens_num_type}",
    )
    check(row_idx_type in (0, 1), operator, f"row_idx_type is 0 or 1, found {row_idx_type}")
    first, last = active_expert_range or (0, expert_num)
    check(
        0 <= first < last <= 10240,
        operator,
        f"active_expert_range is increasing within 0 and 10240, found {[first, last]}",
    )
    if quant_mode not in (-1, 0, 1) or x_dtype is not None:
        raise NotImplementedError(f"{operator}: quantisation to other types than int8 is not emulated")
    sorting = _Sorting(expert_idx, first, last)
    counts = sorting.counts()
    if drop_pad_mode == 1:
        check(
            0 < expert_capacity <= x.shape[0],
            operator,
            f"expert_capacity is within 1 and {x.shape[0]}, found {expert_capacity}",
        )
        check(first == 0 and last == expert_num, operator, "with drop_pad_mode 1 all experts are active")
        choices = sorting.padded(expert_capacity)
    else:
        rows = expert_idx.numel() if active_num <= 0 else min(active_num, expert_idx.numel())
        choices = sorting.rows(rows)
    taken = choices >= 0
    token = choices.clamp_min(0) // max(expert_idx.shape[1], 1)
    expanded = torch.where(taken[:, None], x[token], x.new_zeros(()))
    scales = torch.zeros(len(choices))
    if quant_mode >= 0:
        expert = expert_idx.flatten()[choices.clamp_min(0)] - first
        expanded, scales = _quantised(operator, expanded, expert, quant_mode, scale, offset)
        scales = scales * taken
    elif scale is not None:
        check(scale.shape == x.shape[:1], operator, f"scale has shape ({x.shape[0]},)")
        scales = torch.where(taken, scale[token], 0.0)
    if drop_pad_mode == 1:
        expanded = expanded.reshape(expert_num, expert_capacity, x.shape[1])
    by_choice = sorting.order if row_idx_type == 1 and drop_pad_mode == 0 else _places(choices, expert_idx.numel())
    if drop_pad_mode == 0 and row_idx_type == 0:
        by_choice = _places(sorting.rows(expert_idx.numel()), expert_idx.numel())
    if not expert_tokens_num_flag:
        tokens = torch.zeros((), dtype=torch.int64)
    elif expert_tokens_num_type == 2:
        pairs = torch.stack([torch.arange(first, last), counts], 1)[counts > 0]
        tokens = torch.cat([pairs, pairs.new_zeros(expert_num - len(pairs), 2)])
    else:
        tokens = counts if expert_tokens_num_type == 1 or drop_pad_mode == 1 else counts.cumsum(0)
    return expanded, by_choice.to(torch.int32), tokens, torch.zeros(()) if quant_mode == 0 else scales


@reference("npu_moe_init_routing_quant")
def init_routing_quant(
    x: Tensor,
    expert_idx: Tensor,
    *,
    scale: Tensor | None = None,
    offset: Tensor | None = None,
    active_num: int = 1024,
    expert_capacity: int = 0,
    expert_num: int = 256,
    drop_pad_mode: int = 0,
    expert_tokens_num_mode: int = 0,
    expert_tokens_before_capacity_flag: bool = False,
    quant_mode: int = 1,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Sort tokens as `init_routing_v2` does and quantise them to int8.

    Args:
        x: as there.
        expert_idx: as there.
        scale: see `_quantised`.
        offset: likewise.
        active_num: as there.
        expert_capacity: as there.
        expert_num: as there.
        drop_pad_mode: as there.
        expert_tokens_num_mode: tokens are not told (0), as running totals (1) or as counts (2).
        expert_tokens_before_capacity_flag: with `drop_pad_mode` 1: whether counts before dropping are told.
        quant_mode: static (0) or a scale a row (1).

    Returns:
        Rows (int8), the row of each choice, tokens, tokens before dropping (all int32), scales (float32).
    """
    check(quant_mode in (0, 1), "npu_moe_init_routing_quant", f"quant_mode is 0 or 1, found {quant_mode}")
    rows, places, counts, scales = init_routing_v2(
        x, expert_idx, scale=scale, offset=offset, active_num=active_num, expert_capacity=expert_capacity,
        expert_num=expert_num, drop_pad_mode=drop_pad_mode, expert_tokens_num_type=1, expert_tokens_num_flag=True,
        quant_mode=quant_mode,
    )  # fmt: skip
    counts = counts.to(torch.int32)
    nothing = counts.new_empty(0)
    told = (nothing, counts.cumsum(0).to(torch.int32), counts)[expert_tokens_num_mode if drop_pad_mode == 0 else 0]
    before = counts if drop_pad_mode == 1 and expert_tokens_before_capacity_flag else nothing.clone()
    return rows, places, told, before, scales if quant_mode == 1 else scales.new_empty(0)


class _Sorting:
    """Choices of experts in a range, sorted by expert and then by their own order."""

    def __init__(self, expert_idx: Tensor, first: int, last: int) -> None:
        flat = expert_idx.flatten().long()
        self.order = torch.where(flat < first, torch.iinfo(torch.int64).max, flat).argsort(stable=True)
        """Choices by expert; those of experts below the range come last."""
        self.experts = flat[self.order]
        self.number = int(((flat >= first) & (flat < last)).sum())
        """Choices within the range, with which the order begins."""
        self.first, self.last = first, last

    def counts(self) -> Tensor:
        """Return the choices of each expert in the range."""
        return (self.experts[: self.number] - self.first).bincount(minlength=self.last - self.first)

    def rows(self, number: int) -> Tensor:
        """Return the choice of each row, -1 for rows without one."""
        kept = self.order[: self.number][:number]
        return torch.cat([kept, kept.new_full((number - len(kept),), -1)])

    def padded(self, capacity: int) -> Tensor:
        """Return the choice of each row with `capacity` rows an expert, -1 for rows without one."""
        counts = self.counts()
        experts = self.experts[: self.number] - self.first
        nth = torch.arange(self.number) - (counts.cumsum(0) - counts)[experts]
        kept = nth < capacity
        rows = torch.full((len(counts) * capacity,), -1, dtype=torch.int64)
        rows[experts[kept] * capacity + nth[kept]] = self.order[: self.number][kept]
        return rows


def _places(choices: Tensor, number: int) -> Tensor:
    """Return the row of each of `number` choices, -1 for those without one."""
    places = torch.full((number,), -1, dtype=torch.int64)
    taken = choices >= 0
    places[choices[taken]] = torch.arange(len(choices))[taken]
    return places


def _quantised(
    operator: str, rows: Tensor, experts: Tensor, mode: int, scale: Tensor | None, offset: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Quantise rows to int8; returns them and their scales.

    Mode 0 rounds `row * scale + offset` in float16, of one number each. Mode 1 divides a row, multiplied by a scale for
    all `[1, hidden]` or for each expert `[experts, hidden]`, by its scale: a 127th of its largest absolute value.
    """
    if mode == 0:
        check(scale is not None and offset is not None, operator, "static quantisation needs scale and offset")
        assert scale is not None and offset is not None
        scaled = rows.half() * scale.half().flatten()[0] + offset.half().flatten()[0]
        return scaled.round().clamp(-128, 127).to(torch.int8), rows.new_zeros(len(rows), dtype=torch.float32)
    values = rows.float()
    if scale is not None and values.numel() > 0:
        values = values * (scale if scale.shape[0] == 1 else scale[experts])
    scales = values.abs().amax(-1) / 127 if values.numel() > 0 else values.new_zeros(len(values))
    quantised = torch.where(scales[:, None] > 0, values / scales[:, None], 0.0)
    return quantised.round().to(torch.int8), scales


@reference("npu_moe_finalize_routing")
def finalize_routing(
    rows: Tensor,
    skip1: Tensor | None,
    skip2: Tensor | None,
    bias: Tensor | None,
    scales: Tensor | None,
    row_of_choice: Tensor,
    experts: Tensor | None,
    drop_pad_mode: int = 0,
    k: int = 1,
) -> Tensor:
    """Add the experts' results for each token up: `skip1 + skip2 + sum(scale * (row + bias of its expert))`.

    Args:
        rows: `[tokens * k, hidden]`, or `[experts, capacity, hidden]` if `drop_pad_mode` is 1 or 3.
        skip1: `[tokens, hidden]`.
        skip2: likewise; not without skip1.
        bias: `[experts, hidden]`.
        scales: `[tokens, k]`; 1 by default.
        row_of_choice: int32 `[k * tokens]`, -1 for a dropped one: all tokens' first choices first if `drop_pad_mode` is
            0 or 1, all choices of the first token first if it is 2 or 3.
        experts: int32 `[tokens, k]`; needed for a bias.
        drop_pad_mode: see above.
        k: choices of a token where there are no scales.
    """
    operator = "npu_moe_finalize_routing"
    check(drop_pad_mode in (0, 1, 2, 3), operator, f"drop_pad_mode is 0 to 3, found {drop_pad_mode}")
    check_types(operator, (rows.dtype,), skip1=skip1, skip2=skip2, bias=bias)
    check(
        rows.dim() == 2 + drop_pad_mode % 2,
        operator,
        f"rows have {2 + drop_pad_mode % 2} dimensions, found {rows.dim()}",
    )
    check(skip2 is None or skip1 is not None, operator, "skip2 needs skip1")
    check(bias is None or experts is not None, operator, "bias needs expert_for_source_row")
    check(row_of_choice.dim() == 1 and row_of_choice.dtype == torch.int32, operator, "expanded_src_to_dst_row is int32")
    tokens = row_of_choice.numel() // k if scales is None else scales.shape[0]
    flat = rows.reshape(-1, rows.shape[-1]).float()
    order = row_of_choice.reshape(-1, tokens).mT if drop_pad_mode < 2 else row_of_choice.reshape(tokens, -1)
    for name, given in (("skip1", skip1), ("skip2", skip2)):
        shape = (tokens, rows.shape[-1])
        check(given is None or tuple(given.shape) == shape, operator, f"{name} has shape {shape}")
    dropped = order < 0
    parts = flat[order.long().clamp_min(0)].masked_fill(dropped[..., None], 0)
    if bias is not None and experts is not None:
        parts = parts + bias.float()[experts.reshape(order.shape).long()]
    if scales is not None:
        parts = parts * scales.float()[..., None]
    total = parts.sum(1)
    for given in (skip1, skip2):
        total = total if given is None else total + given.float()
    return total.to(rows.dtype)


@reference("npu_moe_re_routing")
def re_routing(
    tokens: Tensor,
    counts: Tensor,
    *,
    per_token_scales: Tensor | None = None,
    expert_token_num_type: int = 1,
    idx_type: int = 0,
    tokens_dtype: int | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Sort tokens that came from several ranks, each sorted by expert, by expert.

    Args:
        tokens: `[tokens, hidden]`.
        counts: `[ranks, experts]`, tokens of each rank for each expert.
        per_token_scales: float32 `[tokens]`, sorted likewise.
        expert_token_num_type: 1, counts.
        idx_type: 0, each row's place before.
        tokens_dtype: of types that torch has not: not emulated.

    Returns:
        Sorted tokens, sorted scales, places (int32), and counts of each expert.
    """
    operator = "npu_moe_re_routing"
    if tokens_dtype is not None:
        raise NotImplementedError(f"{operator}: tokens_dtype is not emulated")
    check(tokens.dim() == 2 and counts.dim() == 2, operator, "tokens and expert_token_num_per_rank have 2 dimensions")
    check(
        tokens.dtype in (torch.float16, torch.bfloat16, torch.int8),
        operator,
        f"tokens of {tokens.dtype} are not supported",
    )
    check(counts.dtype in (torch.int32, torch.int64), operator, "expert_token_num_per_rank is int32 or int64")
    check(expert_token_num_type == 1, operator, f"expert_token_num_type is 1, found {expert_token_num_type}")
    check(idx_type == 0, operator, f"idx_type is 0, found {idx_type}")
    ranks, experts = counts.shape
    expert = torch.arange(experts).repeat(ranks).repeat_interleave(counts.flatten().long())[: len(tokens)]
    behind = expert.new_full((len(tokens) - len(expert),), experts)  # tokens that no expert has counted
    order = torch.cat([expert, behind]).argsort(stable=True)
    scales = torch.zeros(len(tokens)) if per_token_scales is None else per_token_scales[order]
    return tokens[order], scales, order.to(torch.int32), counts.sum(0).to(counts.dtype)


@reference("npu_moe_update_expert")
def update_expert(
    expert_ids: Tensor,
    eplb_table: Tensor,
    *,
    expert_scales: Tensor | None = None,
    pruning_threshold: Tensor | None = None,
    active_mask: Tensor | None = None,
    local_rank_id: int = -1,
    world_size: int = -1,
    balance_mode: int = 0,
) -> tuple[Tensor, Tensor]:
    """Map logical experts to their copies, and leave out experts of small weight.

    Args:
        expert_ids: int32 or int64 `[tokens, k]`.
        eplb_table: int32 `[logical experts, 1 + copies]`: how many copies, then which.
        expert_scales: `[tokens, k]`; an expert counts if its weight is not below threshold times the token's sum.
        pruning_threshold: float32 `[k]` or `[1, k]`; comes together with expert_scales.
        active_mask: bool `[tokens]`; needs both.
        local_rank_id: of this rank, which selects the copy if `balance_mode` is 0.
        world_size: number of ranks.
        balance_mode: 1 selects the copy by the token's place.

    Returns:
        Copies `[tokens, k]` in the type of expert_ids, and bool `[tokens, k]` whether each counts.
    """
    operator = "npu_moe_update_expert"
    check(expert_ids.dtype in (torch.int32, torch.int64), operator, "expert_ids are int32 or int64")
    check(eplb_table.dtype == torch.int32 and eplb_table.dim() == 2, operator, "eplb_table is int32 of 2 dimensions")
    check(balance_mode in (0, 1), operator, f"balance_mode is 0 or 1, found {balance_mode}")
    check(
        (expert_scales is None) == (pruning_threshold is None),
        operator,
        "expert_scales and pruning_threshold come together",
    )
    check(active_mask is None or expert_scales is not None, operator, "active_mask needs expert_scales")
    table = eplb_table[expert_ids.long()].long()
    copies = table[..., 0]
    if balance_mode == 0:
        check(0 <= local_rank_id < world_size, operator, f"local_rank_id is within world_size, found {local_rank_id}")
        place = local_rank_id // (-(-world_size // copies))
    else:
        place = torch.arange(len(expert_ids))[:, None] % copies
    chosen = table.gather(-1, place[..., None] + 1)[..., 0].to(expert_ids.dtype)
    mask = torch.ones_like(expert_ids, dtype=torch.bool)
    if expert_scales is not None and pruning_threshold is not None:
        scales = expert_scales.float()
        mask = scales >= scales.sum(-1, keepdim=True) * pruning_threshold.reshape(1, -1)
        mask = mask if active_mask is None else mask & active_mask[:, None]
    return chosen, mask


@reference("npu_moe_compute_expert_tokens")
def compute_expert_tokens(sorted_experts: Tensor, num_expert: int) -> Tensor:
    """Return the end of each expert's rows, int32; experts outside of the range have none."""
    operator = "npu_moe_compute_expert_tokens"
    check(
        sorted_experts.dim() == 1 and sorted_experts.dtype == torch.int32,
        operator,
        "sorted_expert_for_source_row is int32 of 1 dimension",
    )
    check(0 < num_expert <= 2048, operator, f"num_expert is within 1 and 2048, found {num_expert}")
    check(bool((sorted_experts.diff() >= 0).all()), operator, "sorted_expert_for_source_row does not decrease")
    return torch.searchsorted(sorted_experts, torch.arange(num_expert, dtype=torch.int32), right=True).to(torch.int32)


def _choices(indices: Tensor) -> int:
    return indices.shape[1] if indices.dim() == 2 else 1


def _sums(permuted: Tensor, rows: Tensor, k: int, probs: Tensor | None = None) -> Tensor:
    """Sum `k` rows per token in float32."""
    apart = _taken(permuted, rows, k)
    return (apart if probs is None else apart * probs.float()[..., None]).sum(1)


def _taken(permuted: Tensor, rows: Tensor, k: int) -> Tensor:
    """Take `k` rows per token in float32; row indices beyond the end belong to dropped rows, which are 0."""
    kept = rows < permuted.shape[0]
    taken = permuted[rows.long().clamp_max(max(permuted.shape[0] - 1, 0))].float()
    return taken.mul_(kept[:, None]).unflatten(0, (-1, k))
