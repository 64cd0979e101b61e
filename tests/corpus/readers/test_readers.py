"""What holds for every format, and what it takes to add one."""

import bz2
import gzip
import json
import lzma

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from longcat import unpacking
from longcat.config import SourceConfig
from longcat.corpus import readers
from longcat.corpus.readers import FORMATS, Format, Oversized, Reading, Slice, file_suffix, read_file
from longcat.corpus.readers.compression import COMPRESSIONS
from longcat.corpus.sources import resolve
from longcat.errors import DataError
from longcat.provenance import ROOT


def read(path, field="text", encodings=("utf-8",), limit=1 << 24):
    return list(read_file(path, Reading(field, encodings, limit)))


@pytest.mark.parametrize("suffix", [".jsonl", ".txt", ".parquet", ".jsonl.zst"])
def test_oversized_records_are_not_held(tmp_path, suffix):
    path = tmp_path / f"corpus{suffix}"
    if suffix == ".parquet":
        pq.write_table(pa.table({"text": ["x" * 1000, "short"]}), path)
    elif suffix == ".txt":
        path.write_text("x" * 1000)
    else:
        content = json.dumps({"text": "x" * 1000}).encode() + b'\n{"text": "short"}\n'
        path.write_bytes(zstandard.compress(content) if suffix.endswith("zst") else content)
    first, *rest = read(path, limit=900)
    assert isinstance(first, Oversized)
    assert first.place.startswith(str(path))
    assert rest == ([] if suffix == ".txt" else ["short"])


def test_missing_file(tmp_path):
    for name in ("a.txt", "a.jsonl", "a.parquet"):
        with pytest.raises(DataError, match=f"cannot read {tmp_path / name}: No such file"):
            read(tmp_path / name)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("a.JSONL", ".jsonl"),
        ("a.jsonl.zst", ".jsonl.zst"),
        ("a.pdf", None),
        ("a.b.txt", ".txt"),
        ("a.txt.BZ2", ".txt.bz2"),
        ("a.parquet.gz", None),
        ("gz", None),
        ("a.gz", None),
    ],
)
def test_format_by_suffix(tmp_path, name, kind):
    assert file_suffix(tmp_path / name) == kind


SUFFIXES = [suffix for known in FORMATS for suffix in known.suffixes]


def test_every_suffix_is_in_the_documentation():
    page = (ROOT / "docs/preprocess.md").read_text()
    sections = {f".{section}" for section in range(2, 8)}  # as ".1 to .8"
    assert [
        suffix for suffix in [*SUFFIXES, *COMPRESSIONS] if f"`{suffix}`" not in page and suffix not in sections
    ] == []


def test_no_two_formats_share_a_suffix():
    assert len(set(SUFFIXES)) == len(SUFFIXES)


def lz4(content):
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "lz4") as stream:
        stream.write(content)
    return sink.getvalue().to_pybytes()


PACK = {".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress, ".zst": zstandard.compress, ".lz4": lz4}


def test_every_compression_is_tried():
    assert PACK.keys() == COMPRESSIONS.keys()


@pytest.mark.parametrize("packed", PACK)
@pytest.mark.parametrize(
    ("suffix", "content"),
    [
        (".jsonl", '{"text": "first"}\n\n{"text": "last"}'),
        (".ndjson", '{"text": "first"}\n{"text": "last"}\n'),
        (".json", '[{"text": "first"},\n {"text": "}{\\\\\\""}]'), (".csv", 'text,n\n"first, ""and""\nlast",1\n'), (".tsv", "n\ttext\n1\tone"),
        (".txt", "零专家"), (".md", "# head"), (".py", "a = 'é'"), (".1", "a page"), (".html", "<p>a page</p>"),
    ],
)  # fmt: skip
def test_every_text_format_in_every_compression(tmp_path, suffix, content, packed):
    path = tmp_path / f"corpus{suffix}"
    path.write_text(content)
    expected = read(path)
    assert [record for record in expected if isinstance(record, str)] == expected != []
    compress = PACK[packed]
    content = path.read_bytes()
    path = tmp_path / f"corpus{suffix}{packed}"
    path.write_bytes(compress(content))
    assert read(path) == expected
    path.write_bytes(compress(content[:5]) + compress(content[5:]))
    assert read(path) == expected
    path.write_bytes(compress(content)[:-6])
    with pytest.raises(DataError, match=f"{path} is (cut off|not an intact)"):
        read(path)
    path.write_bytes(compress(content) + b"something else follows")
    with pytest.raises(DataError, match=f"{path} is (cut off|not an intact)"):
        read(path)
    path.write_bytes(b"this is no archive at all")
    with pytest.raises(DataError, match=f"{path} is not an intact"):
        read(path)


def test_a_long_window_of_zstd_is_read(tmp_path):
    path = tmp_path / "a.jsonl.zst"
    parameters = zstandard.ZstdCompressionParameters(window_log=31)
    packer = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    path.write_bytes(packer.compress(b'{"text": "one"}\n') + packer.flush())
    assert zstandard.get_frame_parameters(path.read_bytes()).window_size == 2**31
    assert read(path) == ["one"]


@pytest.mark.parametrize("packed", [".gz", ".xz"])
def test_padding_after_a_frame_is_no_damage(tmp_path, packed):
    path = tmp_path / f"a.txt{packed}"
    path.write_bytes(PACK[packed](b"one") + bytes(8) + PACK[packed](b" two") + bytes(4))
    assert read(path) == ["one two"]


@pytest.mark.parametrize("packed", PACK)
def test_an_archive_far_larger_than_text_is_refused(tmp_path, packed, monkeypatch):
    monkeypatch.setattr(unpacking, "FREE_BYTES", 1 << 20)
    path = tmp_path / f"a.jsonl{packed}"
    path.write_bytes(PACK[packed](bytes(8 << 20)))
    if path.stat().st_size * unpacking.RATIO > 8 << 20:
        monkeypatch.setattr(unpacking, "RATIO", 10)
    with pytest.raises(DataError, match="unpacks to more than"):
        read(path)


def _records(path, reading, begin, end):
    yield from path.read_text().split("|")[begin:end]


def _split(path, size, block_bytes):
    for number, text in enumerate(path.read_text().split("|")):
        yield Slice(number, number + 1, len(text))


def test_a_format_is_one_object_in_the_list(tmp_path, monkeypatch):
    (tmp_path / "a.bars").write_text("one|two|three")
    source = SourceConfig(kind="files", path=str(tmp_path))
    with pytest.raises(DataError, match="holds no file that can be read"):
        resolve(source, 3)
    monkeypatch.setattr(readers, "FORMATS", [*readers.FORMATS, Format((".bars",), _records, _split)])
    blocks = resolve(source, 3).blocks
    assert [list(block.records(["utf-8"], 100)) for block in blocks] == [["one"], ["two"], ["three"]]
    [whole] = resolve(source, 1000).blocks
    assert list(whole.records(["utf-8"], 100)) == ["one", "two", "three"]
