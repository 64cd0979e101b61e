"""The LongCat model.

Importing this package loads no torch; `LongcatModel` does when it is asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from longcat.model.transformer import LongcatModel

__all__ = ["LongcatModel"]


def __getattr__(name: str) -> Any:
    """Load the model class, which needs torch, on first use."""
    if name in __all__:
        from longcat.model.transformer import LongcatModel

        return LongcatModel
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
