"""Checkpoints of other programs: Hugging Face folders, read and written a tensor at a time."""

from longcat.interchange.folder import load_huggingface, save_huggingface

__all__ = ["load_huggingface", "save_huggingface"]
