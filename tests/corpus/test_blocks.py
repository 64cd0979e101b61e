import json
import pickle

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from longcat.corpus.blocks import split_into_blocks, stamp
from longcat.errors import DataError


def blocks_of(paths, block_bytes):
    return split_into_blocks([(path, stamp(path)) for path in paths], "text", block_bytes)


def texts_of(blocks):
    return [record for block in blocks for record in block.records(["utf-8"], 1 << 20)]


@given(st.lists(st.text("ab专\n", max_size=9), min_size=1, max_size=20), st.integers(1, 400))
def test_any_size_of_block_gives_the_same_texts(tmp_path_factory, texts, block_bytes):
    path = tmp_path_factory.mktemp("blocks") / "a.jsonl"
    path.write_text("\n".join(json.dumps({"text": text}, ensure_ascii=False) for text in texts))
    blocks = blocks_of([path], block_bytes)
    assert texts_of(blocks) == texts
    assert len(blocks) == max(1, -(-path.stat().st_size // block_bytes))


def test_small_files_lie_together_and_large_ones_are_cut(tmp_path):
    sizes = [30, 40, 50, 350, 10, 10]
    paths = []
    for number, size in enumerate(sizes):
        paths.append(tmp_path / f"{number}.jsonl")
        paths[-1].write_bytes(b"\n" * size)
    blocks = blocks_of(paths, 100)
    assert [
        [(file_slice.path.name, file_slice.begin, file_slice.end) for file_slice in block.slices] for block in blocks
    ] == [
        [("0.jsonl", 0, None), ("1.jsonl", 0, None)],
        [("2.jsonl", 0, None)],
        [("3.jsonl", 0, 100)],
        [("3.jsonl", 100, 200)],
        [("3.jsonl", 200, 300)],
        [("3.jsonl", 300, 350), ("4.jsonl", 0, None), ("5.jsonl", 0, None)],
    ]


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl.zst", "a.jsonl.gz", "a.py"])
def test_what_cannot_be_cut_is_one_block(tmp_path, name):
    (tmp_path / name).write_bytes(b"x" * 1000)
    [block] = blocks_of([tmp_path / name], 10)
    assert [(file_slice.begin, file_slice.end) for file_slice in block.slices] == [(0, None)]


@pytest.mark.parametrize("block_bytes", [1, 3000, 1 << 30])
def test_row_groups_of_parquet_are_each_in_one_block(tmp_path, block_bytes):
    path = tmp_path / "a.parquet"
    texts = [f"{n} " * 50 for n in range(100)]
    pq.write_table(pa.table({"text": texts}), path, row_group_size=7, compression=None)
    blocks = blocks_of([path], block_bytes)
    assert texts_of(blocks) == texts
    if block_bytes < 1 << 30:
        slices = [block.slices[0] for block in blocks]
        assert [slices[0].begin, *(part.end for part in slices)] == [*(part.begin for part in slices), 15]
    assert len(blocks) in {1: [15], 3000: range(2, 15), 1 << 30: [1]}[block_bytes]


def test_blocks_travel_to_other_processes(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "one"}\n{"text": "two"}\n')
    assert texts_of(pickle.loads(pickle.dumps(blocks_of([path], 20)))) == ["one", "two"]


def test_empty_files_and_no_files(tmp_path):
    paths = [tmp_path / name for name in ("a.jsonl", "b.jsonl")]
    for path in paths:
        path.touch()
    assert len(blocks_of(paths, 10)) == 1
    assert texts_of(blocks_of(paths, 10)) == []
    assert blocks_of([], 10) == []


def test_a_file_that_is_gone_is_named(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "one"}\n')
    blocks = blocks_of([path], 10)
    path.unlink()
    with pytest.raises(DataError, match=f"cannot read {path}: No such file"):
        texts_of(blocks)


def test_a_file_that_vanishes_while_it_is_read_is_named(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "one"}\n{"text": "two"}\n')
    [block] = blocks_of([path], 1000)
    records = block.records(["utf-8"], 1000)
    next(records)
    path.unlink()
    with pytest.raises(DataError, match=str(path)):
        list(records)


def test_a_file_that_grows_or_is_replaced_while_it_is_read_is_noticed(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "one"}\n')
    blocks = blocks_of([path], 10)
    with path.open("a") as stream:
        stream.write('{"text": "two"}\n')
    with pytest.raises(DataError, match=f"{path} was changed while it was read"):
        texts_of(blocks)


def test_damaged_parquet_is_named_while_it_is_cut(tmp_path):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": ["x"] * 100}), path)
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(DataError, match=f"{path} is not an intact parquet file"):
        blocks_of([path], 10)
