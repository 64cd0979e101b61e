"""The LongCat model."""

from longcat.model.huggingface import load_huggingface
from longcat.model.transformer import LongcatModel

__all__ = ["LongcatModel", "load_huggingface"]
