"""How operators cut their work does not change what they compute."""

import pytest
import torch

from longcat.ops.chunks import ACCELERATOR_ELEMENTS, size_kind, sized_for, spans
from longcat.ops.operators import OPERATORS
from longcat.ops.registry import check

CPU = torch.device("cpu")
PATHS = [name for name, of in OPERATORS.items() if "cpu" in of.implementations]


def test_chunks_cover_everything_once_and_are_few_for_an_accelerator():
    tensor = torch.empty(0)
    assert list(spans(tensor, 10, 30, 100)) == [(0, 3), (3, 6), (6, 9), (9, 10)]
    assert list(spans(tensor, 2, 1000, 100)) == [(0, 1), (1, 2)]
    assert list(spans(tensor, 0, 30, 100)) == []
    with sized_for("npu"):
        assert list(spans(tensor, 10, 30, 100)) == [(0, 10)]
        assert list(spans(tensor, 3, ACCELERATOR_ELEMENTS // 2, 100)) == [(0, 2), (2, 3)]
        with sized_for("cpu"):
            assert size_kind(tensor) == "cpu"
        assert size_kind(tensor) == "npu"
    assert size_kind(tensor) == "cpu"
    with pytest.raises(RuntimeError), sized_for("npu"):
        raise RuntimeError
    assert size_kind(tensor) == "cpu"


@pytest.mark.parametrize("name", PATHS)
def test_paths_sized_for_an_accelerator_agree_with_their_reference(name):
    with sized_for("npu"):
        check(OPERATORS[name], OPERATORS[name].implementations["cpu"], CPU, torch.float32)
