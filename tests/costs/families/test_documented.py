"""The list of families on the page of the benchmark."""

import re
from pathlib import Path

from longcat.costs.families import FAMILIES, LONGCAT

PAGE = Path(__file__).parents[3] / "docs" / "benchmark.md"


def test_the_page_lists_every_family():
    section = PAGE.read_text(encoding="utf-8").split("## Families of config.json\n")[1].split("\n## ")[0]
    listed = re.findall(r"`([^`]+)`", section.split("\n\n", 1)[1])
    names = sorted([*FAMILIES, *LONGCAT], key=str.lower)
    assert listed == names, "the page has to list: " + ", ".join(f"`{name}`" for name in names)
