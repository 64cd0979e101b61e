"""Things of the user's own, found from outside: entry points of installed distributions, and `package.module:name`.

A distribution registers a name in a group; settings then use the name as they use a built-in one. Nothing is imported before
it is used, so a distribution that is broken is only in the way of what asks for it.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import pkgutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import TypeVar

from longcat.errors import ConfigError
from longcat.provenance import hashes_of_others

STAGES = "longcat.stages"
"""Stages of the pipeline: `longcat.flows.dag.Stage`, by the stage's own name."""
SOURCES = "longcat.sources"
"""Sources of text: functions that yield strings, for `corpus.sources=[own:NAME]`."""
FORMATS = "longcat.formats"
"""File formats: `longcat.corpus.readers.Format`, by the suffix of their files without the dot."""
FILTERS = "longcat.filters"
"""Filters: functions from a text to whether it is kept, for `corpus.filters`."""
EVALUATIONS = "longcat.evaluations"
"""Evaluations: `longcat.evaluation.suites.Suite`, for `evaluation.suites`."""

_T = TypeVar("_T")


@dataclass(frozen=True)
class Extension:
    """An object of the user's own, not imported yet."""

    name: str
    """As settings name it."""
    place: str
    """`package.module:name`, where it is."""
    distribution: str = ""
    """Name and version of what registers it; empty for one that settings name by its place."""

    @property
    def described(self) -> str:
        """Name it for messages, with where it is and who registers it."""
        return f"{self.name} (entry point {self.place} of {self.distribution})" if self.distribution else self.name

    def load(self, field: str, kind: type[_T]) -> _T:
        """Import it.

        Args:
            field: what names it, for messages: a setting with the sign that its value follows.
            kind: its type.

        Raises:
            ConfigError: it cannot be imported, or is of another type; says whose it is.
        """
        if self.place.startswith("__main__:"):
            raise ConfigError(
                f"{field}{self.name}: what a script or a notebook defines is not there in worker processes; put it into a "
                "module of its own, beside the script"
            )
        try:
            found = pkgutil.resolve_name(self.place)
        except SyntaxError as error:
            where = f"{error.filename}:{error.lineno}"
            raise ConfigError(
                f"{field}{self.described} cannot be imported: {where}: broken Python ({error.msg})"
            ) from None
        except (Exception, SystemExit) as error:  # importing runs other people's code
            raise ConfigError(f"{field}{self.described} cannot be imported: {error}{self._where(error)}") from error
        if not isinstance(found, kind):
            wanted = f"{kind.__module__}.{kind.__name__}"
            raise ConfigError(f"{field}{self.described} is a {type(found).__name__}, not a {wanted}")
        return found

    def _where(self, error: BaseException) -> str:
        """Say where its module is looked for, if that is what was not found."""
        outermost = self.place.partition(":")[0].partition(".")[0]
        if not isinstance(error, ModuleNotFoundError) or error.name != outermost:
            return ""
        here = Path(f"{outermost}.py").is_file() or Path(outermost).is_dir()
        return f"; {'it is' if here else 'if it is'} in this folder, put PYTHONPATH=. before the command"

    @cached_property
    def identity(self) -> dict[str, str]:
        """Return what results that it makes depend on: its code, with all that this imports of its own package, and its version.

        It has to be importable.
        """
        modules = {self.place.partition(":")[0]}
        found = inspect.unwrap(pkgutil.resolve_name(self.place))
        for defined in (found, type(found)):  # an object that can be called is of some class
            modules.add(str(getattr(defined, "__module__", None) or "builtins"))
        hashes = hashes_of_others(*modules)
        code = {"code": hashlib.sha256(json.dumps(hashes, sort_keys=True).encode()).hexdigest()} if hashes else {}
        return code | ({"distribution": self.distribution} if self.distribution else {})


def registered(group: str) -> Mapping[str, Sequence[Extension]]:
    """Return what installed distributions register in a group, by name; mostly one each."""
    return _registered(group, tuple(sys.path))


@lru_cache(maxsize=64)
def _registered(group: str, _path: tuple[str, ...]) -> Mapping[str, Sequence[Extension]]:
    found: dict[str, dict[Extension, None]] = {}
    for point in entry_points(group=group):
        of = "" if point.dist is None else f"{point.dist.name} {point.dist.version}"
        found.setdefault(point.name, {})[Extension(point.name, point.value.split("[")[0].strip(), of)] = None
    return {name: tuple(sorted(found[name], key=lambda one: one.described)) for name in sorted(found)}


def find(group: str, name: str, field: str) -> Extension | None:
    """Find an extension by its registered name or by `package.module:name`; None if nobody registers the name.

    Args:
        group: one of the groups above.
        name: what the setting says.
        field: what names it, as for `Extension.load`.

    Raises:
        ConfigError: several distributions register the name.
    """
    if ":" in name:
        return Extension(name, name)
    known = registered(group).get(name, ())
    if len(known) > 1:
        raise ConfigError(
            f"{field}{name} is registered several times: {', '.join(f'{of.place} of {of.distribution}' for of in known)}; "
            "uninstall one, or name it as package.module:name"
        )
    return known[0] if known else None
