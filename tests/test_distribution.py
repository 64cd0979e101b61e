"""Under which name longcat is installed, and what is said where a part of it is missing."""

import re
import subprocess
import tomllib
from pathlib import Path

import pytest

from longcat import distribution
from longcat.provenance import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
STRANGERS = re.compile(r"""pip3? install (-\S+ )*['"]?longcat(?![-/\w])|(?<![-/\w.])longcat\\?\[[a-z]""")
"""`pip install longcat`, and `longcat[extra]` anywhere: that package of the index is somebody else's."""


def test_pip_knows_the_project_by_the_name_that_messages_say():
    assert PROJECT["name"] == distribution.NAME


@pytest.mark.parametrize("text", ["pip install longcat", "pip install 'longcat[npu]'", "`longcat[dask]`"])
def test_the_strangers_name_is_seen(text):
    assert STRANGERS.search(text)


@pytest.mark.parametrize("text", ["pip install longcat-ascend", "'longcat-ascend[npu]'", "cd longcat", "longcat ls"])
def test_ours_is_not_taken_for_it(text):
    assert not STRANGERS.search(text)


def test_no_file_tells_to_install_the_strangers_package():
    names = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    texts = {}
    for name in filter(None, names.split("\0")):
        path = ROOT / name
        if path.is_file() and path != Path(__file__).resolve():
            texts[name] = path.read_bytes().decode(errors="replace")
    assert "README.md" in texts
    assert [f"{name}: {found[0]}" for name, text in texts.items() if (found := STRANGERS.search(text))] == []


def test_the_command_fits_how_longcat_was_installed(tmp_path, monkeypatch):
    monkeypatch.setattr(distribution, "_ROOT", tmp_path)
    monkeypatch.setattr(distribution, "_PROJECT", tmp_path / "pyproject.toml")
    assert distribution.install_command("npu") == "pip install 'longcat-ascend[npu]'"
    assert distribution.install_command("emulator") == "pip install 'longcat-ascend[emulator]'"
    assert distribution.install_command() == "pip install longcat-ascend"
    (tmp_path / "pyproject.toml").touch()
    assert distribution.install_command("npu") == f"pip install -e '{tmp_path}[npu]'"
    assert distribution.install_command("emulator") == "make emulator"
    monkeypatch.setattr("sys.prefix", str(tmp_path / ".venv"))
    assert distribution.install_command("npu") == "make setup EXTRAS=dev,npu"
    assert distribution.install_command() == "make setup"


def test_requirements_are_those_of_the_project():
    found = distribution.requirements()
    assert set(PROJECT["dependencies"]) < set(found)
    assert "torch-npu==2.13.0; extra == 'npu'" in found


def test_every_extra_that_a_message_names_exists():
    calls = re.compile(r"install_command\(['\"]([a-z]+)['\"]\)")
    named = {name for path in (ROOT / "longcat").rglob("*.py") for name in calls.findall(path.read_text())}
    assert {"npu", "services", "health", "emulator"} <= named <= set(PROJECT["optional-dependencies"])
