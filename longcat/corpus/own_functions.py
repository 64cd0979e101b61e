"""Functions of the user's own that judge or make documents, by a registered name or as `package.module:function`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from longcat.best_effort import reason
from longcat.errors import ConfigError
from longcat.extensions import Extension, find


@dataclass(frozen=True)
class OwnFunction:
    """A function, in most places one from a document's text to a value."""

    name: str
    """As the configuration names it."""
    field: str
    """The configuration field that names it, with the sign that the name follows, for messages."""
    function: Callable[..., Any]
    extension: Extension

    @classmethod
    def load(cls, name: str, field: str, group: str = "") -> OwnFunction:
        """Import a function by name.

        Args:
            name: `package.module:function`, or the name of an entry point.
            field: the configuration field that names it, with the sign that the name follows.
            group: of its entry point.

        Raises:
            ConfigError: it is not there, cannot be imported or is no function.
        """
        extension = find(group, name, field)
        if extension is None:
            raise ConfigError(
                f"{field}{name}: no distribution registers it in {group}; or name it package.module:function"
            )
        function: Any = extension.load(field, object)
        if not callable(function):
            raise ConfigError(f"{field}{extension.described} is no function")
        return cls(name, field, function, extension)

    def __call__(self, *arguments: Any, **settings: Any) -> Any:
        """Ask the function.

        Raises:
            ConfigError: the function raised something.
        """
        try:
            return self.function(*arguments, **settings)
        except (Exception, SystemExit) as error:  # other people's code
            raise self.failed(reason(error)) from error

    def texts(self, **settings: Any) -> Iterator[Any]:
        """Ask the function, and yield what it yields.

        Raises:
            ConfigError: the function raised something, or returned what is no sequence of texts.
        """
        made = self(**settings)
        if not isinstance(made, Iterable) or isinstance(made, str | bytes):
            raise self.failed(f"it returned {made!r:.100}; expected texts, one after another, as `yield` makes them")
        try:
            yield from made
        except (Exception, SystemExit) as error:  # other people's code
            raise self.failed(reason(error)) from error

    def failed(self, why: str) -> ConfigError:
        """Make the error of a function that does not do what is asked of it."""
        return ConfigError(f"{self.field}{self.extension.described} failed: {why}")

    @property
    def identity(self) -> dict[str, str]:
        """Return what its results depend on, see `Extension.identity`."""
        return self.extension.identity
