"""Services that a run can do without: what they fail at is told once and is never the run's own failure."""

from __future__ import annotations

import logging
import os
import textwrap
import threading

from longcat.errors import LongcatError
from longcat.redaction import redact

SERVERS = {"MLflow": "MLFLOW_TRACKING_URI", "Prefect": "PREFECT_API_URL"}
"""Variables of the environment by which a user names servers of their own."""

_LONG = 120


def own_servers() -> dict[str, str]:
    """Return the addresses of the pages of the user's own servers, without secrets."""
    addresses = {name: os.environ.get(variable, "") for name, variable in SERVERS.items()}
    return {
        name: redact(url).removesuffix("/").removesuffix("/api")
        for name, url in addresses.items()
        if url.startswith("http")
    }


class Service:
    """A server or store that may fail, hang or refuse at any time.

    Whoever calls it reports what came of the calls. The first failure is told in one warning, when it happens; further
    ones go to the log.
    """

    def __init__(self, name: str, address: str, consequence: str) -> None:
        """Describe the service.

        Args:
            name: for people, for example "MLflow".
            address: where it is; secrets in it are not shown.
            consequence: what its failure means for the run, as the second half of a sentence.
        """
        self.name, self.address, self.consequence = name, redact(address), consequence
        self.away = False
        """Whether the last call failed."""
        self.last_error: str | None = None
        """What the last failure was; None while there was none."""
        self._told = False
        self._guard = threading.Lock()

    def failed(self, error: BaseException | str, *, answered: bool = False) -> None:
        """Report that the service did not do what it was asked for.

        Args:
            error: what happened.
            answered: whether it has been reached, and answered with an error.
        """
        self.away = True
        self._tell(error, "answered with an error" if answered else "could not be reached")

    def refused(self, error: BaseException | str) -> None:
        """Report that the service is there and will never do what it was asked for."""
        self._tell(error, "refused a request")

    def answered(self) -> None:
        """Report that the service did what it was asked for."""
        self.away = False

    def _tell(self, error: BaseException | str, what: str) -> None:
        self.last_error = redact(error) if isinstance(error, str) else reason(error)
        with self._guard:
            first, self._told = not self._told, True
        logging.getLogger("longcat").log(
            logging.WARNING if first else logging.INFO,
            "%s at %s %s (%s); %s", self.name, self.address, what, self.last_error, self.consequence,
        )  # fmt: skip


def reason(error: BaseException) -> str:
    """Return an exception as one line of at most 300 characters, which ends with a whole word.

    Where it wraps an error of the system, as clients of HTTP do with many words, that one is told. One of longcat's own is a
    sentence, and needs no name.
    """
    lines = str(error).splitlines()
    if not lines:
        return type(error).__name__
    text, cause = lines[0], _cause(error)
    if len(text) > _LONG and cause is not None:
        text = cause
    named = "" if isinstance(error, LongcatError) else f"{type(error).__name__}: "
    return textwrap.shorten(f"{named}{redact(text)}", 300, placeholder=" …")


def _cause(error: BaseException) -> str | None:
    """Return what the error of the system says that an exception was raised because of, or that it holds; None without one."""
    seen, waiting = list[BaseException](), [error]
    while waiting:
        one = waiting.pop()
        if one not in seen:
            seen.append(one)
            inner = (one.__cause__ or one.__context__, *one.args)
            waiting += [each for each in inner if isinstance(each, BaseException)]
    found = [one.strerror or str(one) for one in seen if isinstance(one, OSError) and _says(one)]
    return found[-1] if found else None


def _says(error: OSError) -> bool:
    """Whether an error is the system's own, or like one; those of clients of HTTP are `OSError`s of many words."""
    return bool(error.strerror) or isinstance(error, ConnectionError)
