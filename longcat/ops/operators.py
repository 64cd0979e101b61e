"""Every operator of the model, in one list. A new one is a file beside this one and a line below."""

from __future__ import annotations

from typing import Any

from longcat.ops.attention import causal_attention
from longcat.ops.gating import topk_gating
from longcat.ops.grouped_matmul import grouped_matmul
from longcat.ops.linear_cross_entropy import linear_cross_entropy
from longcat.ops.permute import combine, permute
from longcat.ops.registry import Operator
from longcat.ops.rms_norm import rms_norm
from longcat.ops.rotary import rotate
from longcat.ops.sparse_attention import select_keys, sparse_attention
from longcat.ops.swiglu import swiglu

_ALL: tuple[Operator[..., Any], ...] = (
    causal_attention,
    topk_gating,
    grouped_matmul,
    linear_cross_entropy,
    permute,
    combine,
    rms_norm,
    rotate,
    select_keys,
    sparse_attention,
    swiglu,
)
OPERATORS: dict[str, Operator[..., Any]] = {one.name: one for one in _ALL}
"""Every operator by its name in the configuration."""
