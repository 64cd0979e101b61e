"""What every section of the configuration is: a frozen model whose fields describe themselves."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

RUNTIME = "runtime"
"""Field marker: has no influence on the bytes of an artifact, so it is left out of `identity`."""


class Section(BaseModel):
    """A part of the configuration; unknown keys are refused, and the line below a field describes it."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False, protected_namespaces=()
    )
