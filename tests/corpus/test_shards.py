import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from longcat.artifact import sha256_file
from longcat.corpus.packing import split_documents
from longcat.corpus.shards import (
    ShardTask,
    SplitIndex,
    TokenCorpus,
    token_dtype,
    write_index,
    write_shard,
)
from longcat.errors import ArtifactError
from longcat.padding import IGNORE, PADDING

LENGTH = 8
DOCUMENTS = [np.append(np.arange(100 * n, 100 * n + 3 * n + 1), 2) for n in range(1, 20)]


def task(directory, name, documents, max_padding=0.0):
    """A shard of documents that lie in two files."""
    halves = [documents[0::2], documents[1::2]]
    files = []
    for number, half in enumerate(halves):
        files.append(directory / f"{name}-{number}.tokens.npy")
        np.save(files[-1], np.concatenate([np.empty(0, np.uint16), *half]))
    begins = np.zeros(len(documents), np.int64)
    for number, half in enumerate(halves):
        begins[number::2] = np.cumsum([0, *map(len, half)])[:-1]
    return ShardTask(
        directory=directory,
        name=name,
        segments=split_documents(
            np.arange(len(documents)), np.array([len(document) for document in documents]), LENGTH + 1
        ),
        files=files,
        file_of=np.arange(len(documents)) % 2,
        begins=begins,
        width=LENGTH + 1,
        max_padding=max_padding,
        dtype=np.uint16,
        filler=2,
    )


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    path = tmp_path_factory.mktemp("tokens")
    (path / "tokenizer.json").write_text("{}")
    np.save(path / "token_bytes.npy", np.array([0, 0, 0, 1], np.int32))
    splits = {}
    for name, parts in {"train": [DOCUMENTS[:12], DOCUMENTS[12:]], "held_out": [DOCUMENTS[:2]]}.items():
        shards = [write_shard(task(path, f"{name}-{number:05d}", part)) for number, part in enumerate(parts)]
        rows = sum(shard.rows for shard in shards)
        splits[name] = SplitIndex(shards, rows, rows * LENGTH, 0, sum(map(len, parts)), 0)
    write_index(path, sequence_length=LENGTH, vocabulary_size=4, end_of_text=2, splits=splits)
    return path


def test_opened_corpus_is_what_was_written(directory):
    corpus = TokenCorpus.open(directory)
    assert (corpus.sequence_length, corpus.vocabulary_size, corpus.end_of_text) == (LENGTH, 4, 2)
    assert corpus.tokenizer_sha256 == sha256_file(corpus.tokenizer_path)
    assert corpus.token_bytes.tolist() == [0, 0, 0, 1]
    assert len(corpus.train.index.shards) == 2
    batch = corpus.train.take(np.arange(len(corpus.train)))
    assert {array.dtype for array in (batch.tokens, batch.targets, batch.documents)} == {np.dtype(np.int64)}
    assert batch.tokens.shape == batch.targets.shape == batch.documents.shape == (len(corpus.train), LENGTH)


def test_every_transition_of_every_document_is_learnt_once(directory):
    batch = (rows := TokenCorpus.open(directory).train).take(np.arange(len(rows)))
    learnt = batch.targets != IGNORE
    inside = learnt & (batch.tokens != 2)  # after an end of text comes another document
    found = sorted(zip(batch.tokens[inside].tolist(), batch.targets[inside].tolist(), strict=True))
    assert found == sorted(pair for document in DOCUMENTS for pair in itertools.pairwise(document))
    assert batch.learnt == learnt.sum()
    beginnings = {document[0] for document in DOCUMENTS}
    assert set(batch.targets[learnt & (batch.tokens == 2)].tolist()) <= beginnings


def test_documents_of_a_row_are_told_apart(directory):
    batch = (rows := TokenCorpus.open(directory).train).take(np.arange(len(rows)))
    for tokens, documents in zip(batch.tokens, batch.documents, strict=True):
        for number in range(documents.max() + 1):
            mine = tokens[documents == number]
            assert len(set(mine[mine != 2] // 100)) <= 1  # one document
            assert 2 not in mine[:-1]
        assert (np.diff(documents[documents != PADDING]) >= 0).all()
        assert (tokens[documents == PADDING] == 2).all()


def test_a_shard_is_written_once(directory, tmp_path):
    first = write_shard(task(tmp_path, "train-00000", DOCUMENTS))
    content = (tmp_path / "train-00000.npy").read_bytes()
    again = task(tmp_path, "train-00000", DOCUMENTS)
    for file in again.files:
        file.unlink()
    assert write_shard(again) == first
    assert (tmp_path / "train-00000.npy").read_bytes() == content


@given(st.lists(st.integers(0, 25), max_size=30))
def test_take_reads_any_rows_in_any_order(directory, indices):
    rows = TokenCorpus.open(directory).train
    whole, some = rows.take(np.arange(len(rows))), rows.take(np.array(indices, np.int64))
    for name in ("tokens", "targets", "documents"):
        assert np.array_equal(getattr(some, name), getattr(whole, name)[indices])


@pytest.mark.parametrize("indices", [[-1], [0, 1000]])
def test_rows_that_are_not_there(directory, indices):
    with pytest.raises(IndexError):
        TokenCorpus.open(directory).train.take(np.array(indices))


def test_shard_of_another_shape_is_named(directory, tmp_path):
    for file in directory.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    np.save(tmp_path / "train-00001.npy", np.zeros((3, LENGTH + 1), np.uint16))
    with pytest.raises(ArtifactError, match=r"train-00001\.npy has shape \[3, 9\]"):
        TokenCorpus.open(tmp_path).train.take(np.array([len(TokenCorpus.open(tmp_path).train) - 1]))
    (tmp_path / "train-00001.npy").write_bytes(b"")
    with pytest.raises(ArtifactError, match=r"train-00001\.npy"):
        TokenCorpus.open(tmp_path).train.take(np.array([len(TokenCorpus.open(tmp_path).train) - 1]))


def test_missing_and_broken_index_are_named(tmp_path):
    for content in (None, "{", "{}", "[]", '{"splits": {"train": 1}}'):
        if content is not None:
            (tmp_path / "index.json").write_text(content)
        with pytest.raises(ArtifactError, match=r"index\.json"):
            TokenCorpus.open(tmp_path)


def test_dtype_is_the_smallest_that_holds_the_vocabulary():
    assert token_dtype(65536) is np.uint16
    assert token_dtype(65537) is np.uint32
