"""Families with linear attention and state spaces, and hybrids of them with attention."""

from __future__ import annotations

from longcat.costs.families import delta_rule, lightning, mamba, nemotron
from longcat.costs.families.fields import Family

FAMILIES: dict[str, Family] = delta_rule.FAMILIES | lightning.FAMILIES | mamba.FAMILIES | nemotron.FAMILIES
