"""What a wheel holds: an installed longcat finds its tables, evaluation sets and recipes where a checkout has them."""

import tomllib

from setuptools import find_namespace_packages

from longcat.provenance import ROOT


def test_everything_in_data_is_installed():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["setuptools"]
    packages = find_namespace_packages(str(ROOT), include=settings["packages"]["find"]["include"])
    roots = {ROOT.joinpath(*name.split(".")) for name in packages}
    holding = {path.parent for path in (ROOT / "data").rglob("*") if path.is_file() and "__pycache__" not in path.parts}
    assert holding and holding <= roots
    assert settings["package-data"]["data"] == ["**/*"]
    assert {name.partition(".")[0] for name in packages} == {"longcat", "tasks", "flows", "data"}
