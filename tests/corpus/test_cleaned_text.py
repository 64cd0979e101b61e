"""Cleaned text that is written out is what preprocessing keeps, and can be read again."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from longcat.artifact import Workspace
from longcat.config import load_config
from longcat.corpus import cleaned_text
from longcat.corpus.cleaned_text import write_cleaned_text
from longcat.corpus.readers import Reading, read_file
from longcat.corpus.stage import preprocess
from longcat.errors import ConfigError
from tests.corpus.test_tokenised_documents import TEXTS, texts_of

NOTICE = "This notice stands at the end of every page and says nothing new. " * 2
EXTRA = ["short", TEXTS[3], TEXTS[10].replace("Log 10.", "Log ten."), f"{TEXTS[11]} Write to anna@example.com."]


def score(text):
    return float(len(text))


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cleaned") / "corpus"
    folder.mkdir()
    rows = [{"text": f"{text}\n\n{NOTICE}", "id": n, "url": f"https://example.com/{n}"} for n, text in enumerate(TEXTS)]
    rows[12]["url"] = rows[13]["id"] = None
    (folder / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    table = pa.table({"id": ["p1", "p2", "p3", "p4"], "text": EXTRA, "more": [1, 2, 3, 4]})
    pq.write_table(table, folder / "b.parquet")
    return folder


def configure(source, *overrides):
    return load_config(
        "smoke",
        overrides=[
            f"corpus.sources={source}", "corpus.min_characters=20", "corpus.vocabulary_size=300",
            "corpus.block_bytes=20000", "corpus.workers=1", "corpus.near_duplicates={threshold: 0.7}",
            "corpus.repeated_paragraph_characters=60", "corpus.mask=[email]",
            f"corpus.quality={{function: '{__name__}:score', minimum: 30}}", *overrides,
        ],
    )  # fmt: skip


def write(source, tmp_path, format="jsonl", *overrides, **options):
    return write_cleaned_text(
        configure(source, *overrides), tmp_path / "text", format, workspace=Workspace(tmp_path / "w"), **options
    )


def rows_of(folder):
    """The rows of all files of a folder, and the texts that the corpus readers find in them."""
    rows, texts = [], []
    for path in sorted(folder.iterdir()):
        read = list(read_file(path, Reading("text", ["utf-8"], 1 << 20)))
        texts += map(str, read)
        if path.suffix == ".parquet":
            rows += pq.read_table(path).to_pylist()
        else:
            import zstandard

            with zstandard.open(path, "rt", encoding="utf-8") as stream:
                rows += map(json.loads, stream)
    assert [row["text"] for row in rows] == texts
    return rows


@pytest.mark.parametrize("format", ["jsonl", "parquet"])
def test_kept_and_dropped_documents_are_written_with_what_is_known_of_them(source, tmp_path, format):
    about = write(source, tmp_path, format)
    folder = tmp_path / "text"
    kept, dropped = rows_of(folder / "kept"), rows_of(folder / "dropped")
    tokens = preprocess(configure(source), workspace=Workspace(tmp_path / "w"))
    assert [row["text"] for row in kept] == texts_of(tokens)
    assert (about["kept"], about["dropped"]) == (len(kept), len(dropped)) == (len(TEXTS), 4)
    assert kept[5] == {
        "id": "5", "url": "https://example.com/5", "source": "corpus", "language": None,
        "quality": float(len(f"{TEXTS[5]}\n\n{NOTICE}")), "text": kept[5]["text"],
    }  # fmt: skip
    assert kept[12]["url"] is None
    assert kept[13]["id"].startswith("000/0000/")
    assert [(row["id"], row["reason"]) for row in dropped][:1] == [("p1", "too_short")]
    assert {row["id"]: row["reason"] for row in dropped} == {
        "p1": "too_short", "p2": "near_duplicate", "p3": "near_duplicate", "p4": "near_duplicate",
    }  # fmt: skip
    assert "anna@example.com" not in dropped[-1]["text"]
    assert json.loads((folder / "about.json").read_text()) == about
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".text")] == []


@pytest.mark.parametrize(("format", "loader"), [("jsonl", "json"), ("parquet", "parquet")])
def test_datasets_reads_what_is_written(source, tmp_path, format, loader):
    datasets = pytest.importorskip("datasets")
    write(source, tmp_path, format)
    files = sorted(str(path) for path in (tmp_path / "text" / "kept").iterdir())
    loaded = datasets.load_dataset(loader, data_files=files, split="train", cache_dir=str(tmp_path / "cache"))
    assert loaded["text"] == [row["text"] for row in rows_of(tmp_path / "text" / "kept")]


def test_what_is_interrupted_goes_on_and_nothing_is_half_there(source, tmp_path, monkeypatch):
    write_block, calls = cleaned_text.write_text_of_block, []

    def failing(task):
        if len(calls) == 3:
            raise KeyboardInterrupt
        calls.append(task.block.name)
        return write_block(task)

    monkeypatch.setattr(cleaned_text, "write_text_of_block", failing)
    with pytest.raises(KeyboardInterrupt):
        write(source, tmp_path)
    assert not (tmp_path / "text").exists()
    first = {path.name: path.stat().st_mtime_ns for path in (tmp_path / ".text.partial" / "text" / "kept").iterdir()}
    assert len(first) == 3
    monkeypatch.setattr(cleaned_text, "write_text_of_block", write_block)
    about = write(source, tmp_path)
    kept = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "text" / "kept").iterdir()}
    assert first.items() <= kept.items()
    assert about["kept"] == len(rows_of(tmp_path / "text" / "kept"))
    assert write(source, tmp_path) == about  # it is there: nothing is done
    assert {path.name: path.stat().st_mtime_ns for path in (tmp_path / "text" / "kept").iterdir()} == kept


def test_folders_of_others_are_refused(source, tmp_path):
    folder = tmp_path / "text"
    folder.mkdir()
    (folder / "mine").write_text("x")
    with pytest.raises(ConfigError, match="holds something else"):
        write(source, tmp_path)
    assert [path.name for path in folder.iterdir()] == ["mine"]
    (folder / "mine").unlink()
    write(source, tmp_path)
    with pytest.raises(ConfigError, match="another corpus, configuration or format"):
        write(source, tmp_path, "parquet")
    with pytest.raises(ConfigError, match="another corpus, configuration or format"):
        write(source, tmp_path, "jsonl", "corpus.min_characters=30")


def test_several_compressed_files_are_several_blocks(tmp_path):
    import gzip

    from longcat.config import SourceConfig
    from longcat.corpus.sources import resolve

    for number in range(3):
        lines = "".join(json.dumps({"text": f"{text} {number}"}) + "\n" for text in TEXTS)
        Path(tmp_path / f"{number}.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    assert len(resolve(SourceConfig(kind="files", path=str(tmp_path)), 20_000).blocks) == 3
