"""Learning of answers alone: which tokens of packed documents come after a text such as `Answer:`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def after_markers(tokens: np.ndarray, documents: np.ndarray, markers: Sequence[Sequence[int]]) -> np.ndarray:
    """Mark the tokens that come after the first marker of their document; of a document without one, all.

    A document that is cut is another one in each row.

    Args:
        tokens: ids, int64 `[rows, width]`.
        documents: number of each token's document in its row, never falling but for padding, `[rows, width]`.
        markers: tokens of each text that an answer comes after, at least one token each.

    Returns:
        bool `[rows, width]`; what it says of padding has no meaning.
    """
    rows, width = tokens.shape
    ends = np.zeros((rows, width), bool)  # the last token of a marker
    for marker in markers:
        size = len(marker)
        if size > width:
            continue
        found = documents[:, size - 1 :] == documents[:, : width - size + 1]
        for place, token in enumerate(marker):
            found &= tokens[:, place : width - size + 1 + place] == token
        ends[:, size - 1 :] |= found
    begins = np.ones((rows, width), bool)
    begins[:, 1:] = documents[:, 1:] != documents[:, :-1]
    # documents numbered on through all rows, so that one count is enough
    number = np.cumsum(begins.ravel()) - 1
    passed = np.cumsum(ends.ravel()) - ends.ravel()  # markers that ended before each token, from the first row on
    before = passed[begins.ravel()][number]
    asked = np.bincount(number, ends.ravel())[number] > 0
    return ((passed > before) | ~asked).reshape(rows, width)
