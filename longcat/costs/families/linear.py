"""Families with linear attention and state spaces, and hybrids of them with attention."""

from __future__ import annotations

from longcat.costs.families import delta_rule, lightning
from longcat.costs.families.fields import Family

FAMILIES: dict[str, Family] = delta_rule.FAMILIES | lightning.FAMILIES
