"""Programs and labels of somebody who had not seen the tool's output: how much of it is found, and how much else."""

from pathlib import Path

import pytest

from longcat.port.scanning import examine_all
from longcat.port.support import Support

HERE = Path(__file__).parent
PROGRAMS = HERE / "independent"
SUPPORT = Support(
    "torch_npu 2.13.0",
    frozenset({"_linalg_eigh", "_adaptive_avg_pool3d"}),
    frozenset({"add"}),
    {
        "torch.linalg.eigh": ("aten::_linalg_eigh",),
        "torch.nn.functional.adaptive_avg_pool3d": ("aten::_adaptive_avg_pool3d",),
    },
)
MISSED = {
    ("amp_gpt.py", 51),  # fused=True of an optimizer, which runs
    ("ddp_resnet.py", 7),  # the import; its uses are found
    ("ext/swiglu.cpp", 3),  # one finding for a source in CUDA or C++
    ("ext/swiglu_kernel.cu", 2),
    ("ext/swiglu_kernel.cu", 3),
    ("ext/swiglu_kernel.cu", 8),
    ("tricky.py", 18),  # a name bound by getattr, which is found a line before
}
OTHERWISE = {("amp_gpt.py", 5), ("tricky.py", 8), ("tricky.py", 17)}
"""Lines that are found and given another class: an import that stays for autocast, and two that are unsure or differ."""


def labels():
    """Classes by place, and whether a place may be left out."""
    rows = {}
    for line in (HERE / "independent.txt").read_text(encoding="utf-8").splitlines()[1:]:
        place, classes = line.split(" ")
        name, _, number = place.rpartition(":")
        rows[name, int(number)] = (set(classes.removesuffix("?").split("|")), classes.endswith("?"))
    return rows


@pytest.fixture(scope="module")
def found():
    places = {}
    for read in examine_all(PROGRAMS, SUPPORT, False):
        assert read.unread is None
        for one in read.findings:
            places.setdefault((one.file, one.line), set()).add(one.kind)
    return places


def test_recall_and_precision(found):
    asked = {place for place, (_, optional) in labels().items() if not optional}
    extra = found.keys() - labels().keys()
    recall, precision = len(asked & found.keys()) / len(asked), 1 - len(extra) / len(found)
    print(f"recall {recall:.3f} ({len(asked & found.keys())} of {len(asked)}), precision {precision:.3f}")
    assert asked - found.keys() == MISSED
    assert precision > 0.95


def test_classes(found):
    wrong = {
        place
        for place, (classes, optional) in labels().items()
        if not optional and "any" not in classes and place in found and not found[place] & classes
    }
    assert wrong == OTHERWISE
