"""The part of the configuration that can change bytes: what artifacts are addressed by."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from longcat.config.section import RUNTIME


def identity(section: BaseModel) -> dict[str, Any]:
    """The part of a configuration section that can change bytes, as plain JSON values.

    Raises:
        TypeError: a field holds something that has no canonical JSON form; falling back to `repr` would let such a
            value fork digests silently.
    """
    return {
        name: _canonical(getattr(section, name), name)
        for name, field in type(section).model_fields.items()
        if RUNTIME not in field.metadata
    }


def _canonical(value: Any, where: str) -> Any:
    if isinstance(value, BaseModel):
        return identity(value)
    if isinstance(value, list):
        return [_canonical(item, where) for item in value]
    if value is None or isinstance(value, str | bool | int | float):
        return value
    raise TypeError(f"{where}: a {type(value).__name__} cannot be part of an identity")
