import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from longcat.corpus.packing import Packer

END = 2
documents_strategy = st.lists(st.lists(st.integers(3, 500), max_size=40), min_size=1, max_size=30)


def pack(documents, length, run):
    packer = Packer(length, run, END, np.uint16)
    runs = [part for document in documents for part in packer.add(np.array(document, np.uint32))]
    return packer, [*runs, *packer.finish()]


@given(documents_strategy, st.integers(1, 17), st.integers(1, 5))
def test_rows_are_the_stream_and_only_a_counted_tail_is_lost(documents, length, run):
    stream = [token for document in documents for token in [*document, END]]
    packer, runs = pack(documents, length, run)
    rows = np.concatenate([part.rows for part in runs]) if runs else np.empty((0, length + 1), np.uint16)
    assert packer.tokens == len(stream)
    assert len(rows) == packer.rows == (len(stream) - 1) // length
    for number, row in enumerate(rows):
        assert row.tolist() == stream[number * length : (number + 1) * length + 1]
    kept = packer.rows * length + 1 if packer.rows else 0
    assert packer.tail_tokens == len(stream) - kept < length + (not packer.rows)
    assert all(len(part.rows) == run for part in runs[:-1])


@given(documents_strategy, st.integers(1, 17), st.integers(1, 5))
def test_documents_start_where_the_index_says(documents, length, run):
    _, runs = pack(documents, length, run)
    found, before = [], 0
    for part in runs:
        found += [(before + row) * length + column for row, column in part.documents.tolist()]
        before += len(part.rows)
    starts = np.cumsum([0] + [len(document) + 1 for document in documents[:-1]])
    assert found == [start for start in starts.tolist() if start < before * length]


def test_run_length_does_not_change_the_rows():
    documents = [list(range(3, 3 + n)) for n in (5, 0, 31, 8, 100, 1)]
    whole = np.concatenate([part.rows for part in pack(documents, 7, 1000)[1]])
    pieces = np.concatenate([part.rows for part in pack(documents, 7, 2)[1]])
    assert np.array_equal(whole, pieces)
