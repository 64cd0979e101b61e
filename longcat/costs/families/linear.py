"""Families with linear attention and state spaces, and hybrids of them with attention."""

from __future__ import annotations

from longcat.costs.families import (
    delta_rule,
    elementwise,
    glm_next,
    lightning,
    mamba,
    nemotron,
    short_convolution,
    zamba,
)
from longcat.costs.families.fields import Family

FAMILIES: dict[str, Family] = (
    delta_rule.FAMILIES
    | glm_next.FAMILIES
    | lightning.FAMILIES
    | mamba.FAMILIES
    | nemotron.FAMILIES
    | zamba.FAMILIES
    | elementwise.FAMILIES
    | short_convolution.FAMILIES
)
