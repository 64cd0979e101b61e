"""What a wheel holds: an installed longcat finds its tables, evaluation sets and recipes, and takes no other name."""

import subprocess
import sys
import zipfile

import pytest

from longcat.provenance import DATA, ROOT


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """Names of the files in the wheel that this checkout makes."""
    folder = tmp_path_factory.mktemp("wheel")
    files = ["pyproject.toml", "README.md", "LICENSE", "longcat", "flows", "tasks", "data"]
    source = folder / "source"
    source.mkdir()
    for name in files:  # a build leaves folders behind
        subprocess.run(["cp", "-R", "--no-dereference", str(ROOT / name), str(source)], check=True)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir"]
    subprocess.run([*command, str(folder), str(source)], check=True, timeout=300)
    [wheel] = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


@pytest.mark.parametrize("folder", ["data", "flows", "tasks"])
def test_a_folder_of_the_checkout_is_installed_inside_longcat(installed, folder):
    there = {
        f"longcat/{path.relative_to(ROOT).as_posix()}"
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert there and there <= installed


def test_nothing_is_installed_beside_longcat(installed):
    assert {name.partition("/")[0] for name in installed if ".dist-info" not in name} == {"longcat"}


def test_data_is_found_where_the_package_is():
    assert (DATA / "reference/hardware.csv").is_file() and DATA.resolve() == ROOT / "data"
