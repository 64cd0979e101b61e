"""Families with linear attention and state spaces, and hybrids of them with attention."""

from __future__ import annotations

from longcat.costs.families import delta_rule, glm_next, griffin, lightning, mamba, nemotron, short_convolution, zamba
from longcat.costs.families.fields import Family

FAMILIES: dict[str, Family] = (
    delta_rule.FAMILIES
    | glm_next.FAMILIES
    | lightning.FAMILIES
    | mamba.FAMILIES
    | nemotron.FAMILIES
    | zamba.FAMILIES
    | griffin.FAMILIES
    | short_convolution.FAMILIES
)
