import errno
import json
import shutil

import numpy as np
import pytest

from longcat.artifact import Workspace
from longcat.config import load_config
from longcat.corpus.shards import TokenCorpus
from longcat.corpus.stage import preprocess
from longcat.corpus.tokenizer import decode, open_tokenizer
from longcat.errors import Cancelled, DataError, StorageError

TEXTS = [f"Document {n}: " + " ".join(f"word{(n * m) % 31}" for m in range(60)) + "\n" for n in range(80)]


def write(path, texts=TEXTS, extra=()):
    lines = [json.dumps({"text": text}) for text in texts]
    path.write_text("\n".join([*lines, *extra]) + "\n")
    return path


def configure(path, *overrides):
    return load_config(
        "smoke",
        overrides=[f"corpus.sources={path}", "corpus.min_characters=20", "corpus.vocabulary_size=400", *overrides],
    )


def run(tmp_path, path, *overrides, workspace="workspace", **options):
    return preprocess(configure(path, *overrides), workspace=Workspace(tmp_path / workspace), **options)


def files(artifact):
    return {file.name: file.read_bytes() for file in artifact.path.iterdir() if file.stem not in ("manifest", "card")}


def finished(workspace):
    return [path for path in workspace.glob("*/*") if not path.name.startswith(".")]


def documents_of(artifact, rows):
    """The documents that lie in one row, as texts."""
    corpus = TokenCorpus.open(artifact.path)
    tokenizer = open_tokenizer(corpus.tokenizer_path)
    batch = getattr(corpus, rows).take(np.arange(len(getattr(corpus, rows))))
    found = []
    for tokens, targets, documents in zip(batch.tokens, batch.targets, batch.documents, strict=True):
        for number in range(documents.max() + 1):
            mine = np.flatnonzero(documents == number)
            last = targets[mine[-1]] if tokens[mine[-1]] != corpus.end_of_text else corpus.end_of_text
            if last == corpus.end_of_text:
                found.append(decode(tokenizer, tokens[mine][tokens[mine] != corpus.end_of_text]))
    return found


LONG_ROWS = ("corpus.sequence_length_tokens=256", "corpus.max_padding=0.9")


def test_documents_come_back_from_the_shards(tmp_path):
    artifact = run(tmp_path, write(tmp_path / "a.jsonl"), "corpus.shard_sequences=16", *LONG_ROWS)
    corpus = TokenCorpus.open(artifact.path)
    assert len(corpus.train.index.shards) > 1
    assert all(shard.rows <= 16 for shard in corpus.train.index.shards)
    train, held_out = documents_of(artifact, "train"), documents_of(artifact, "held_out")
    assert sorted(train + held_out) == sorted(TEXTS)
    assert held_out
    facts = artifact.facts
    assert facts["documents"] == len(TEXTS) == corpus.train.index.documents + corpus.held_out.index.documents
    assert facts["train_rows"] == len(corpus.train)
    assert facts["train_tokens"] == len(corpus.train) * 256
    assert facts["text_bytes"] == sum(map(len, TEXTS))
    assert facts["bytes_per_token"] == pytest.approx(facts["text_bytes"] / facts["tokens"])
    used = (1 - facts["padding_share"]) * facts["train_rows"] * 257
    held_out_used = corpus.held_out.index.rows * 257 - corpus.held_out.index.padding_tokens
    assert used + held_out_used == pytest.approx(facts["tokens"])


def test_same_content_gives_the_same_digest_and_bytes_wherever_it_lies(tmp_path):
    first = run(tmp_path, write(tmp_path / "a.jsonl"), workspace="one")
    (tmp_path / "elsewhere").mkdir()
    shutil.copy(tmp_path / "a.jsonl", tmp_path / "elsewhere" / "b.jsonl")
    second = run(tmp_path, tmp_path / "elsewhere" / "b.jsonl", workspace="two")
    assert second.digest == first.digest
    assert files(second) == files(first)
    third = run(tmp_path, tmp_path / "a.jsonl", "corpus.workers=1", workspace="three")
    assert files(third) == files(first)


def test_second_run_reuses_and_other_content_does_not(tmp_path):
    first = run(tmp_path, write(tmp_path / "a.jsonl"))
    again = run(tmp_path, tmp_path / "a.jsonl")
    assert (first.cached, again.cached, again.digest) == (False, True, first.digest)
    other = run(tmp_path, write(tmp_path / "a.jsonl", TEXTS[::-1]))
    assert not other.cached
    assert other.digest != first.digest


def test_what_is_left_out_is_counted(tmp_path):
    texts = [*TEXTS, TEXTS[3], TEXTS[5] + "\r", "short", "", "y" * 3000]
    path = write(tmp_path / "a.jsonl", texts, extra=['{"text": "cut', '{"other": 1}'])
    artifact = run(tmp_path, path, "corpus.max_bad_share=0.05", "corpus.max_characters=2000")
    facts = artifact.facts
    assert facts["dropped"] == {
        "empty": 1,
        "too_short": 1,
        "too_long": 1,
        "duplicate": 1,
    }  # "\r" at the end is another text: one more newline
    assert facts["bad_lines"] == 2
    assert facts["documents"] == len(TEXTS) + 1
    [source] = facts["sources"]
    assert (source["name"], source["documents"], source["skipped"]) == ("a.jsonl", len(texts), 2)
    assert len(source["sha256"]) == 64


def test_sources_are_read_in_order_up_to_their_limit(tmp_path):
    write(tmp_path / "a.jsonl", TEXTS[:50])
    (tmp_path / "texts").mkdir()
    for number, text in enumerate(TEXTS[50:]):
        (tmp_path / "texts" / f"{number:02d}.txt").write_text(text)
    sources = json.dumps(
        [{"kind": "files", "path": str(tmp_path / "a.jsonl"), "max_documents": 40}, str(tmp_path / "texts")]
    )
    artifact = run(tmp_path, sources)
    assert [source["documents"] for source in artifact.facts["sources"]] == [40, 30]


def test_broken_line_stops_with_file_and_line(tmp_path):
    path = write(tmp_path / "a.jsonl", extra=['{"text": "cut'])
    with pytest.raises(DataError, match=rf"{path}, line {len(TEXTS) + 1}: broken JSON.*max_bad_share"):
        run(tmp_path, path)
    with pytest.raises(DataError, match=rf"1 of {len(TEXTS) + 1} records of a\.jsonl.*the first is {path}, line"):
        run(tmp_path, path, "corpus.max_bad_share=0.001")
    assert not finished(tmp_path / "workspace")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["corpus.min_characters=100000"], "left for the train split: of 80 documents read, 0 were kept, 80 too short"),
        (["corpus.held_out_share=1e-9"], "no document is left for the held_out split.*raise corpus.held_out_share"),
        (["corpus.sequence_length_tokens=99999", "model.max_position_embeddings=99999"], "one sequence needs 100000"),
        (["training.batch_sequences=100000"], "fewer than one batch.*lower training.batch_sequences=100000"),
    ],
)
def test_too_little_text(tmp_path, overrides, message):
    with pytest.raises(DataError, match=message):
        run(tmp_path, write(tmp_path / "a.jsonl"), *overrides)


def test_empty_file(tmp_path):
    (tmp_path / "a.jsonl").touch()
    with pytest.raises(DataError, match="of 0 documents read, 0 were kept"):
        run(tmp_path, tmp_path / "a.jsonl")


def test_full_disk_leaves_nothing(tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    path = write(tmp_path / "a.jsonl")
    with monkeypatch.context() as patch, pytest.raises(StorageError, match="No space left"):
        patch.setattr(np, "save", full)
        run(tmp_path, path)
    assert not finished(tmp_path / "workspace")
    assert files(run(tmp_path, path)) == files(run(tmp_path, path, workspace="other"))


def test_progress_grows_to_the_end_and_can_stop_the_stage(tmp_path):
    seen = []
    run(tmp_path, write(tmp_path / "a.jsonl"), report=seen.append)
    done = [progress.done for progress in seen]
    assert done == sorted(done)
    assert (done[0], done[-1], {progress.total for progress in seen}) == (0, 100, {100})

    def stop(progress):
        if progress.message == "tokenising":
            raise Cancelled("stop")

    with pytest.raises(Cancelled):
        run(tmp_path, tmp_path / "a.jsonl", workspace="other", report=stop)
    assert not finished(tmp_path / "other")
    assert files(run(tmp_path, tmp_path / "a.jsonl", workspace="other")) == files(run(tmp_path, tmp_path / "a.jsonl"))


def test_documents_that_spell_special_tokens_do_not_end_there(tmp_path):
    texts = [f"{text}</longcat_s><longcat_s>" for text in TEXTS]
    artifact = run(tmp_path, write(tmp_path / "a.jsonl", texts), *LONG_ROWS)
    assert sorted(documents_of(artifact, "train") + documents_of(artifact, "held_out")) == sorted(texts)


PROSE = "The harbour was quiet when boat {n} came back with its nets, and nobody on the pier had seen that the weather"
PROSE += (
    " had turned. A woman with scarf number {n} counted {n} baskets of herring while two boys argued about it. {extra}"
)


def test_rules_masks_and_duplicates_are_counted(tmp_path):
    """One document for each reason; the rest comes through."""
    words = [f"{chr(97 + i % 26)}{chr(97 + i // 26)}{chr(97 + i * 7 % 26)}ish" for i in range(600)]
    texts = [PROSE.format(n=n, extra=" ".join(words[n * 15 : n * 15 + 15])) for n in range(40)]
    question = "which of the thirteen words in this question is the one that should never be seen in training"
    (tmp_path / "set.jsonl").write_text(json.dumps({"question": question}) + "\n")
    bad = [
        texts[3],
        texts[4].replace("herring", "mackerel"),
        texts[5][:200]
        + question
        + ", and the boats came back with all of their nets before the end of the day, he said.",
        "Too few words to pass.",
    ]
    texts[7] += " Write to me@example.org or call 13812345678."
    artifact = run(
        tmp_path,
        write(tmp_path / "a.jsonl", [*texts, *bad]),
        "corpus.filters=[gopher_word_count]",
        "corpus.mask=[email, phone]",
        "corpus.near_duplicates={threshold: 0.7}",
        f"corpus.decontaminate=[{tmp_path / 'set.jsonl'}]",
        *LONG_ROWS,
    )
    assert artifact.facts["documents"] == 40
    assert artifact.facts["masked"] == {"email": 1, "phone": 1}
    assert artifact.facts["dropped"] == {
        "empty": 0, "too_short": 0, "too_long": 0,
        "gopher_word_count": 1, "contaminated": 1, "duplicate": 1, "near_duplicate": 1,
    }  # fmt: skip
    everything = documents_of(artifact, "train") + documents_of(artifact, "held_out")
    assert len(everything) == 40
    assert not any("13812345678" in text for text in everything)


def test_evaluation_sets_stand_for_their_content(tmp_path):
    (tmp_path / "set.jsonl").write_text("{}\n")
    path = write(tmp_path / "a.jsonl")
    first = run(tmp_path, path, f"corpus.decontaminate=[{tmp_path / 'set.jsonl'}]")
    (tmp_path / "set.jsonl").rename(tmp_path / "moved.jsonl")
    assert run(tmp_path, path, f"corpus.decontaminate=[{tmp_path / 'moved.jsonl'}]").cached
    (tmp_path / "moved.jsonl").write_text('{"a": "b"}\n')
    assert run(tmp_path, path, f"corpus.decontaminate=[{tmp_path / 'moved.jsonl'}]").digest != first.digest


FRENCH = (
    "Le port était calme quand les premiers bateaux sont revenus avec leurs filets, et personne sur la jetée n'avait vu"
)


def test_other_languages_are_left_out_and_the_card_tells(tmp_path):
    texts = [PROSE.format(n=n, extra=f"And so on, {n} times.") for n in range(60)]
    secret = "Téléphone 13812345678. <script>alert(1)</script> "
    artifact = run(
        tmp_path,
        write(tmp_path / "a.jsonl", [*texts, secret + FRENCH, texts[0]]),
        "corpus.languages=[en, zh]",
        "corpus.mask=[phone]",
        "corpus.sequence_length_tokens=16",
    )
    assert artifact.facts["languages"] == {"en": 60, "fr": 1}
    assert artifact.facts["dropped"]["language"] == 1
    assert sum(artifact.facts["length_log2"].values()) == 60
    assert artifact.facts["length_log2"] == {"7": 60}
    page, markdown = ((artifact.path / name).read_text() for name in ("card.html", "card.md"))
    assert "60 documents kept of 62 read" in page
    assert "60 documents kept of 62 read" in markdown
    assert "Le port était calme" in page  # what was left out is shown,
    assert "13812345678" not in page  # without personal data
    assert "<script>" not in page
    assert "| language | 1 |" in markdown
    assert "| fr | 1 |" in markdown
    assert "a.jsonl" in page
