"""Dockerfiles: what they copy is there, what they install is what the project pins, and nobody runs as root."""

import re
import subprocess
import tomllib

import pytest

from longcat.doctor import TORCH
from longcat.doctor.versions import published
from longcat.provenance import ROOT

FOLDER = ROOT / "deploy" / "docker"
FILES = ("Dockerfile", "Dockerfile.ascend")
KNOWN = {"ARG", "FROM", "WORKDIR", "COPY", "RUN", "ENV", "USER", "VOLUME", "ENTRYPOINT", "CMD"}


def instructions(name):
    """Instructions of a Dockerfile with their arguments; none of ours goes over several lines."""
    lines = (FOLDER / name).read_text().splitlines()
    return [tuple(line.split(maxsplit=1)) for line in lines if line and not line.startswith("#")]


def copied(name):
    return [
        source
        for instruction, text in instructions(name)
        if instruction == "COPY" and "--from" not in text
        for source in text.split()[:-1]
    ]


@pytest.mark.parametrize("name", FILES)
def test_what_is_copied_is_there_and_not_ignored(name):
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert set(copied(name)) == allowed
    for source in copied(name):
        assert (ROOT / source).exists()
        subprocess.run(["git", "ls-files", "--error-unmatch", source], cwd=ROOT, check=True, capture_output=True)


@pytest.mark.parametrize("name", FILES)
def test_versions_and_extras_are_those_of_the_project(name):
    text = (FOLDER / name).read_text()
    assert f" {TORCH}\n" in text and f"\n{TORCH}\n" in (ROOT / "constraints.txt").read_text()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (extras,) = re.findall(r"^ARG EXTRAS=(\S+)$", text, re.MULTILINE)
    assert set(extras.split(",")) <= set(project["optional-dependencies"])
    (python,) = re.findall(r"^ARG PYTHON=3\.(\d+)$", text, re.MULTILINE)
    assert int(python) >= int(project["requires-python"].removeprefix(">=3."))


def test_the_base_image_has_the_cann_that_torch_npu_was_published_for():
    text = (FOLDER / "Dockerfile.ascend").read_text()
    (cann,) = re.findall(r"^ARG CANN=(\S+)$", text, re.MULTILINE)
    version = TORCH.partition("==")[2]
    assert cann in {row.cann for row in published() if row.torch == version}


@pytest.mark.parametrize("name", FILES)
def test_it_is_well_formed_and_nobody_runs_as_root(name):
    found = instructions(name)
    assert {instruction for instruction, _ in found} <= KNOWN
    before = [instruction for instruction, _ in found[: [one for one, _ in found].index("FROM")]]
    assert set(before) <= {"ARG"}
    names = [one for one, _ in found]
    assert "USER" in names and names.index("USER") > max(i for i, one in enumerate(names) if one == "RUN")
    declared = {text.partition("=")[0] for one, text in found if one == "ARG"}
    used = set(re.findall(r"\$\{(\w+)\}", (FOLDER / name).read_text()))
    assert used - {"LD_LIBRARY_PATH"} == declared
    for one, text in found:
        if one == "RUN":
            subprocess.run(["bash", "-n", "-c", text], check=True)
