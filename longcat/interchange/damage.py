"""How a safetensors file that cannot be opened is damaged, by its header."""

from __future__ import annotations

from pathlib import Path

from longcat.unpacking import parse_json

_LARGEST_HEADER = 100_000_000
"""Bytes of a header that the format allows."""
_POINTER = b"version https://git-lfs"


def damage_of(path: Path, error: Exception) -> str:
    """Say what is wrong with a safetensors file that cannot be opened.

    The format: eight bytes with the length of the header, the header in JSON with `data_offsets` of each tensor, the tensors.

    Args:
        path: the file.
        error: that opening it has raised; part of the answer where the file's size does not explain it.
    """
    size = path.stat().st_size
    with path.open("rb") as stream:
        begin = stream.read(8)
        if begin + stream.read(len(_POINTER) - 8) == _POINTER:
            return (
                f"{path.name} is a pointer of Git LFS ({size:,} bytes), not the weights; fetch them with git lfs pull"
            )
        if len(begin) < 8:
            return f"{path.name} is cut off: it has {size:,} bytes and not even the length of its header"
        length = int.from_bytes(begin, "little")
        if length > _LARGEST_HEADER:
            return f"{path.name} is damaged or no safetensors file: its header would have {length:,} bytes"
        if 8 + length > size:
            return f"{path.name} is cut off: it has {size:,} bytes, its header alone should end at {8 + length:,}"
        stream.seek(8)
        ends = _ends(stream.read(length))
    if ends is None:
        return f"{path.name} is damaged: its header cannot be read ({error})"
    expected = 8 + length + max(ends, default=0)
    if size < expected:
        return f"{path.name} is cut off: it has {size:,} bytes, by its header it should have {expected:,}"
    if size > expected:
        return f"{path.name} is damaged: it has {size:,} bytes, by its header it should have {expected:,}"
    return f"{path.name} is damaged: its header makes no sense ({error})"


def _ends(header: bytes) -> list[int] | None:
    """Return where each tensor ends behind the header, in bytes; None for a header that is no table of tensors."""
    try:
        tensors = {name: value for name, value in parse_json(header).items() if name != "__metadata__"}
        return [int(tensor["data_offsets"][1]) for tensor in tensors.values()]
    except (ValueError, TypeError, KeyError, IndexError, AttributeError):
        return None
