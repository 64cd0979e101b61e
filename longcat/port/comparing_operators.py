"""The first operator of two runs whose results differ: two records, aligned, and compared in order."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_SAME_AS = {
    "addmm": "product", "mm": "product", "matmul": "product", "linear": "product", "bmm": "product", "baddbmm": "product",
    "_scaled_dot_product_flash_attention_for_cpu": "attention", "_scaled_dot_product_attention_math": "attention",
    "_scaled_dot_product_fused_attention_overrideable": "attention", "npu_fusion_attention": "attention",
    "native_batch_norm": "batch_norm", "_native_batch_norm_legit": "batch_norm", "cudnn_batch_norm": "batch_norm",
    "native_layer_norm": "layer_norm", "layer_norm": "layer_norm", "_log_softmax": "log_softmax", "_softmax": "softmax",
    "silu": "silu", "npu_silu": "silu", "gelu": "gelu", "npu_gelu": "gelu", "convolution": "convolution", "convolution_overrideable": "convolution",
}  # fmt: skip
"""Operators that compute the same under other names on the two devices."""
_AHEAD = 48
"""Operators that one record may have and the other not, at a time."""
_EPSILONS = {"float32": 2e-5, "float64": 2e-5, "bfloat16": 0.03, "float16": 0.01}
_LEAST = 1e-5


def first_difference(
    before: Mapping[int, list[dict[str, Any]]], after: Mapping[int, list[dict[str, Any]]], allowed: float, half: bool
) -> dict[str, Any] | None:
    """Return the first operator whose results differ by more than its type explains, or None.

    Args:
        before: the original's rows by rank.
        after: the rewrite's.
        allowed: relative difference of losses that is allowed.
        half: whether some of it was computed in half precision, whose rounding is then part of all results.

    Returns:
        `name` in the rewrite and in the original, `rank`, `number` (of the operator), `difference` and `said`, a sentence.
    """
    for rank in sorted(before.keys() & after.keys()):
        one, other = (
            [row for row in rows[rank] if row["kind"] == "operator" and row["results"]] for rows in (before, after)
        )
        place = second = 0
        while place < len(one) and second < len(other):
            step = _next_pair(one, other, place, second)
            if step is None:
                break
            place, second = step
            worst = _apart(one[place]["results"], other[second]["results"], allowed if half else 0.0)
            if worst is not None:
                return _described(one[place], other[second], rank, second, worst)
            place, second = place + 1, second + 1
    return None


def _next_pair(
    one: list[dict[str, Any]], other: list[dict[str, Any]], place: int, second: int
) -> tuple[int, int] | None:
    """Return the nearest two operators, from these on, that compute the same."""
    for ahead in range(2 * _AHEAD):
        for first in range(max(0, ahead - _AHEAD), min(ahead, _AHEAD) + 1):
            a, b = place + first, second + ahead - first
            if a < len(one) and b < len(other) and _key(one[a]) == _key(other[b]):
                return a, b
    return None


def _key(row: dict[str, Any]) -> tuple[Any, ...]:
    base = row["name"].partition("::")[2].partition(".")[0] or row["name"].partition(".")[0]
    return _SAME_AS.get(base, base), tuple(row["results"][0][0])


def _apart(one: list[Any], other: list[Any], half: float) -> float | None:
    """Return by how much the first results differ, if that is more than their type explains."""
    shape, dtype, total, size = one[0]
    _, second_dtype, second_total, second_size = other[0]
    if (size is None) != (second_size is None):
        return float("inf")
    if size is None or second_size is None or "float" not in dtype:
        return None if size is None or size == second_size else abs(size - second_size) / max(abs(size), 1.0)
    allowed = max(_EPSILONS.get(dtype, _LEAST), _EPSILONS.get(second_dtype, _LEAST), half)
    scale = max(size, second_size)
    apart = max(abs(size - second_size), abs((total or 0.0) - (second_total or 0.0))) / max(scale, 1e-6)
    return apart if apart > allowed and shape is not None else None


def _described(one: dict[str, Any], other: dict[str, Any], rank: int, number: int, worst: float) -> dict[str, Any]:
    names = other["name"] if other["name"] == one["name"] else f"{other['name']} ({one['name']} on the CPU)"
    said = f"{names}, number {number + 1} of rank {rank}, results of shape {other['results'][0][0]} by {worst:.1e}"
    return {
        "name": other["name"],
        "original_name": one["name"],
        "rank": rank,
        "number": number + 1,
        "difference": worst,
        "said": said,
    }
