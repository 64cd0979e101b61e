"""The distribution that longcat is installed as, and the command that installs what is missing of it."""

from __future__ import annotations

import sys
import tomllib
from importlib import metadata
from pathlib import Path
from shlex import quote

NAME = "longcat-ascend"
"""What pip calls it; the package `longcat` of the Python Package Index is somebody else's."""
_ROOT = Path(__file__).resolve().parents[1]
_PROJECT = _ROOT / "pyproject.toml"


def is_checkout() -> bool:
    """Return whether this code runs from a checkout; else it was installed from a wheel."""
    return _PROJECT.is_file()


def install_command(extra: str | None = None) -> str:
    """Return the command that installs longcat with all that it needs, in the way in which it was installed here.

    Args:
        extra: an optional part of it, a name of `[project.optional-dependencies]`.
    """
    if not is_checkout():
        return f"pip install '{NAME}[{extra}]'" if extra else f"pip install {NAME}"
    if extra == "emulator":  # has an environment of its own
        return "make emulator"
    if Path(sys.prefix) == _ROOT / ".venv":
        return f"make setup EXTRAS=dev,{extra}" if extra else "make setup"
    return f"pip install -e {quote(f'{_ROOT}[{extra}]' if extra else str(_ROOT))}"


def requirements() -> list[str]:
    """Return what longcat needs, those of its extras with a marker, in the form of `Requires-Dist`."""
    if not is_checkout():
        return metadata.requires(NAME) or []
    project = tomllib.loads(_PROJECT.read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"].items()
    return [*project["dependencies"], *(f"{one}; extra == '{extra}'" for extra, needs in extras for one in needs)]
