"""What holds for every format, and what it takes to add one."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from longcat.config import SourceConfig
from longcat.corpus import readers
from longcat.corpus.readers import Format, Oversized, Reading, Slice, file_suffix, read_file, suffixes
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
    ("name", "kind"), [("a.JSONL", ".jsonl"), ("a.jsonl.zst", ".jsonl.zst"), ("a.csv", None), ("a.b.txt", ".txt")]
)
def test_format_by_suffix(tmp_path, name, kind):
    assert file_suffix(tmp_path / name) == kind


def test_every_suffix_is_in_the_documentation():
    page = (ROOT / "docs/preprocess.md").read_text()
    sections = {f".{section}{packed}" for section in range(2, 8) for packed in ("", ".gz")}  # as ".1 to .8"
    assert [suffix for suffix in suffixes() if f"`{suffix}`" not in page and suffix not in sections] == []


def test_no_two_formats_share_a_suffix():
    assert len(set(suffixes())) == len(suffixes())


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
