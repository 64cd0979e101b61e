"""The fields of a config.json, checked as they are read, with transformers' defaults for missing ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from reprlib import Repr
from typing import Any

from longcat.costs.workload import Workload
from longcat.errors import ConfigError

_MOST = 10**12
_DEEPEST = 10**5
EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
Defaults = Mapping[str, int]
"""Defaults of transformers for missing fields, where they are more than "none" or "as another field".

Width, depth, heads and vocabulary have to be there: a file without them is of something else.
"""


def complete(defaults: Defaults, values: Mapping[str, Any]) -> dict[str, Any]:
    """Fill in the defaults of transformers for missing fields. An explicit null stays None."""
    counted = any(name in values for name in EXPERTS)  # under whichever name
    return {name: value for name, value in defaults.items() if not (counted and name in EXPERTS)} | dict(values)


class _Short(Repr):
    """Values cut short; of a huge number only that it is one, as Python refuses to print it."""

    def __init__(self) -> None:
        super().__init__()
        self.maxstring = 60

    def repr_int(self, x: int, level: int) -> str:
        return "a huge number" if x.bit_length() > 200 else repr(x)


def shown(value: object) -> str:
    """Return a value as a file has it, cut short: it may be anything."""
    return _Short().repr(value)


class Fields:
    """The fields of a config.json; a missing or impossible one raises ConfigError with its name."""

    def __init__(
        self, values: Mapping[str, Any], source: str, mtp: bool = False, names: Mapping[str, str] | None = None
    ) -> None:
        """Hold the fields of one file; `names` has the file's name of a field for ours, where they differ."""
        self.values, self.source, self.mtp, self.names = values, source, mtp, names or {}

    def find(self, name: str) -> tuple[str, Any]:
        """Return the file's name of a field and its value, None where it is missing or null."""
        theirs = self.names.get(name, name)
        return (name, self.values.get(name)) if self.values.get(theirs) is None else (theirs, self.values[theirs])

    def size(self, *names: str, default: int | None = None) -> int:
        """Return the first of these fields that is present, a whole number of at least 1; otherwise the default."""
        for name, value in map(self.find, names):
            if value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= _MOST:
                raise ConfigError(
                    f"{self.source}: {name} must be a whole number of at least 1 and at most {_MOST}, found {shown(value)}"
                )
            return value
        if default is None:
            known = dict.fromkeys(one for name in names for one in (self.names.get(name, name), name))
            raise ConfigError(f"{self.source}: no {' or '.join(known)}")
        return default

    def depth(self, name: str) -> int:
        """Return a number of layers that are gone through one by one, at most a hundred thousand."""
        layers = self.size(name)
        if layers > _DEEPEST:
            raise ConfigError(f"{self.source}: {name} must be at most {_DEEPEST}, found {layers}")
        return layers

    def flag(self, name: str, default: bool) -> bool:
        """Return a boolean field, or the default where it is missing; null is false, as Python has it."""
        name, value = self.find(name)
        if not isinstance(value, bool | None):
            raise ConfigError(f"{self.source}: {name} must be true or false, found {shown(value)}")
        return default if name not in self.values else bool(value)

    def count(self, name: str, default: int) -> int:
        """Return a whole number that may be 0."""
        value = self.find(name)[1]
        return 0 if value == 0 and not isinstance(value, bool) else self.size(name, default=default)

    def each(self, name: str, kind: type, length: int | None = None) -> list[Any] | None:
        """Return a list of values of one type, of this length; None where it is missing."""
        name, values = self.find(name)
        if values is None:
            return None
        if not isinstance(values, list) or not all(isinstance(value, kind) for value in values):
            raise ConfigError(f"{self.source}: {name} must be a list of {kind.__name__}, found {shown(values)}")
        if kind is int and any(abs(value) > _MOST for value in values):
            raise ConfigError(f"{self.source}: {name} has numbers above {_MOST}: {shown(values)}")
        if length is not None and len(values) != length:
            raise ConfigError(f"{self.source}: {name} has {len(values)} entries for {length} layers")
        return values

    def inner(self, name: str) -> Mapping[str, Any]:
        """Return an object field; an empty one where it is missing."""
        name, value = self.find(name)
        if not isinstance(value, Mapping | None):
            raise ConfigError(f"{self.source}: {name} must be an object, found {shown(value)}")
        return value or {}

    def divided(self, whole: int, parts: int, what: str, name: str = "num_attention_heads") -> int:
        """Divide a size by a number of heads that must divide it; `name` is the field that gives these."""
        if whole % parts:
            raise ConfigError(
                f"{self.source}: {self.names.get(name, name)}: {parts} heads do not divide {what} {whole}"
            )
        return whole // parts


@dataclass(frozen=True)
class Family:
    """How the config.json of one model type is read."""

    read: Callable[[Fields], Workload]
    architectures: tuple[str, ...] = ()
    """Names of its classes in `architectures`."""
    defaults: Defaults = field(default_factory=dict)
    names: Mapping[str, str] = field(default_factory=dict)
    """Its own names of fields, by the usual ones."""
    mtp: bool = False
    """Whether `num_nextn_predict_layers` can be counted."""
