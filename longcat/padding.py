"""The values by which a batch marks what is not learnt and what is padding, the same for arrays and tensors."""

from __future__ import annotations

from typing import Any, TypeVar

IGNORE = -100
"""Target that is not learnt, as in torch's losses."""
PADDING = -1
"""Document number of a token that is padding."""

_Numbers = TypeVar("_Numbers", bound=Any)


def is_padding(documents: _Numbers) -> _Numbers:
    """Mark the padding in document numbers: bool, of the same shape and kind (numpy or torch)."""
    mask: _Numbers = documents == PADDING
    return mask
