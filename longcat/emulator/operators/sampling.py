"""Choice of the next token from logits."""

from __future__ import annotations

import torch
from torch import Tensor

from longcat.emulator.reference import reference


@reference("npu_top_k_top_p")
def top_k_top_p(logits: Tensor, p: Tensor | None = None, k: Tensor | None = None) -> Tensor:
    """Set logits to minus infinity that are not among the k best, or not within the probability p.

    Args:
        logits: `[batch, words]`.
        p: `[batch]`, of the type of the logits; None for all.
        k: int32 `[batch]`, 1 to 1024; None for all.
    """
    name = "npu_top_k_top_p"
    if logits.dim() != 2 or logits.dtype not in (torch.float32, torch.float16, torch.bfloat16):
        raise RuntimeError(f"{name}: logits must be float [batch, words], got {logits.dtype} of {list(logits.shape)}")
    if p is not None and (p.dtype != logits.dtype or p.shape != logits.shape[:1]):
        raise RuntimeError(f"{name}: p must be {logits.dtype} of [{logits.shape[0]}], got {p.dtype} of {list(p.shape)}")
    if k is not None and (k.dtype != torch.int32 or k.shape != logits.shape[:1]):
        raise RuntimeError(f"{name}: k must be int32 of [{logits.shape[0]}], got {k.dtype} of {list(k.shape)}")
    values, order = logits.sort(dim=-1, stable=True)
    if k is not None:
        least = values.gather(1, (logits.shape[1] - k.long().clamp(1, logits.shape[1])).unsqueeze(1))
        values = values.masked_fill(values < least, -torch.inf)
    if p is not None:
        sums = values.float().softmax(-1).cumsum(-1)
        hidden = sums <= 1 - p.float().unsqueeze(1)
        hidden[:, -1] = False
        values = values.masked_fill(hidden, -torch.inf)
    return torch.empty_like(values).scatter_(-1, order, values)


@reference("npu_top_k_top_p_sample")
def top_k_top_p_sample(
    logits: Tensor,
    top_k: Tensor,
    top_p: Tensor,
    q: Tensor | None = None,
    eps: float | None = 1e-8,
    is_need_logits: bool | None = False,
    top_k_guess: int | None = 32,
    min_ps: Tensor | None = None,
    ks_max: int | None = 1024,
    input_is_logits: bool | None = True,
    post_sample: str | None = "qSample",
    generator: torch.Generator | None = None,
) -> tuple[Tensor, Tensor]:
    """Choose a word of each row among the k best and within the probability p.

    Args:
        logits: `[batch, words]`, or probabilities.
        top_k: `[batch]`; a row whose number is not between 1 and `ks_max` keeps all words.
        top_p: `[batch]`; 1 and more keeps all words, 0 and less the best one.
        q: exponentially distributed numbers `[batch, words]` (`qSample`), or seeds and offsets (`multiNomial`). None
            chooses the best word.
        eps: added to `q`.
        is_need_logits: whether to return the logits that were kept.
        top_k_guess: not used.
        min_ps: `[batch]`, least probability relative to the best word's; 1 and more keeps the best one.
        ks_max: see above.
        input_is_logits: whether the first argument holds logits.
        post_sample: see `q`; `None` ignores it.
        generator: not used: seeds come with `q`.
    """
    name = "npu_top_k_top_p_sample"
    if post_sample not in ("qSample", "multiNomial", "None", None):
        raise RuntimeError(f"{name}: post_sample must be 'qSample', 'multiNomial' or 'None', got {post_sample!r}")
    if logits.dim() != 2 or top_k.shape != logits.shape[:1] or top_p.shape != logits.shape[:1]:
        raise RuntimeError(f"{name}: logits must be [batch, words], top_k and top_p [batch]")
    most = min(1024, ks_max or 1024)
    nothing = -torch.inf if input_is_logits else 0.0
    chosen = torch.zeros(logits.shape[0], dtype=torch.int64)
    kept_logits = torch.full(logits.shape, nothing)
    for row in range(logits.shape[0]):
        values, order = logits[row].float().sort(dim=-1, descending=True, stable=True)
        k, p = int(top_k[row]), float(top_p[row])
        if 1 <= k <= min(len(values), most):
            values, order = values[:k], order[:k]
        probabilities = values.softmax(-1) if input_is_logits else values
        if p < 1:
            count = int((probabilities.cumsum(-1) - probabilities < p).sum()) if p > 0 else 1
            probabilities, order = probabilities[: max(count, 1)], order[: max(count, 1)]
        if min_ps is not None and float(min_ps[row]) > 0:
            enough = probabilities >= probabilities[0] * min(float(min_ps[row]), 1.0)
            enough[1:] &= float(min_ps[row]) < 1
            probabilities, order = probabilities[enough], order[enough]
        kept_logits[row, order] = logits[row, order].float()
        best = 0
        if q is not None and post_sample == "qSample":
            best = int((probabilities / (q[row, : len(order)].abs() + (eps or 0.0))).argmax())
        elif q is not None and post_sample == "multiNomial":
            seed, offset = q[min(row, q.shape[0] - 1)].tolist()
            drawn = torch.Generator().manual_seed((seed * 0x9E3779B97F4A7C15 + offset) % 2**63)
            best = int(torch.multinomial(probabilities, 1, generator=drawn))
        chosen[row] = order[best]
    return chosen, kept_logits if is_need_logits else torch.empty(0)
