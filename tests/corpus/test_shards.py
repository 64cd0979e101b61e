import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from longcat.artifact import sha256_file
from longcat.corpus.packing import Packer
from longcat.corpus.shards import SplitIndex, TokenCorpus, token_dtype, write_index, write_shards
from longcat.errors import ArtifactError

LENGTH = 8
STREAM = np.arange(3, 3 + 60 * LENGTH)


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    path = tmp_path_factory.mktemp("tokens")
    (path / "tokenizer.json").write_text("{}")
    np.save(path / "token_bytes.npy", np.array([0, 0, 0, 1], np.int32))
    splits = {}
    for name, documents in {"train": np.array_split(STREAM, 7), "held_out": [STREAM[:20]]}.items():
        packer = Packer(LENGTH, 10, 2, np.uint16)
        runs = [run for document in documents for run in packer.add(document)] + list(packer.finish())
        shards = write_shards(path, name, runs)
        rows = packer.rows
        splits[name] = SplitIndex(shards, rows, rows * LENGTH, packer.tail_tokens, len(documents), 1)
    write_index(path, sequence_length=LENGTH, vocabulary_size=4, end_of_text=2, splits=splits)
    return path


def test_opened_corpus_is_what_was_written(directory):
    corpus = TokenCorpus.open(directory)
    assert (corpus.sequence_length, corpus.vocabulary_size, corpus.end_of_text) == (LENGTH, 4, 2)
    assert corpus.tokenizer_sha256 == sha256_file(corpus.tokenizer_path)
    assert corpus.token_bytes.tolist() == [0, 0, 0, 1]
    assert [len(corpus.train.index.shards), len(corpus.held_out)] == [6, 2]
    rows = corpus.train.take(np.arange(len(corpus.train)))
    assert rows.dtype == np.int64
    assert np.array_equal(rows[:-1, -1], rows[1:, 0])
    stream = np.append(rows[:, :-1].ravel(), rows[-1, -1])
    assert np.array_equal(stream[stream != 2], STREAM[: (stream != 2).sum()])
    starts = corpus.train.documents() @ [LENGTH, 1]
    assert starts[0] == 0
    assert all(stream[start - 1] == 2 for start in starts[1:])
    assert len(starts) == 7


@given(st.lists(st.integers(0, 59), max_size=30))
def test_take_reads_any_rows_in_any_order(directory, indices):
    rows = TokenCorpus.open(directory).train
    whole = rows.take(np.arange(len(rows)))
    assert np.array_equal(rows.take(np.array(indices, np.int64)), whole[indices])


@pytest.mark.parametrize("indices", [[-1], [0, 61]])
def test_rows_that_are_not_there(directory, indices):
    with pytest.raises(IndexError):
        TokenCorpus.open(directory).train.take(np.array(indices))


def test_shard_of_another_shape_is_named(directory, tmp_path):
    for file in directory.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    np.save(tmp_path / "train-00001.npy", np.zeros((3, LENGTH + 1), np.uint16))
    with pytest.raises(ArtifactError, match=r"train-00001\.npy has shape \[3, 9\]"):
        TokenCorpus.open(tmp_path).train.take(np.array([15]))
    (tmp_path / "train-00001.npy").write_bytes(b"")
    with pytest.raises(ArtifactError, match=r"train-00001\.npy"):
        TokenCorpus.open(tmp_path).train.take(np.array([15]))


def test_missing_and_broken_index_are_named(tmp_path):
    for content in (None, "{", "{}", "[]", '{"splits": {"train": 1}}'):
        if content is not None:
            (tmp_path / "index.json").write_text(content)
        with pytest.raises(ArtifactError, match=r"index\.json"):
            TokenCorpus.open(tmp_path)


def test_dtype_is_the_smallest_that_holds_the_vocabulary():
    assert token_dtype(65536) is np.uint16
    assert token_dtype(65537) is np.uint32
