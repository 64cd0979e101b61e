"""Tags that say who started a run, with which command, and which code and packages it ran on."""

from __future__ import annotations

import contextlib
import getpass
import platform
import shlex
import sys
from importlib import metadata
from pathlib import Path

from longcat.provenance import git_commit, git_remote
from longcat.redaction import redact

_PACKAGES = ("torch", "torch_npu", "prefect", "mlflow", "datasets", "tokenizers", "transformers", "lm_eval")
_DIRTY = "-dirty"


def origin_tags() -> dict[str, str]:
    """Return the tags that MLflow's pages know: user, source, and the commit that it is of."""
    program, *arguments = sys.argv
    name = Path(program).name
    if ours := name in ("longcat", "cli.py"):
        name = " ".join(["longcat", *(one for one in arguments[:1] if not one.startswith("-"))])
    tags = {"mlflow.source.name": name, "mlflow.source.type": "LOCAL"}
    with contextlib.suppress(OSError, KeyError, ImportError):  # a user without a name, as in some containers
        tags["mlflow.user"] = getpass.getuser()
    if ours:
        tags["command"] = redact(shlex.join(["longcat", *arguments]))
    if commit := git_commit():
        tags["mlflow.source.git.commit"] = commit.removesuffix(_DIRTY)
        tags["git.dirty"] = str(commit.endswith(_DIRTY)).lower()
        if remote := git_remote():
            tags["mlflow.source.git.repoURL"] = remote
    return tags


def machine_tags() -> dict[str, str]:
    """Return the versions of Python, the platform and the packages that results depend on."""
    tags = {"python": platform.python_version(), "platform": platform.platform()}
    for package in _PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            tags[f"version.{package}"] = metadata.version(package)
    return tags
