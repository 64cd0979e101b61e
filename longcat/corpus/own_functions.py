"""Functions of the user's own that judge documents, named as `package.module:function`."""

from __future__ import annotations

import inspect
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from longcat.errors import ConfigError


@dataclass(frozen=True)
class OwnFunction:
    """A function from a document's text to a value."""

    name: str
    """`package.module:function`."""
    field: str
    """The configuration field that names it, for messages."""
    function: Callable[[str], Any]

    @classmethod
    def load(cls, name: str, field: str) -> OwnFunction:
        """Import a function by name.

        Raises:
            ConfigError: the module cannot be imported, or has no such function.
        """
        try:
            function = pkgutil.resolve_name(name)
        except Exception as error:  # importing runs other people's code
            raise ConfigError(f"{field}={name} cannot be imported: {error}") from error
        if not callable(function):
            raise ConfigError(f"{field}={name} is no function")
        return cls(name, field, function)

    def __call__(self, text: str) -> Any:
        """Ask the function about a text.

        Raises:
            ConfigError: the function raised something.
        """
        try:
            return self.function(text)
        except Exception as error:  # other people's code
            raise self.failed(f"{type(error).__name__}: {error}") from error

    def failed(self, reason: str) -> ConfigError:
        """Make the error of a function that does not do what is asked of it."""
        return ConfigError(f"{self.field}={self.name} failed: {reason}")

    @property
    def source(self) -> Path | None:
        """The file that the function is defined in; None for one written in C."""
        function = inspect.unwrap(self.function)
        for defined in (function, type(function)):  # an object that can be called is of some class
            try:
                return Path(str(inspect.getsourcefile(defined)))
            except (TypeError, OSError):
                continue
        return None
