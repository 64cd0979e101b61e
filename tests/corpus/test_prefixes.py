import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from longcat.corpus import prefixes
from longcat.corpus.block_tasks import DOCUMENT
from longcat.corpus.prefixes import find_prefixes, within
from longcat.corpus.table import DocumentsTable, write_table
from longcat.errors import ArtifactError


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("prefixes")


def source(piece):
    return piece.rows["source"].astype(np.int64)


ROWS = st.lists(st.tuples(st.integers(0, 2), st.integers(1, 9), st.integers(0, 2**64 - 1)), min_size=1, max_size=80)


@settings(deadline=None)
@given(ROWS, st.lists(st.floats(0, 200), max_size=3), st.integers(0, 6), st.integers(1, 40), st.integers(0, 64))
def test_a_prefix_holds_what_fits_in_the_order_of_keys(folder, rows, limits, few, piece, equal_bits):
    documents = np.zeros(len(rows), DOCUMENT)
    documents["source"], documents["tokens"], keys = zip(*rows, strict=True)
    documents["key"] = [key >> equal_bits for key in keys]
    write_table(folder / "t.npy", [documents], len(documents))
    table = DocumentsTable(folder / "t.npy", piece)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prefixes, "_FEW", few)  # so that ranges are divided several times
        patch.setattr(prefixes, "_RANGE_BITS", 4)
        found = find_prefixes(table, source, dict(enumerate(limits)))
    taken = np.concatenate([within(found, source(one), one) for one in table.pieces()])
    for number in range(3):
        own = np.flatnonzero(documents["source"] == number)
        if number in found:
            own = own[np.argsort(documents["key"][own], kind="stable")]
            own = own[np.cumsum(documents["tokens"][own]) <= limits[number]]
            assert found[number].documents == len(own)
            assert found[number].tokens == documents["tokens"][own].sum()
        assert np.flatnonzero(taken & (documents["source"] == number)).tolist() == sorted(own.tolist())


def test_a_table_that_is_cut_off_is_named(folder):
    write_table(folder / "cut.npy", [np.zeros(10, DOCUMENT)], 10)
    content = (folder / "cut.npy").read_bytes()
    (folder / "cut.npy").write_bytes(content[: -7 * DOCUMENT.itemsize])
    with pytest.raises(ArtifactError, match=r"cannot read .*cut\.npy \(it ends after 3 of 10 documents\); delete"):
        list(DocumentsTable(folder / "cut.npy").pieces())
    with pytest.raises(ArtifactError, match=r"cannot read .*none\.npy"):
        list(DocumentsTable(folder / "none.npy").pieces())
