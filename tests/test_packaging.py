"""What a wheel holds: an installed longcat finds its tables, evaluation sets and recipes, and takes no other name."""

import json
import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

from longcat.provenance import DATA, ROOT

ELSEWHERE = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
"""The environment of somebody who has no checkout on the path: one there would count as installed."""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel that this checkout makes."""
    folder = tmp_path_factory.mktemp("wheel")
    files = ["pyproject.toml", "README.md", "LICENSE", "longcat", "flows", "tasks", "data"]
    source = folder / "source"
    source.mkdir()
    for name in files:  # a build leaves folders behind
        subprocess.run(["cp", "-R", "--no-dereference", str(ROOT / name), str(source)], check=True)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir"]
    subprocess.run([*command, str(folder), str(source)], check=True, timeout=300)
    [made] = folder.glob("longcat_ascend-*.whl")
    return made


@pytest.fixture(scope="module")
def installed(wheel):
    """Names of the files in the wheel."""
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


@pytest.fixture(scope="module")
def environment(wheel, tmp_path_factory):
    """An environment with the wheel in it, and the packages of this one besides; nothing in it is of the checkout."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False)
    packages = Path(sysconfig.get_path("purelib", vars={"base": str(folder), "platbase": str(folder)}))
    # a path alone, so that the finder of an editable installation there is not loaded
    (packages / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n")
    command = [sys.executable, "-m", "pip", "--python", str(folder), "install", "--quiet", "--no-deps", str(wheel)]
    subprocess.run(command, check=True, timeout=300, capture_output=True, env=ELSEWHERE)
    return folder


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_an_installed_longcat_works_anywhere_and_writes_nothing_beside_itself(environment, tmp_path):
    def run(*arguments):
        command = [str(environment / "bin" / "python"), "-m", "longcat", *arguments]
        done = subprocess.run(
            command, cwd=tmp_path, env=ELSEWHERE, capture_output=True, text=True, timeout=600, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def there():
        files = (environment / "lib").rglob("*")
        return {path for path in files if path.is_file() and path.suffix != ".pyc"}

    before = there()
    model = ["--model", "tiny", "--sequence-length", "4096", "--tokens-per-second", "1e5"]
    assert json.loads(run("mfu", *model, "--device", "Ascend910B2", "--json"))["mfu"] > 0
    said = json.loads(run("doctor", "--json"))
    assert "pip install 'longcat-ascend[npu]'" in said["conclusion"] and said["environment"]["packages"]["mlflow"]
    settings = ["--set", "training.processes=1", "--set", "training.steps=2"]
    summary = json.loads(run("evaluate", "--preset", "smoke", *settings, "--json"))
    assert [row["status"] for row in summary["stages"]] == ["run"] * 3
    checkpoint = Path(summary["stages"][1]["artifact"]["path"])
    assert checkpoint.is_relative_to(tmp_path)
    assert run("generate", "--checkpoint", str(checkpoint), "--prompt", "def", "--max-tokens", "4").startswith("def")
    assert there() == before
