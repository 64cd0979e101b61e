"""What every section of the configuration is: a frozen model whose fields describe themselves."""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict

RUNTIME = "runtime"
"""Field marker: has no influence on the bytes of an artifact, so it is left out of `identity`."""


@dataclass(frozen=True)
class Formerly:
    """Field marker: an earlier name of the field, which is refused with a hint at the present one."""

    name: str
    """A name in the same section, or a dotted key from the root if the field was in another one."""


def each_once(names: list[str]) -> list[str]:
    """Return names, each of which comes once; for a field's validator.

    Raises:
        ValueError: one comes again.
    """
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"{', '.join(repeated)} more than once")
    return names


class Section(BaseModel):
    """A part of the configuration; unknown keys are refused, and the line below a field describes it."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False, protected_namespaces=()
    )
