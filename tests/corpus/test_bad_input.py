"""What a corpus may hold that it should not: each is counted or refused with its place, and the rest is kept."""

import gzip
import json
import os
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from longcat.artifact import Workspace
from longcat.config import load_config
from longcat.corpus.stage import preprocess
from longcat.errors import DataError
from tests.corpus.test_tokenised_documents import TEXTS, texts_of

LINES = [json.dumps({"text": text}) for text in TEXTS[:80]]


def run(tmp_path, path, *overrides, workspace="workspace"):
    config = load_config(
        "smoke",
        overrides=[f"corpus.sources={path}", "corpus.min_characters=20", "corpus.vocabulary_size=300", *overrides],
    )
    return preprocess(config, workspace=Workspace(tmp_path / workspace))


BROKEN = {
    b'{"text": "cut': "broken JSON",
    b'{"text": "\xff\xfe is not text"}': "invalid UTF-8 at byte 10",
    b'{"body": "another name"}': "no field 'text'; there are: body",
    b'{"text": ["a", 3]}': "item 2 of the text's list: the text is int",
    b'{"text": {"a": "map"}}': "the text is dict",
    b'{"text": "raw \x00 NUL"}': "broken JSON",
    b"[" * 5000 + b"]" * 5000: "unusable JSON|broken JSON|expected a JSON object",
    rb'{"text": "\ud800 alone"}': "not Unicode text: lone surrogate at character 0",
    '{"text": "零专家"}'.encode("gb18030"): "invalid UTF-8",
}


@pytest.mark.parametrize("line", BROKEN)
def test_a_broken_record_is_refused_with_its_place_or_counted(tmp_path, line):
    path = tmp_path / "a.jsonl"
    path.write_bytes("\n".join(LINES[:50]).encode() + b"\n" + line + b"\n" + "\n".join(LINES[50:]).encode())
    with pytest.raises(DataError, match=rf"a\.jsonl, line 51: (?:{BROKEN[line]}).*corpus\.max_bad_fraction"):
        run(tmp_path, path)
    tokens = run(tmp_path, path, "corpus.max_bad_fraction=0.02")
    assert tokens.facts.bad_lines == 1
    assert texts_of(tokens) == TEXTS[:80]


@pytest.mark.parametrize("block_bytes", [500, 3000])
def test_the_place_is_right_in_any_block(tmp_path, block_bytes):
    path = tmp_path / "a.jsonl"
    path.write_text("\n".join([*LINES[:70], "", "{", *LINES[70:]]))
    with pytest.raises(DataError, match=r"a\.jsonl, line 72: broken JSON"):
        run(tmp_path, path, f"corpus.block_bytes={block_bytes}", "corpus.workers=1")


@pytest.mark.parametrize(("suffix", "compress"), [(".jsonl.zst", zstandard.compress), (".jsonl.gz", gzip.compress)])
def test_files_that_are_cut_off_are_refused(tmp_path, suffix, compress):
    path = tmp_path / f"a{suffix}"
    content = compress("\n".join(LINES).encode())
    path.write_bytes(content[:-20])
    with pytest.raises(DataError, match=rf"a\{suffix} is cut off"):
        run(tmp_path, path, "corpus.max_bad_fraction=0.9")
    path.write_bytes(content[:50] + b"\x00" * 50 + content[100:])
    with pytest.raises(DataError, match=r"not an intact gzip file|records of a\.jsonl\.zst cannot be read"):
        run(tmp_path, path, "corpus.max_bad_fraction=0.9")  # zstd's frames have no checksum unless one is asked for
    path.write_bytes(b"no such thing")
    with pytest.raises(DataError, match="not an intact (zstd|gzip) file"):
        run(tmp_path, path)


def test_parquet_with_other_columns_and_cut_off(tmp_path):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"body": TEXTS[:80], "n": range(80)}), path)
    with pytest.raises(DataError, match=r"a\.parquet has no column 'text'; there are: body, n .*text_field"):
        run(tmp_path, path)
    path.write_bytes(path.read_bytes()[:-100])
    for block_bytes in (100, 10**9):
        with pytest.raises(DataError, match=r"a\.parquet is not an intact parquet file"):
            run(tmp_path, path, f"corpus.block_bytes={block_bytes}")


def test_row_groups_of_parquet_are_blocks(tmp_path):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": [*TEXTS[:60], None, *TEXTS[60:80]]}), path, row_group_size=7)
    with pytest.raises(DataError, match=r"a\.parquet, row 60: the text is null"):
        run(tmp_path, path, "corpus.block_bytes=9000", "corpus.workers=1")
    tokens = run(tmp_path, path, "corpus.block_bytes=9000", "corpus.workers=1", "corpus.max_bad_fraction=0.1")
    assert texts_of(tokens) == TEXTS[:80]


def test_empty_files_and_empty_documents_are_no_harm(tmp_path):
    (tmp_path / "texts").mkdir()
    for name in ("a.jsonl", "b.txt", "c.jsonl.gz"):
        (tmp_path / "texts" / name).write_bytes(gzip.compress(b"") if name.endswith("gz") else b"")
    blank = [json.dumps({"text": text}) for text in ("", " \t\n", "\u3000\ufeff", "\x00\x00", "x")]
    (tmp_path / "texts" / "d.jsonl").write_text("\n".join([*LINES, *blank, "", "   "]))
    tokens = run(tmp_path, tmp_path / "texts")
    assert tokens.facts.dropped == {"mojibake": 0, "empty": 4, "too_short": 2, "too_long": 0, "duplicate": 0}
    assert texts_of(tokens) == TEXTS[:80]


def test_control_characters_go_and_every_script_comes_back(tmp_path):
    strange = [
        "مرحبا بالعالم، هذا نص من اليمين إلى اليسار مع أرقام ١٢٣",
        "שלום עולם, טקסט מימין לשמאל עם סימן ‏ וסוף",
        "emoji 👩🏽‍🚀🧑‍🧑‍🧒‍🧒 and flags 🇨🇳🇬🇷, keycaps 1️⃣ and astral 𝕬𝖇𝖈 𠀀𠀁",
        "ไทยไม่มีช่องว่างระหว่างคำ แต่ก็ยังเป็นข้อความ",
    ]
    nul = "the \x00NUL\x07 and the bell are gone, the tab\tstays"
    path = tmp_path / "a.jsonl"
    path.write_text("\n".join([*LINES, *(json.dumps({"text": text}) for text in [*strange, nul])]))
    found = texts_of(run(tmp_path, path, "corpus.near_duplicates={}", "corpus.filters=[gopher_top_ngrams]"))
    assert found[80:] == [*strange, "the NUL and the bell are gone, the tab\tstays"]


def test_text_that_was_decoded_wrongly_is_counted_and_shown(tmp_path):
    wrong = [
        "您的外卖订单已经送达，请及时取餐，谢谢您的耐心等待".encode().decode("latin-1"),
        "caf\ufffd d\ufffdj\ufffd vu, encore une fois",
    ]
    path = tmp_path / "a.jsonl"
    path.write_text("\n".join([*LINES, *(json.dumps({"text": text}) for text in wrong)]))
    (tmp_path / "b.pdf").touch()
    with pytest.warns(UserWarning, match="files that are not read: 1 .pdf"):
        tokens = run(tmp_path, tmp_path / "*.*")
    assert tokens.facts.dropped["mojibake"] == 2
    assert texts_of(tokens) == TEXTS[:80]
    assert tokens.facts.sources[0]["left_out"] == {".pdf": 1}
    for name in ("card.html", "card.md"):
        card = (tokens.path / name).read_text()
        assert "mojibake" in card
        assert "that were not read: 1 .pdf" in card.replace("\\", "")
    assert "encore une fois" in (tokens.path / "card.html").read_text()
    mended = run(tmp_path, path, "corpus.repair_encoding=true")
    assert mended.facts.dropped["mojibake"] == 1


def test_files_that_vanish_or_may_not_be_read(tmp_path, monkeypatch):
    folder = tmp_path / "texts"
    folder.mkdir()
    for number, text in enumerate(TEXTS[:80]):
        (folder / f"{number:03d}.txt").write_text(text)
    from longcat.corpus import stage

    def vanish(*how):
        found = resolve(*how)
        (folder / "041.txt").unlink()
        return found

    resolve = stage.resolve
    with monkeypatch.context() as patch, pytest.raises(DataError, match=r"cannot read .*041\.txt: No such file"):
        patch.setattr(stage, "resolve", vanish)
        run(tmp_path, folder)
    assert len(texts_of(run(tmp_path, folder))) == 79
    if os.getuid():  # root may read everything
        (folder / "closed").mkdir(mode=0)
        with pytest.raises(DataError, match="closed: Permission denied"):
            run(tmp_path, folder)


MEASURE = """
import resource, sys
from longcat.artifact import Workspace
from longcat.config import load_config
from longcat.corpus.stage import preprocess

if __name__ == "__main__":
    for path in sys.argv[2:]:
        overrides = [f"corpus.sources={path}", "corpus.min_characters=20", "corpus.vocabulary_size=300",
                     "corpus.workers=1", "corpus.max_characters=100000"]
        tokens = preprocess(load_config("smoke", overrides=overrides), workspace=Workspace(sys.argv[1]))
        print(tokens.facts.dropped, tokens.facts.documents)
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""


def measured(tmp_path, *paths):
    """What is dropped from each file, and the most memory in MB so far, of a process that reads one after the other."""
    (tmp_path / "measure.py").write_text(MEASURE)
    command = [sys.executable, str(tmp_path / "measure.py"), str(tmp_path / "workspace"), *map(str, paths)]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip().splitlines()
    return list(zip(lines[::2], map(int, lines[1::2]), strict=True))


@pytest.mark.slow
def test_a_line_of_100_megabytes_is_counted_and_not_held(tmp_path):
    small, large = tmp_path / "small.jsonl", tmp_path / "large.jsonl"
    small.write_text("\n".join(LINES))
    with large.open("w") as stream:
        stream.write("\n".join(LINES[:40]) + '\n{"text": "')
        for _ in range(100):
            stream.write("abcde fgh " * 100_000)
        stream.write('"}\n' + "\n".join(LINES[40:]))
    (_, before), (dropped, after) = measured(tmp_path, small, large)
    assert dropped == "{'mojibake': 0, 'empty': 0, 'too_short': 0, 'too_long': 1, 'duplicate': 0} 80"
    assert after - before < 50


@pytest.mark.slow
def test_a_hundred_thousand_identical_documents_are_one(tmp_path):
    path = tmp_path / "a.jsonl"
    with path.open("w") as stream:
        stream.write("\n".join(LINES) + "\n")
        for _ in range(10):
            stream.write((LINES[3] + "\n") * 10_000)
    tokens = run(tmp_path, path, "corpus.near_duplicates={}")
    assert tokens.facts.dropped["duplicate"] == 100_000
    assert texts_of(tokens) == TEXTS[:80]


@pytest.mark.slow
def test_very_many_short_documents(tmp_path):
    path = tmp_path / "a.jsonl"
    with path.open("w") as stream:
        for number in range(0, 70_000, 1000):  # more than 16 bits can count
            stream.write("".join(f'{{"text": "{n}"}}\n' for n in range(number, number + 1000)))
    tokens = run(tmp_path, path, "corpus.min_characters=1")
    assert tokens.facts.documents == 70_000
    assert tokens.facts.padding_fraction < 0.01
    assert (
        np.load(tokens.path.parents[1] / "documents" / tokens.facts.documents_artifact / "documents.npy")[
            "tokens"
        ].sum()
        == tokens.facts.tokens
    )
