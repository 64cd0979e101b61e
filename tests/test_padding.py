import numpy as np
import torch

from longcat.padding import IGNORE, PADDING, is_padding


def test_arrays_and_tensors_are_marked_alike():
    documents = [[0, 0, 1, PADDING], [PADDING, PADDING, PADDING, PADDING]]
    expected = [[False, False, False, True], [True, True, True, True]]
    array, tensor = is_padding(np.array(documents)), is_padding(torch.tensor(documents))
    assert array.dtype == bool
    assert array.tolist() == expected
    assert tensor.dtype == torch.bool
    assert tensor.tolist() == expected


def test_targets_that_are_not_learnt_are_those_of_torch():
    logits = torch.randn(3, 5)
    some = torch.nn.functional.cross_entropy(logits, torch.tensor([1, IGNORE, 3]), reduction="sum")
    assert some == torch.nn.functional.cross_entropy(logits[[0, 2]], torch.tensor([1, 3]), reduction="sum")
