"""A checkout and a shell for the commands of the pages."""

import shutil

import pytest

from tests.docs.commands import ROOT
from tests.docs.shell import Shell

PARTS = (
    "longcat",
    "flows",
    "tasks",
    "data",
    "tests",
    "benchmarks",
    "deploy",
    "pyproject.toml",
    "prefect.yaml",
    "Makefile",
)


@pytest.fixture(scope="module")
def shell(tmp_path_factory):
    """A shell in a copy of the checkout: what is made, and what is changed in the code, stays there."""
    checkout = tmp_path_factory.mktemp("reader") / "longcat"
    checkout.mkdir()
    for part in PARTS:
        if (ROOT / part).is_dir():
            shutil.copytree(ROOT / part, checkout / part, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / part, checkout / part)
    with Shell(checkout) as shell:
        yield shell
