"""The LongCat model."""

from longcat.model.transformer import LongcatModel

__all__ = ["LongcatModel"]
