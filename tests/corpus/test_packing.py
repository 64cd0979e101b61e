import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from longcat.corpus.packing import pack, split_documents

documents_strategy = st.lists(st.integers(1, 90), min_size=1, max_size=60)
widths = st.integers(3, 33)


def packed_of(tokens, width, max_padding):
    documents = np.array(tokens)
    return pack(split_documents(np.arange(len(documents)), documents, width), width, max_padding)


@given(documents_strategy, widths, st.sampled_from([0.0, 0.01, 0.2, 0.99]))
def test_every_token_but_the_first_is_a_target_once(tokens, width, max_padding):
    packed = packed_of(tokens, width, max_padding)
    targets = [np.zeros(count, int) for count in tokens]
    for document, offset, length in zip(*packed.segments.arrays, strict=True):
        targets[document][offset + (offset > 0) : offset + length] += 1
        assert length > 1 or tokens[document] == 1  # nothing that teaches nothing
    assert all((counts == 1).all() for counts in targets)


@given(documents_strategy, widths, st.sampled_from([0.0, 0.01, 0.2, 0.99]))
def test_segments_lie_in_rows_without_gaps(tokens, width, max_padding):
    packed = packed_of(tokens, width, max_padding)
    ends = np.zeros(packed.rows, int)
    for row, column, length in zip(packed.row, packed.column, packed.segments.length, strict=True):
        assert column == ends[row]
        ends[row] += length
    assert np.array_equal(ends, packed.used)
    assert (ends > 0).all()
    assert (ends <= width).all()


@given(documents_strategy, widths, st.sampled_from([0.0, 0.01, 0.2]))
def test_padding_is_bounded(tokens, width, max_padding):
    """Beside a last row, and the rows with room for a single token that no segment can use."""
    packed = packed_of(tokens, width, max_padding)
    padding = packed.rows * width - packed.used.sum()
    assert padding <= max_padding * packed.rows * width + 2 * width + (packed.used == width - 1).sum()


@given(documents_strategy, widths)
def test_only_long_documents_are_cut_where_padding_does_not_matter(tokens, width):
    packed = packed_of(tokens, width, 1.0)
    segments = np.bincount(packed.segments.document)
    assert (segments[np.array(tokens) <= width] == 1).all()
    assert packed.rows >= -(-sum(tokens) // width)


@pytest.mark.parametrize("tokens", [[300] * 1000, list(range(2, 400)) * 5, [5000, 3] * 40])
def test_less_than_one_per_cent_is_padding(tokens):
    packed = packed_of(tokens, 513, 0.005)
    assert 1 - packed.used.sum() / (packed.rows * 513) < 0.01


def test_best_fit_takes_the_row_with_least_room():
    packed = packed_of([6, 5, 4, 3, 2], 10, 1.0)
    rows = {int(document): int(row) for document, row in zip(packed.segments.document, packed.row, strict=True)}
    assert packed.rows == 2
    assert rows[0] == rows[2]  # 6 + 4
    assert rows[1] == rows[3] == rows[4]  # 5 + 3 + 2
