import hashlib
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from longcat.config import CorpusConfig, SourceConfig
from longcat.corpus.block_arrays import content_hash
from longcat.corpus.block_tasks import (
    JudgeTask,
    TokeniseTask,
    judge_block,
    kept_texts,
    tokenise_block,
    without,
)
from longcat.corpus.decontamination import NO_RUNS
from longcat.corpus.judged import JudgedBlock
from longcat.corpus.sources import resolve
from longcat.corpus.tokenizer import decode, open_tokenizer, train_tokenizer
from longcat.errors import DataError

TEXTS = [f"Text {n} of 専門家, " + "again and again " * (n % 5) + "😀" for n in range(30)]


def task(tmp_path, lines, limit=None, tolerant=False, **settings):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"\n".join(lines))
    corpus = CorpusConfig.model_validate({"min_characters": 5, **settings})
    [block] = resolve(SourceConfig(kind="files", path=str(path)), 1 << 24).blocks
    known = tmp_path / "known.npy"
    np.save(known, NO_RUNS)
    return JudgeTask(corpus, block, tolerant, tmp_path, "000-00000", known, limit)


def lines_of(texts):
    return [json.dumps({"text": text}).encode() for text in texts]


def judged(tmp_path, lines, **options):
    return JudgedBlock(tmp_path, judge_block(task(tmp_path, lines, **options)), 0)


def texts_of(block):
    ends = block.arrays().ends.tolist()
    return [block.read(begin, end).decode() for begin, end in zip([0, *ends], ends, strict=False)]


def test_documents_of_a_block_come_back(tmp_path):
    block = judged(tmp_path, lines_of(TEXTS))
    arrays = block.arrays()
    assert texts_of(block) == TEXTS
    assert arrays.characters.tolist() == list(map(len, TEXTS))
    assert arrays.digests.shape == (len(TEXTS), 2)
    first = content_hash(TEXTS[0].encode())
    assert arrays.digests[0].tolist() == [int.from_bytes(first[:8], "big"), int.from_bytes(first[8:], "big")]
    assert len(arrays.paragraphs) == 0
    assert block.counts["texts"] == len(TEXTS)


def test_what_a_block_leaves_out_is_counted(tmp_path):
    lines = [*lines_of([*TEXTS, TEXTS[0], TEXTS[0], "abc", "abc", "", "x" * 2000]), b"{", b'{"other": 1}']
    block = judged(tmp_path, lines, max_characters=1000, max_bad_fraction=0.5)
    counts = block.counts
    assert counts["dropped"] == {"mojibake": 0, "empty": 1, "too_short": 2, "too_long": 1, "duplicate": 2}
    assert (counts["texts"], counts["bad"]) == (len(TEXTS) + 6, 2)
    assert counts["first_bad"] == (
        f"{tmp_path / 'a.jsonl'}, line {len(TEXTS) + 7}: broken JSON: Expecting property name enclosed in double quotes "
        "at column 2"
    )
    assert counts["samples"]["too_short"] == ["abc", "abc"]
    assert "empty" not in counts["samples"]


def test_an_unreadable_record_stops_the_block_unless_some_are_allowed(tmp_path):
    lines = [*lines_of(TEXTS[:2]), b"{"]
    with pytest.raises(DataError, match=r"a\.jsonl, line 3: broken JSON.*corpus\.max_bad_fraction"):
        judged(tmp_path, lines)
    assert not (tmp_path / "000-00000.json").exists()
    assert judged(tmp_path, lines, tolerant=True).counts["bad"] == 1


@pytest.mark.parametrize("limit", [1, 2, 29, 30, 31])
def test_a_limit_counts_what_is_read(tmp_path, limit):
    block = judged(tmp_path, lines_of(TEXTS), limit=limit)
    assert texts_of(block) == TEXTS[:limit]
    assert block.counts["texts"] == min(limit, 30)


def test_nothing_is_read_behind_the_limit(tmp_path):
    block = judged(tmp_path, [*lines_of(TEXTS[:2]), b"{"], limit=2)
    assert (texts_of(block), block.counts["bad"]) == (TEXTS[:2], 0)


def test_a_finished_block_is_left_alone_and_an_unfinished_one_is_written_anew(tmp_path):
    one = task(tmp_path, lines_of(TEXTS))
    judge_block(one)
    before = {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in tmp_path.glob("000-*")}
    judge_block(one)
    assert {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in tmp_path.glob("000-*")} == before
    (tmp_path / "000-00000.json").unlink()
    for name in ("000-00000.text", "000-00000.arrays.npz"):
        with (tmp_path / name).open("r+b") as stream:
            stream.truncate(7)
    judge_block(one)
    assert (tmp_path / "000-00000.text").read_bytes() == before["000-00000.text"][0]
    assert texts_of(JudgedBlock(tmp_path, "000-00000", 0)) == TEXTS


def tokenise(tmp_path, keep, cuts=()):
    train_tokenizer(TEXTS, 400).save(str(tmp_path / "tokenizer.json"))
    one = TokeniseTask(
        scratch=tmp_path,
        name="000-00000",
        number=5,
        source=2,
        held_out_fraction=0.5,
        keep=np.array(keep),
        cuts=np.array(cuts, np.int64).reshape(-1, 3),
        tokenizer=tmp_path / "tokenizer.json",
        tokens=tmp_path / "000-00000.tokens.npy",
        dtype=np.uint16,
        end_of_text=2,
    )
    tokenise_block(one)
    return one, np.load(one.tokens), JudgedBlock(tmp_path, one.name, 0).rows()["tokens"]


def test_tokens_are_those_of_the_documents_kept(tmp_path):
    judged(tmp_path, lines_of(TEXTS))
    keep = [n % 3 != 1 for n in range(30)]
    one, tokens, lengths = tokenise(tmp_path, keep)
    expected = [text for text, kept in zip(TEXTS, keep, strict=True) if kept]
    assert list(kept_texts(one)) == expected
    assert tokens.dtype == np.uint16
    found = np.split(tokens, np.cumsum(lengths))[:-1]
    tokenizer = open_tokenizer(one.tokenizer)
    assert [decode(tokenizer, document[:-1]) for document in found] == expected
    assert {int(document[-1]) for document in found} == {2}
    written = one.tokens.stat().st_mtime_ns
    tokenise_block(one)
    assert one.tokens.stat().st_mtime_ns == written


def test_rows_of_the_table_are_those_of_the_documents_kept(tmp_path):
    judged(tmp_path, lines_of(TEXTS))
    tokenise(tmp_path, [n % 3 != 1 for n in range(30)])
    rows = JudgedBlock(tmp_path, "000-00000", 0).rows()
    digests = [hashlib.sha256(text.encode()).digest() for n, text in enumerate(TEXTS) if n % 3 != 1]
    assert rows["key"].tolist() == [int.from_bytes(digest[8:16], "big") for digest in digests]
    assert rows["held_out"].tolist() == [digest[0] < 128 for digest in digests]
    assert rows["begin"].tolist() == [0, *np.cumsum(rows["tokens"])[:-1].tolist()]
    assert ({*rows["block"].tolist()}, {*rows["source"].tolist()}) == ({5}, {2})


def test_nothing_kept_gives_no_tokens(tmp_path):
    judged(tmp_path, lines_of(TEXTS))
    _, tokens, lengths = tokenise(tmp_path, [False] * 30)
    assert (len(tokens), len(lengths)) == (0, 0)


def test_cuts_are_left_out_of_the_tokens(tmp_path):
    judged(tmp_path, lines_of(["keep this CUT and this CUT.", "CUT whole", "nothing here"]))
    one, *_ = tokenise(tmp_path, [True, True, True], [[0, 10, 14], [0, 22, 26], [1, 0, 4]])
    assert list(kept_texts(one)) == ["keep this and this.", "whole", "nothing here"]


@given(st.binary(max_size=40), st.lists(st.integers(0, 40), max_size=6))
def test_without_pieces_the_rest_remains(content, edges):
    edges = sorted({min(edge, len(content)) for edge in edges})
    cuts = np.array(edges[: len(edges) // 2 * 2], np.int64).reshape(-1, 2)
    gone = {place for begin, end in cuts for place in range(begin, end)}
    assert without(content, cuts) == bytes(byte for place, byte in enumerate(content) if place not in gone)


def test_signatures_are_those_of_the_documents(tmp_path):
    block = judged(tmp_path, lines_of([*TEXTS, TEXTS[0], "x"]), near_duplicates={"bands": 3, "rows": 2})
    assert block.signatures().shape == (len(TEXTS), 6)
    assert block.signatures().dtype == np.uint32
