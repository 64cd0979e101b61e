"""Checkpoints of other programs: Hugging Face folders, read and written a tensor at a time.

Importing this package loads no torch; `load_huggingface` and `save_huggingface` do when they are asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from longcat.interchange.folder import load_huggingface, save_huggingface

__all__ = ["load_huggingface", "save_huggingface"]


def __getattr__(name: str) -> Any:
    """Load the functions that need torch on first use."""
    if name in __all__:
        from longcat.interchange import folder

        return getattr(folder, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
