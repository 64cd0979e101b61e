"""What is wrong with input is counted, or refused with file and place; what is right about it stays."""

import gzip
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from longcat.artifact import Workspace
from longcat.config import SourceConfig, load_config
from longcat.corpus.decontamination import known_runs
from longcat.corpus.readers import Unreadable, read_file
from longcat.corpus.shards import TokenCorpus
from longcat.corpus.sources import resolve
from longcat.corpus.stage import preprocess
from longcat.corpus.tokenizer import decode, open_tokenizer
from longcat.errors import ConfigError, DataError, LongcatError

TEXTS = [f"Document {n}: " + " ".join(f"word{(n * m) % 31}" for m in range(40)) for n in range(60)]
SOME_BAD = "corpus.max_bad_share=0.4"


def line(text):
    return json.dumps({"text": text}, ensure_ascii=False).encode()


HEALTHY = [line(text) for text in TEXTS]


def run(tmp_path, source, *overrides, report=lambda progress: None):
    config = load_config(
        "smoke",
        overrides=[
            f"corpus.sources={source}", "corpus.min_characters=20", "corpus.vocabulary_size=300", "corpus.workers=1",
            "corpus.sequence_length_tokens=256", "corpus.max_padding=0.9", "training.batch_sequences=1", *overrides,
        ],
    )  # fmt: skip
    return preprocess(config, workspace=Workspace(tmp_path / "workspace"), report=report)


def texts_of(artifact):
    """All documents, as they lie in the shards."""
    corpus = TokenCorpus.open(artifact.path)
    tokenizer = open_tokenizer(corpus.tokenizer_path)
    found, end = [], corpus.end_of_text
    for rows in (corpus.train, corpus.held_out):
        for shard in rows.index.shards:
            tokens, spans = (np.load(artifact.path / name) for name in (shard.file, shard.spans_file))
            for number, row in enumerate(tokens):
                mine = spans[spans[:, 0] == number]
                edges = [*mine[:, 1].tolist(), len(row)]
                for begin, stop, offset in zip(edges, edges[1:], mine[:, 2].tolist(), strict=False):
                    if offset == 0:
                        found.append(decode(tokenizer, [token for token in row[begin:stop] if token != end]))
    return sorted(found)


BAD_LINES = [
    pytest.param(b'{"text": "caf\xe9 au lait"}', "invalid UTF-8 at byte 13", id="invalid UTF-8"),
    pytest.param(b'{"text": "a\x00b"}', "broken JSON: Invalid control character at", id="NUL in a string"),
    pytest.param(b"\x00" * 50, "broken JSON: Expecting value at column 1", id="NUL only"),
    pytest.param('{"text": "abc"}'.encode("utf-16"), "invalid UTF-8 at byte 0", id="UTF-16"),
    pytest.param(b'{"body": "abc"}', "no field 'text'; there are: body", id="other field"),
    pytest.param(b"{}", "no field 'text'; there are: none", id="no field"),
    pytest.param(b'{"text": ["abc"]}', "the text is list, not a string", id="list"),
    pytest.param(b'"text"', "expected a JSON object, found str", id="string"),
    pytest.param(b'{"text": "abc"} {"text": "abc"}', "broken JSON: Extra data at column 17", id="two in a line"),
    pytest.param(b'{"text": "\\udc80"}', "lone surrogate at character 0", id="surrogate"),
    pytest.param(b'{"a": ' * 20_000 + b"1" + b"}" * 20_000, "unusable JSON", id="deep objects"),
    pytest.param(b'{"text": "a", "n": ' + b"9" * 6000 + b"}", "unusable JSON", id="enormous number"),
]


@pytest.mark.parametrize(("bad", "reason"), BAD_LINES)
def test_a_bad_line_is_placed_or_counted_and_the_rest_stays(tmp_path, bad, reason):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"\n".join([*HEALTHY[:30], bad, *HEALTHY[30:]]))
    with pytest.raises(DataError) as stopped:
        run(tmp_path, path, "corpus.block_bytes=3000")
    assert str(stopped.value).startswith(f"{path}, line 31: ")
    assert reason in str(stopped.value)
    assert "corpus.max_bad_share" in str(stopped.value)
    artifact = run(tmp_path, path, "corpus.block_bytes=3000", SOME_BAD)
    assert texts_of(artifact) == sorted(TEXTS)
    assert artifact.facts["bad_lines"] == 1


def test_nul_and_other_controls_in_text_are_taken_out(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"\n".join([*HEALTHY, b'{"text": "one \\u0000\\u0001two\\u0000 three and more words"}']))
    assert "one two three and more words" in texts_of(run(tmp_path, path))


def test_deep_json_beside_the_text_does_no_harm(tmp_path):
    path = tmp_path / "a.jsonl"
    deep = b'{"text": "the text of a deeply nested document", "more": ' + b"[" * 900 + b"]" * 900 + b"}"
    path.write_bytes(b"\n".join([*HEALTHY, deep]))
    assert "the text of a deeply nested document" in texts_of(run(tmp_path, path))


def test_too_much_that_is_bad_stops_with_the_first_of_it(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"\n".join([*HEALTHY, *[b"{"] * 50]))
    message = rf"50 of 110 records of a\.jsonl cannot be read, more than corpus\.max_bad_share=0\.4; the first is {path}, line 61"
    with pytest.raises(DataError, match=message):
        run(tmp_path, path, SOME_BAD, "corpus.block_bytes=3000")


def test_shares_of_what_is_bad_are_those_of_each_source(tmp_path):
    for name, bad in (("good", 0), ("bad", 30)):
        (tmp_path / f"{name}.jsonl").write_bytes(b"\n".join([*HEALTHY[bad:], *[b"{"] * bad]))
    sources = f"[{tmp_path / 'good.jsonl'}, {tmp_path / 'bad.jsonl'}]"
    with pytest.raises(DataError, match=r"30 of 60 records of bad\.jsonl"):
        run(tmp_path, sources, SOME_BAD)


def test_encodings_may_change_from_line_to_line(tmp_path):
    path = tmp_path / "a.jsonl"
    chinese = "混合专家模型把每个词交给几个专家，其余的专家不参加计算。"
    path.write_bytes(b"\n".join([*HEALTHY, line(chinese), line("又" + chinese).decode().encode("gb18030")]))
    artifact = run(tmp_path, path, "corpus.encodings=[utf-8, gb18030]")
    assert {chinese, "又" + chinese} <= set(texts_of(artifact))


@pytest.mark.parametrize("encoding", ["martian", "base64", "undefined"])
@pytest.mark.xfail(strict=True, reason="names of encodings are not looked at before the first text that needs them")
def test_an_encoding_that_is_none_is_refused(tmp_path, encoding):
    (tmp_path / "texts").mkdir()
    for number, text in enumerate(TEXTS):
        (tmp_path / "texts" / f"{number}.txt").write_text(text)
    with pytest.raises(ConfigError, match=rf"corpus\.encodings.*{encoding}"):
        run(tmp_path, tmp_path / "texts", f"corpus.encodings=[{encoding}]")


@pytest.mark.xfail(strict=True, reason="UnicodeError of odd codecs is not caught, and what they decode is not checked")
@pytest.mark.parametrize("cookie", ["undefined", "punycode", "unicode_escape", "utf-7"])
def test_python_sources_of_odd_encodings_are_unreadable(tmp_path, cookie):
    path = tmp_path / "a.py"
    path.write_bytes(f"# coding: {cookie}\nx = '\\ud800 +2AA-'\n".encode())
    [record] = read_file(path, "text", ["utf-8"], 1 << 20)
    assert isinstance(record, Unreadable)


def test_empty_files_among_others_give_nothing(tmp_path):
    (tmp_path / "texts").mkdir()
    for name in ("a.jsonl", "b.txt", "c.jsonl.gz", "d.jsonl.zst", "e.py"):
        (tmp_path / "texts" / name).touch()
    (tmp_path / "texts" / "f.jsonl").write_bytes(b"\n\n  \n" + b"\n".join(HEALTHY) + b"\n\n")
    artifact = run(tmp_path, tmp_path / "texts")
    assert texts_of(artifact) == sorted(TEXTS)
    assert artifact.facts["dropped"]["empty"] == 2  # of the text and the Python file


def test_an_empty_parquet_file_is_damaged(tmp_path):
    (tmp_path / "a.parquet").touch()
    with pytest.raises(DataError, match=f"{tmp_path / 'a.parquet'} is not an intact parquet file"):
        run(tmp_path, tmp_path / "a.parquet")


@pytest.mark.parametrize(("suffix", "pack"), [("gz", gzip.compress), ("zst", zstandard.compress)])
@pytest.mark.parametrize("share", [0.1, 0.6, 0.99])
def test_an_archive_that_is_cut_off_is_refused_whatever_share_may_be_bad(tmp_path, suffix, pack, share):
    path = tmp_path / f"a.jsonl.{suffix}"
    packed = pack(b"\n".join(HEALTHY))
    path.write_bytes(packed[: int(len(packed) * share)])
    with pytest.raises(DataError, match=f"{path} is cut off"):
        run(tmp_path, path, SOME_BAD)


@pytest.mark.xfail(strict=True, reason="such a file is said to be damaged, and fetching it again does not help")
def test_an_archive_of_a_large_window_is_read_or_told_from_a_damaged_one(tmp_path):
    path = tmp_path / "a.jsonl.zst"
    parameters = zstandard.ZstdCompressionParameters.from_level(1, window_log=28)  # zstd --long=28
    packer = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    path.write_bytes(packer.compress(b"\n".join(HEALTHY)) + packer.flush())
    try:
        assert list(read_file(path, "text", ["utf-8"], 1 << 20)) == TEXTS
    except DataError as error:
        assert "not an intact" not in str(error)


@pytest.mark.parametrize("block_bytes", [1000, 1 << 24])
def test_parquet_problems_are_placed(tmp_path, block_bytes):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"body": TEXTS}), path, row_group_size=10)
    blocks = f"corpus.block_bytes={block_bytes}"
    with pytest.raises(DataError, match=rf"{path} has no column 'text'; there are: body \(choose one with"):
        run(tmp_path, path, blocks)
    whole = path.read_bytes()
    for size in (len(whole) // 2, len(whole) - 1, 4, 0):
        path.write_bytes(whole[:size])
        with pytest.raises(DataError, match=f"{path} is not an intact parquet file"):
            run(tmp_path, path, blocks, SOME_BAD)


@pytest.mark.xfail(strict=True, raises=UnicodeDecodeError, reason="pyarrow does not only raise its own exceptions")
def test_parquet_whose_names_are_damaged_is_refused(tmp_path):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": TEXTS, "name": TEXTS}), path)
    path.write_bytes(path.read_bytes().replace(b"name", b"\xe3ame"))
    with pytest.raises(DataError, match=f"{path} is not an intact parquet file"):
        run(tmp_path, path)


def test_rows_of_parquet_without_text_are_counted(tmp_path):
    path = tmp_path / "a.parquet"
    column = pa.array([*(text.encode() for text in TEXTS), None, b"\xff\xfe"]).view(pa.string())
    pq.write_table(pa.table({"text": column}), path, row_group_size=7)
    artifact = run(tmp_path, path, "corpus.block_bytes=1000", SOME_BAD)
    assert (texts_of(artifact), artifact.facts["bad_lines"]) == (sorted(TEXTS), 2)
    with pytest.raises(DataError, match=rf"{path}, row 60: the text is null"):
        run(tmp_path, path, "corpus.block_bytes=1000")


def test_documents_of_white_space_are_empty(tmp_path):
    path = tmp_path / "a.jsonl"
    blank = ["", " ", "\n\n\t", "\u3000" * 50, "\u00a0\u2028" * 30, "\x00" * 40, "\ufeff" * 30, " \r\n" * 99]
    path.write_bytes(
        b"\n".join([*HEALTHY, *map(line, blank[:1])] + [json.dumps({"text": text}).encode() for text in blank[1:]])
    )
    artifact = run(tmp_path, path)
    assert artifact.facts["dropped"]["empty"] == len(blank)
    assert texts_of(artifact) == sorted(TEXTS)


def test_right_to_left_text_and_emoji_come_back(tmp_path):
    path = tmp_path / "a.jsonl"
    texts = [
        "مرحبا بالعالم، هذا نص عربي مع أرقام ٣٤٥٦ و 7890.",
        "שלום עולם, זה טקסט בעברית \u202bעם סימני כיוון\u202c.",
        "👩‍👩‍👧‍👦🏳️‍🌈👍🏽🇨🇳 emoji of many parts 🏴\U000e0067\U000e0062\U000e007f",
        "𠀀𠀁 and 𪛖 lie beyond the basic plane, 𝒜 too",
        "Zalgo: z̷̢̛a̴l̵g̶o̸ and ไทย without spaces ระหว่างคำ",
    ]
    path.write_bytes(b"\n".join([*HEALTHY, *map(line, texts)]))
    assert set(texts) <= set(texts_of(run(tmp_path, path)))


def test_documents_of_one_character(tmp_path):
    path = tmp_path / "a.jsonl"
    letters = [chr(code) for code in range(0x4E00, 0x4E00 + 3000)]
    path.write_bytes(b"\n".join(map(line, letters)))
    artifact = run(tmp_path, path, "corpus.min_characters=1", "corpus.block_bytes=20000")
    assert texts_of(artifact) == sorted(letters)
    assert artifact.facts["length_log2"] == {"0": 3000}


def test_a_file_that_vanishes_after_it_was_found(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"\n".join(HEALTHY))

    def vanish(progress):
        if progress.message.startswith("reading"):
            path.unlink(missing_ok=True)

    with pytest.raises(DataError, match=rf"cannot read {path}: No such file"):
        run(tmp_path, path, "corpus.block_bytes=3000", report=vanish)


@pytest.fixture
def not_root():
    """Somebody who has to ask for leave, and a folder of theirs."""
    root = os.geteuid() == 0
    folder = Path(tempfile.mkdtemp())
    if root:
        os.chown(folder, 65534, 65534)
        os.seteuid(65534)
    yield folder
    if root:
        os.seteuid(0)
    for path in (folder, *folder.iterdir()):
        path.chmod(0o700)
    shutil.rmtree(folder)


def test_files_and_folders_that_may_not_be_read_are_named(not_root):
    inner = not_root / "inner"
    inner.mkdir()
    file = inner / "a.jsonl"
    file.write_bytes(HEALTHY[0])
    file.chmod(0)
    for source in (file, inner):
        with pytest.raises(DataError, match=rf"cannot read {file}: Permission denied"):
            resolve(SourceConfig(kind="files", path=str(source)), 1000)
    file.chmod(0o600)
    inner.chmod(0)
    for source in (inner, not_root):
        with pytest.raises(DataError, match=rf"cannot read folder {inner}: Permission denied"):
            resolve(SourceConfig(kind="files", path=str(source)), 1000)


@pytest.mark.xfail(strict=True, raises=PermissionError, reason="is_dir() raises what a folder above forbids")
def test_a_file_in_a_folder_that_may_not_be_entered_is_named(not_root):
    inner = not_root / "inner"
    inner.mkdir()
    inner.chmod(0)
    with pytest.raises(DataError, match=r"a\.jsonl"):
        resolve(SourceConfig(kind="files", path=str(inner / "a.jsonl")), 1000)


@pytest.mark.xfail(strict=True, reason="only ValueErrors of reading JSON are caught")
@pytest.mark.parametrize("content", [b'{"question": "\\ud800"}', b'{"a": ' * 20_000 + b"1" + b"}" * 20_000])
def test_evaluation_sets_that_cannot_be_used_are_named(tmp_path, content):
    path = tmp_path / "set.jsonl"
    path.write_bytes(b'{"question": "one"}\n' + content)
    with pytest.raises(LongcatError, match=f"{path}:2"):
        known_runs([path])


MEMORY = """
import sys, time
import psutil
from longcat.config import SourceConfig
from longcat.corpus.readers import Oversized
from longcat.corpus.sources import resolve

import pyarrow, zstandard, orjson
process = psutil.Process()
[block] = resolve(SourceConfig(kind="files", path=sys.argv[1]), 1 << 40).blocks
list(block.records(["utf-8"], 1000))  # whatever is loaded once
before, most = process.memory_info().rss, 0
import threading
stop = threading.Event()
def watch():
    global most
    while not stop.wait(0.002):
        most = max(most, process.memory_info().rss)
thread = threading.Thread(target=watch); thread.start()
[block] = resolve(SourceConfig(kind="files", path=sys.argv[2]), 1 << 40).blocks
records = [type(record).__name__ for record in block.records(["utf-8"], 13_000_000)]
stop.set(); thread.join()
print(records, (most - before) // 1_000_000)
"""


def sparse(path):
    """A line of 200 MB between two healthy ones that takes no room on disk."""
    with path.open("wb") as stream:
        stream.write(HEALTHY[0] + b"\n")
        stream.seek(200_000_000, os.SEEK_CUR)
        stream.write(b"\n" + HEALTHY[1] + b"\n")


@pytest.mark.slow
@pytest.mark.parametrize(
    "suffix",
    [
        ".jsonl",
        ".jsonl.gz",
        pytest.param(
            ".jsonl.zst", marks=pytest.mark.xfail(strict=True, reason="whatever a megabyte unpacks to is held at once")
        ),
    ],
)
def test_a_line_of_200_megabytes_is_not_held_in_memory(tmp_path, suffix):
    small, large = tmp_path / f"small{suffix}", tmp_path / f"large{suffix}"
    pack = {".jsonl": bytes, ".jsonl.gz": gzip.compress, ".jsonl.zst": zstandard.compress}[suffix]
    small.write_bytes(pack(HEALTHY[0] + b"\n"))
    sparse(tmp_path / "plain")
    if suffix == ".jsonl":
        (tmp_path / "plain").rename(large)
    else:
        archive = gzip if suffix.endswith("gz") else zstandard
        with (tmp_path / "plain").open("rb") as stream, archive.open(large, "wb") as packed:
            shutil.copyfileobj(stream, packed, 1 << 20)
    done = subprocess.run(
        [sys.executable, "-c", MEMORY, str(small), str(large)],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
        cwd=Path(__file__).parents[2],
    )
    kinds, grown = done.stdout.strip().rsplit(" ", 1)
    assert kinds == "['str', 'Oversized', 'str']"
    assert int(grown) < 100


@pytest.mark.slow
def test_a_million_copies_of_a_short_document_take_seconds(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"\n".join([*HEALTHY, b'{"text": "the same again"}\n' * 1_000_000]))
    began = time.process_time()
    artifact = run(tmp_path, path, "corpus.min_characters=5")
    assert time.process_time() - began < 20
    assert artifact.facts["dropped"]["duplicate"] == 999_999
    assert texts_of(artifact) == sorted([*TEXTS, "the same again"])
