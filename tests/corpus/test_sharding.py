import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from longcat.config import CorpusConfig
from longcat.corpus.block_tasks import DOCUMENT
from longcat.corpus.packing import split_documents
from longcat.corpus.sharding import portions

WIDTH, SHARD_ROWS = 9, 8
ROOM = (int(0.98 * SHARD_ROWS) - 1) * WIDTH


@given(st.lists(st.integers(1, 200), max_size=60), st.integers(1, 20))
def test_documents_are_divided_by_where_their_segments_begin_however_they_come(tokens, piece):
    rows = np.zeros(len(tokens), DOCUMENT)
    rows["tokens"], rows["begin"] = tokens, np.arange(len(tokens))
    corpus = CorpusConfig.model_construct(sequence_length_tokens=WIDTH - 1, shard_sequences=SHARD_ROWS, max_padding=0.0)
    pieces = [np.empty(0, DOCUMENT), *(rows[begin : begin + piece] for begin in range(0, len(rows), piece))]
    found = []
    for portion in portions(pieces, corpus):
        assert portion.segments.document.min() == 0
        assert portion.segments.document.max() == len(portion.rows) - 1
        names = portion.rows["begin"][portion.segments.document]
        found.append([*zip(names.tolist(), *(each.tolist() for each in portion.segments.arrays[1:]), strict=True)])
    whole = split_documents(np.arange(len(tokens)), np.array(tokens), WIDTH)
    shard_of = (np.cumsum(whole.length) - whole.length) // ROOM
    expected = [
        [*zip(*(each[shard_of == number].tolist() for each in whole.arrays), strict=True)]
        for number in range(int(shard_of.max(initial=-1)) + 1)
    ]
    assert found == expected
