"""The programs of this folder: what is expected of each stands beside it, and is what is found."""

from pathlib import Path

import pytest

from longcat.port.findings import CLASSES
from longcat.port.scanning import examine_all
from longcat.port.support import Support

HERE = Path(__file__).parent
PROGRAMS = HERE / "programs"
SUPPORT = Support(
    "torch_npu 2.13.0",
    frozenset({"lgamma", "digamma", "huber_loss"}),
    frozenset({"add"}),
    {"torch.lgamma": ("aten::digamma", "aten::lgamma"), "torch.nn.functional.huber_loss": ("aten::huber_loss",)},
)
"""What the wheel says of the operators that the programs call, see tests/emulator/test_port.py."""


def expected():
    """`(file, line, class, what)` as people have written them down."""
    rows = set()
    for file in sorted((HERE / "expected").glob("*.txt")):
        for line in file.read_text(encoding="utf-8").splitlines():
            if line and not line.startswith("#"):
                place, kind, what = line.split(" ", 2)
                name, _, number = place.rpartition(":")
                rows.add((name, int(number), kind, what))
    return rows


@pytest.fixture(scope="module")
def found():
    reads = list(examine_all(PROGRAMS, SUPPORT, False))
    assert [one.unread for one in reads if one.unread] == []
    return {(one.file, one.line, one.kind, one.what) for read in reads for one in read.findings}


def test_labels_are_of_known_classes():
    assert {kind for _, _, kind, _ in expected()} <= set(CLASSES)
    assert len(expected()) > 100


def test_recall_and_precision(found):
    right = found & expected()
    recall, precision = len(right) / len(expected()), len(right) / len(found)
    print(f"recall {recall:.3f}, precision {precision:.3f} over {len(expected())} labels")
    assert expected() - found == set()
    assert found - expected() == set()


def test_what_has_no_equivalent_says_what_replaces_it():
    for read in examine_all(PROGRAMS, SUPPORT, False):
        for one in read.findings:
            if one.kind == "none" and one.effort not in ("none", "minutes"):
                assert one.instead, one
            assert one.why
