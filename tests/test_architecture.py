"""The picture in docs/architecture.md is what import-linter enforces, and the files it names are there."""

import re
import tomllib

from longcat.provenance import ROOT

PAGE = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
CONTRACTS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]["contracts"]


def rooms(line):
    return sorted(name.strip() for name in line.split(":"))


def test_the_picture_is_what_is_enforced():
    [layers] = (contract["layers"] for contract in CONTRACTS if contract["type"] == "layers")
    drawn = PAGE.split("## The picture")[1].split("\n| room")[0]
    lines = [line for line in drawn.splitlines() if line.startswith("    ")]
    assert [line.strip() for line in lines if not line.startswith(" " * 8)] == ["longcat"]
    assert [rooms(line) for line in lines if line.startswith(" " * 8)] == [rooms(line) for line in layers]


def test_every_module_of_longcat_has_its_place():
    """A new room cannot be forgotten: the contract is exhaustive."""
    [contract] = [contract for contract in CONTRACTS if contract.get("containers") == ["longcat"]]
    assert contract["exhaustive"]
    known = {name for line in contract["layers"] for name in rooms(line)} | set(contract["exhaustive_ignores"])
    there = {path.stem for path in (ROOT / "longcat").iterdir() if path.suffix in ("", ".py")}
    assert there - {"__init__", "__pycache__", "py"} == known


def test_there_are_ten_recipes_and_their_files_exist():
    recipes = PAGE.split("## Ten recipes")[1]
    assert len(re.findall(r"^\d+\. \*\*", recipes, flags=re.M)) == 10
    for path in re.findall(r"`([\w/]+\.(?:py|csv|yaml))`", PAGE):
        if "NAME" not in path:
            places = (ROOT / path, ROOT / "longcat" / path)
            assert any(place.exists() for place in places) or list(ROOT.glob(f"*/**/{path}")), path
