"""The search on disk finds what comparing in memory finds, however the work is divided."""

import os
import sysconfig
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from longcat.config import NearDuplicateConfig
from longcat.corpus.block_arrays import ArraysBuilder
from longcat.corpus.buckets import Buckets, part_of
from longcat.corpus.mapping import in_order, processes
from longcat.corpus.near_duplicates import near_duplicates, shingles, signatures
from longcat.corpus.normal_form import normal_form
from longcat.corpus.search import Search
from longcat.errors import DataError
from tests.waiting import LIMIT_S

CONFIG = NearDuplicateConfig()


class Block:
    def __init__(self, texts, config=CONFIG):
        builder = ArraysBuilder(20)
        for text in texts:
            builder.add(text)
        self._arrays = builder.build()
        self._signatures = signatures([shingles(normal_form(text), config) for text in texts], config)

    def arrays(self):
        return self._arrays

    def signatures(self, documents=None):
        return self._signatures if documents is None else self._signatures[documents]


class Blocks(list):
    @property
    def begins(self):
        return np.cumsum([0, *(len(block.arrays().ends) for block in self)], dtype=np.int64)


def by_definition(signed, config):
    """What the law says, bucket by bucket."""
    left_out = np.zeros(len(signed), bool)
    for band in range(config.bands):
        buckets = {}
        for number, minima in enumerate(signed[:, band * config.rows : (band + 1) * config.rows].tolist()):
            members = buckets.setdefault(tuple(minima), [])
            for other in {*members[:1], *members[-1:]}:
                left_out[number] |= (signed[number] == signed[other]).mean() >= config.threshold
            members.append(number)
    return left_out


def divided(texts, size):
    return Blocks(Block(texts[begin : begin + size]) for begin in range(0, len(texts), size))


def found(blocks, keep, folder, mapper=map, **options):
    searched = Search(blocks, folder, mapper, **options).near(keep, CONFIG)
    return np.unique(np.concatenate([np.empty(0, np.int64), *searched])).tolist()


@pytest.fixture(scope="module")
def real_texts():
    """Functions of the standard library, and copies that differ in a few words."""
    root = Path(sysconfig.get_path("stdlib"))
    texts = []
    for name in ("argparse", "tarfile", "typing", "subprocess"):
        texts += ["def " + part for part in (root / f"{name}.py").read_text().split("def ") if len(part) > 200]
    changed = [text.replace("self", "this", 1).replace("return", "give", 1) for text in texts[::3]]
    return texts + changed + texts[:20]


@pytest.mark.parametrize(
    ("block", "batch", "part_bytes"), [(1000, 100_000, 1 << 26), (64, 100, 1 << 26), (40, 1, 4096), (30, 100, 2048)]
)
def test_near_duplicates_on_disk_are_those_in_memory(tmp_path, real_texts, block, batch, part_bytes):
    blocks = divided(real_texts, block)
    signed = np.concatenate([one.signatures() for one in blocks])
    expected = np.flatnonzero(by_definition(signed, CONFIG)).tolist()
    assert len(expected) > 50
    assert np.flatnonzero(near_duplicates(signed, CONFIG)).tolist() == expected
    everything = np.ones(len(real_texts), bool)
    options = {"batch_documents": batch, "part_bytes": part_bytes}
    assert found(blocks, everything, tmp_path, **options) == expected
    some = np.arange(len(real_texts)) % 5 > 0
    kept = np.flatnonzero(some)
    assert found(blocks, some, tmp_path / "some", **options) == kept[near_duplicates(signed[some], CONFIG)].tolist()


@contextmanager
def dask(count):
    """A mapper over Dask's local cluster."""
    distributed = pytest.importorskip("distributed")
    with (
        distributed.LocalCluster(n_workers=count, threads_per_worker=1, dashboard_address=None) as cluster,
        distributed.Client(cluster, timeout=LIMIT_S) as client,
    ):
        yield lambda function, items: in_order(
            lambda item: client.submit(partial(function, item), pure=False), items, 2 * count
        )


@pytest.mark.parametrize("mapper", [processes, pytest.param(dask, marks=pytest.mark.slow)])
def test_many_processes_leave_the_same_bytes_as_one(tmp_path, real_texts, mapper):
    blocks, everything = divided(real_texts, 40), np.ones(len(real_texts), bool)
    options = {"batch_documents": 100, "part_bytes": 4000}
    with mapper(2) as many:
        assert found(blocks, everything, tmp_path / "two", many, **options) == found(
            blocks, everything, tmp_path / "one", **options
        )
    one, two = (
        {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}
        for root in (tmp_path / "one", tmp_path / "two")
    )
    assert one == two
    assert len(one) > 10


def test_a_second_search_does_only_what_is_missing(tmp_path, real_texts):
    blocks, everything = divided(real_texts, 40), np.ones(len(real_texts), bool)
    expected = found(blocks, everything, tmp_path, batch_documents=100)
    called = []

    def counting(function, items):
        for item in items:
            called.append((function.__name__, item.batch.number))
            yield function(item)

    results = sorted(tmp_path.glob("pairs/found-*.npy"))
    times = {path: path.stat().st_mtime_ns for path in results}
    results[1].unlink()
    assert found(blocks, everything, tmp_path, counting, batch_documents=100) == expected
    assert {name for name, _ in called} == {"compare"}
    assert [path for path in results if path.stat().st_mtime_ns != times[path]] == results[1:2]


@settings(max_examples=20, deadline=None)
@given(st.lists(st.sampled_from("abcdefgh"), max_size=40), st.integers(1, 9), st.integers(1, 9), st.integers(24, 200))
def test_equal_documents_after_the_first_are_found(tmp_path_factory, texts, block, batch, part_bytes):
    keep = np.arange(len(texts)) % 7 != 3
    search = Search(
        divided(texts, block), tmp_path_factory.mktemp("equal"), map, batch_documents=batch, part_bytes=part_bytes
    )
    later = [
        number
        for number, text in enumerate(texts)
        if keep[number] and any(keep[other] and texts[other] == text for other in range(number))
    ]
    assert sorted(np.concatenate([np.empty(0, np.int64), *search.equal(keep)]).tolist()) == later


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(0, 2**64 - 1), max_size=50), st.integers(1, 9))
def test_records_come_back_part_by_part_in_their_order(tmp_path_factory, hashes, parts):
    records = np.array(hashes, np.uint64)
    part = part_of(records, parts)
    buckets = Buckets(tmp_path_factory.mktemp("buckets"), ("a/0", "a/1"), parts, records.dtype)
    assert buckets.missing() == ["a/0", "a/1"]
    half = len(records) // 2
    buckets.write("a/0", records[:half], part[:half])
    buckets.write("a/1", records[half:], part[half:])
    assert not buckets.missing()
    for number in range(parts):
        read, ends = buckets.read(number)
        assert read.tolist() == records[part == number].tolist()
        assert ends.tolist() == [(part[:half] == number).sum(), (part == number).sum()]
    buckets.remove()
    assert buckets.missing() == ["a/0", "a/1"]


def test_a_file_that_is_cut_off_is_named(tmp_path):
    buckets = Buckets(tmp_path, ("a/0",), 2, np.dtype(np.uint64))
    buckets.write("a/0", np.arange(6, dtype=np.uint64), np.array([0, 0, 0, 1, 1, 1]))
    os.truncate(tmp_path / "a/0.records", 5 * 8)
    assert buckets.read(0)[0].tolist() == [0, 1, 2]
    with pytest.raises(DataError, match=r"a/0\.records ends before record 6; remove .* and run again"):
        buckets.read(1)
