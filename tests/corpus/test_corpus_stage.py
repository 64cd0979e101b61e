import errno
import json
import re
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from longcat.artifact import Workspace
from longcat.config import load_config
from longcat.corpus.block_arrays import content_hash
from longcat.corpus.shards import TokenCorpus
from longcat.corpus.stage import preprocess
from longcat.corpus.tokenizer import decode, open_tokenizer, train_tokenizer
from longcat.errors import Cancelled, ConfigError, DataError, LongcatError, StorageError
from longcat.evaluation.ngram import NGram

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
    assert facts.documents == len(TEXTS) == corpus.train.index.documents + corpus.held_out.index.documents
    assert facts.train_rows == len(corpus.train)
    assert facts.train_tokens == len(corpus.train) * 256
    assert facts.text_bytes == sum(map(len, TEXTS))
    assert facts.bytes_per_token == pytest.approx(facts.text_bytes / facts.tokens)
    used = (1 - facts.padding_fraction) * facts.train_rows * 257
    held_out_used = corpus.held_out.index.rows * 257 - corpus.held_out.index.padding_tokens
    assert used + held_out_used == pytest.approx(facts.tokens)


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
    artifact = run(tmp_path, path, "corpus.max_bad_fraction=0.05", "corpus.max_characters=2000")
    facts = artifact.facts
    assert facts.dropped == {
        "mojibake": 0,
        "empty": 1,
        "too_short": 1,
        "too_long": 1,
        "duplicate": 1,
    }  # "\r" at the end is another text: one more newline
    assert facts.bad_lines == 2
    assert facts.documents == len(TEXTS) + 1
    [source] = facts.sources
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
    assert [source["documents"] for source in artifact.facts.sources] == [40, 30]


def test_broken_line_stops_with_file_and_line(tmp_path):
    path = write(tmp_path / "a.jsonl", extra=['{"text": "cut'])
    with pytest.raises(DataError, match=rf"{path}, line {len(TEXTS) + 1}: broken JSON.*max_bad_fraction"):
        run(tmp_path, path)
    with pytest.raises(DataError, match=rf"1 of {len(TEXTS) + 1} records of a\.jsonl.*the first is {path}, line"):
        run(tmp_path, path, "corpus.max_bad_fraction=0.001")
    assert not finished(tmp_path / "workspace")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["corpus.min_characters=100000"], "left for the train split: of 80 documents read, 0 were kept, 80 too short"),
        (
            ["corpus.held_out_fraction=1e-9"],
            "no document is left for the held_out split.*raise corpus.held_out_fraction",
        ),
        (["corpus.sequence_length_tokens=99999", "model.max_position_embeddings=99999"], "one sequence needs 100000"),
        (
            ["training.global_batch_sequences=100000"],
            "fewer than one batch.*lower training.global_batch_sequences=100000",
        ),
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
    assert artifact.facts.documents == 40
    assert artifact.facts.masked == {"email": 1, "phone": 1}
    assert artifact.facts.dropped == {
        "mojibake": 0, "empty": 0, "too_short": 0, "too_long": 0,
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
    assert artifact.facts.languages == {"en": 60, "fr": 1}
    assert artifact.facts.dropped["language"] == 1
    assert sum(artifact.facts.length_log2.values()) == 60
    assert artifact.facts.length_log2 == {"7": 60}
    page, markdown = ((artifact.path / name).read_text() for name in ("card.html", "card.md"))
    assert "60 documents kept of 62 read" in page
    assert "60 documents kept of 62 read" in markdown
    assert "Le port était calme" in page  # what was left out is shown,
    assert "13812345678" not in page  # without personal data
    assert "<script>" not in page
    bars = [float(width) for width in re.findall(r'<div class="whole"><div class="bar" style="width: ([0-9.]+)%', page)]
    assert pytest.approx(sorted(bars)[-4:]) == [100 / 62, 100 / 62, 100 / 61, 6000 / 61]  # of all, not of the largest
    assert "| language | 1 |" in markdown
    assert "| fr | 1 |" in markdown
    assert "a.jsonl" in page


SMALL = ("corpus.workers=1", "corpus.block_bytes=4000")


def documents_artifact(tokens):
    [path] = tokens.path.parents[1].glob(f"documents/{tokens.facts.documents_artifact}")
    return path


def everything(artifact):
    """Bytes of all files of both artifacts but the manifests, which hold times."""
    return {
        f"{folder.parent.name}/{path.relative_to(folder)}": path.read_bytes()
        for folder in (artifact.path, documents_artifact(artifact))
        for path in folder.rglob("*")
        if path.is_file() and path.name != "manifest.json"
    }


def all_documents(artifact):
    return sorted(documents_of(artifact, "train") + documents_of(artifact, "held_out"))


def test_any_number_of_workers_writes_the_same_bytes(tmp_path):
    write(tmp_path / "a.jsonl", [*TEXTS, TEXTS[3], TEXTS[70], "short"])
    write(tmp_path / "b.jsonl", [f"{text}\nMore of it.\n" for text in TEXTS[::2]])
    sources = f"[{tmp_path / 'a.jsonl'}, {tmp_path / 'b.jsonl'}]"
    settings = ("corpus.block_bytes=6000", "corpus.near_duplicates={threshold: 0.99}", "corpus.shard_sequences=64")
    first = run(tmp_path, sources, *settings, "corpus.workers=1", workspace="1")
    assert len(json.loads((documents_artifact(first) / "blocks.json").read_text())) > 4
    assert len(TokenCorpus.open(first.path).train.index.shards) > 2
    for workers in (2, 3):
        other = run(tmp_path, sources, *settings, f"corpus.workers={workers}", workspace=f"{workers}")
        assert other.digest == first.digest
        assert everything(other) == everything(first)


def test_size_of_blocks_is_part_of_the_identity_but_not_of_the_documents(tmp_path):
    path = write(tmp_path / "a.jsonl", [*TEXTS, *TEXTS[:7], "short", ""])
    made = [
        run(tmp_path, path, *LONG_ROWS, "corpus.workers=1", f"corpus.block_bytes={size}")
        for size in (1500, 9000, 1 << 20)
    ]
    assert len({artifact.digest for artifact in made}) == 3
    assert {tuple(all_documents(artifact)) for artifact in made} == {tuple(sorted(TEXTS))}
    assert len({(artifact.path / "tokenizer.json").read_bytes() for artifact in made}) == 1
    facts = [artifact.facts.model_dump(exclude={"documents_artifact"}) for artifact in made]
    assert facts[0] == facts[1] == facts[2]


def test_size_of_blocks_does_not_change_what_is_counted(tmp_path):
    texts = [f"Write to me{n}@example.org, he said. {PROSE.format(n=n, extra=text)}" for n, text in enumerate(TEXTS)]
    texts += [f"{n}. {FRENCH}" for n in range(9)]
    path = write(tmp_path / "a.jsonl", [*texts, *texts])
    facts = [
        run(
            tmp_path,
            path,
            "corpus.workers=1",
            "corpus.mask=[email]",
            "corpus.languages=[en]",
            f"corpus.block_bytes={size}",
        ).facts
        for size in (4000, 1 << 20)
    ]
    assert facts[0].dropped == facts[1].dropped
    assert (facts[0].masked, facts[0].languages) == (facts[1].masked, facts[1].languages)
    assert (facts[0].masked, facts[0].languages) == ({"email": 80}, {"en": 80, "fr": 18})


@pytest.mark.parametrize(
    ("limit", "block_bytes"), [(33, 1200), (79, 3000), (80, 3000), (500, 3000), (33, 1 << 20), (500, 1 << 20)]
)
def test_max_documents_is_exact_over_blocks(tmp_path, limit, block_bytes):
    path = write(tmp_path / "a.jsonl")
    source = json.dumps([{"kind": "files", "path": str(path), "max_documents": limit}])
    artifact = run(
        tmp_path,
        source,
        *LONG_ROWS,
        "corpus.workers=1",
        f"corpus.block_bytes={block_bytes}",
        "corpus.held_out_fraction=0.3",
    )
    assert all_documents(artifact) == sorted(TEXTS[:limit])
    assert artifact.facts.sources[0]["documents"] == min(limit, len(TEXTS))


@pytest.mark.parametrize("settings", [(), ("corpus.max_bad_fraction=0.001",)])
@pytest.mark.parametrize("block_bytes", [1500, 20000, 1 << 20])
def test_what_lies_behind_max_documents_is_not_read(tmp_path, block_bytes, settings):
    path = write(tmp_path / "a.jsonl", extra=['{"text": "cut'])

    def up_to(limit):
        source = json.dumps([{"kind": "files", "path": str(path), "max_documents": limit}])
        return run(tmp_path, source, "corpus.workers=1", f"corpus.block_bytes={block_bytes}", *settings)

    for limit in (60, len(TEXTS)):
        [source] = up_to(limit).facts.sources
        assert (source["documents"], source["skipped"]) == (limit, 0)
    with pytest.raises(DataError, match=rf"a\.jsonl, line {len(TEXTS) + 1}: broken JSON"):
        up_to(len(TEXTS) + 1)


def test_other_mixtures_start_from_the_same_documents(tmp_path, monkeypatch):
    write(tmp_path / "a.jsonl", TEXTS[:50])
    write(tmp_path / "b.jsonl", [2 * text for text in TEXTS[50:]])

    def sources(*weights):
        files = ((tmp_path / "a.jsonl", weights[0]), (tmp_path / "b.jsonl", weights[1]))
        return json.dumps([{"kind": "files", "path": str(path), "weight": weight} for path, weight in files])

    first = run(tmp_path, sources(None, None), *SMALL)

    def never(*_):
        raise AssertionError("documents are built again")

    monkeypatch.setattr("longcat.corpus.stage.build_documents", never)
    made = [
        run(tmp_path, sources(None, None), *SMALL, "corpus.sequence_length_tokens=32"),
        run(tmp_path, sources(1, 3), *SMALL),
        run(tmp_path, sources(None, None), *SMALL, "corpus.long_documents={min_tokens: 200, fraction: 0.8}"),
        run(tmp_path, sources(None, None), *SMALL, "corpus.mixture_tokens=30000"),
        run(tmp_path, sources(None, None), *SMALL, "corpus.shard_sequences=50"),
        run(tmp_path, sources(None, None), *SMALL, "corpus.max_padding=0.5"),
    ]
    assert len({artifact.digest for artifact in [first, *made]}) == 7
    assert {artifact.facts.documents_artifact for artifact in made} == {first.facts.documents_artifact}
    assert len(list((tmp_path / "workspace" / "documents").iterdir())) == 1
    for artifact in made:
        manifest = json.loads((artifact.path / "manifest.json").read_text())
        assert manifest["identity"]["documents"] == documents_artifact(first).name
    shares = {group["source"]: group["wanted_tokens"] for group in made[1].facts.mixture}
    assert shares["b.jsonl"] == pytest.approx(3 * shares["a.jsonl"], rel=1e-3)
    wanted = {True: 0, False: 0}
    for group in made[2].facts.mixture:
        wanted[group["long"]] += group["wanted_tokens"]
    assert wanted[True] == pytest.approx(4 * wanted[False], rel=1e-3)
    assert made[3].facts.train_tokens == pytest.approx(30000, rel=0.02)


@pytest.mark.parametrize(
    "change",
    ["corpus.vocabulary_size=300", "corpus.min_characters=21", "corpus.held_out_fraction=0.2", "corpus.mask=[email]"],
)
def test_other_documents_are_built_anew(tmp_path, change):
    path = write(tmp_path / "a.jsonl")
    first, second = run(tmp_path, path, *SMALL), run(tmp_path, path, *SMALL, change)
    assert first.facts.documents_artifact != second.facts.documents_artifact


def test_where_work_is_done_is_no_part_of_the_identity(tmp_path):
    path = write(tmp_path / "a.jsonl")
    first = run(tmp_path, path, *SMALL)
    assert run(tmp_path, path, *SMALL, "corpus.workers=5", "corpus.runner=dask", "corpus.cluster=nowhere").cached
    assert first.digest == run(tmp_path, path, *SMALL).digest


def test_documents_repeated_to_reach_the_mixture_are_all_there(tmp_path):
    path = write(tmp_path / "a.jsonl")
    once = run(tmp_path, path, *SMALL, *LONG_ROWS)
    tokens = once.facts.mixture[0]["tokens"]
    thrice = run(tmp_path, path, *SMALL, *LONG_ROWS, f"corpus.mixture_tokens={3 * tokens}")
    assert sorted(documents_of(thrice, "train")) == sorted(3 * documents_of(once, "train"))
    assert thrice.facts.mixture[0]["repeats"] == 3


@pytest.mark.parametrize(
    ("tokens", "error", "message"),
    [
        (256, ConfigError, "mixture_tokens=256 does not fill one sequence"),
        (300, DataError, "the train split has .* tokens, one sequence needs 257"),
    ],
)
def test_a_mixture_of_less_than_a_row_is_reported(tmp_path, tokens, error, message):
    with pytest.raises(error, match=message):
        run(tmp_path, write(tmp_path / "a.jsonl"), *SMALL, f"corpus.mixture_tokens={tokens}", *LONG_ROWS)


def test_a_mixture_of_less_than_a_row_is_put_down_to_the_mixture(tmp_path):
    with pytest.raises(LongcatError, match="mixture_tokens"):
        run(tmp_path, write(tmp_path / "a.jsonl"), *SMALL, "corpus.mixture_tokens=300", *LONG_ROWS)


@pytest.mark.parametrize("most", [5, 250])
def test_a_source_capped_below_a_row_is_put_down_to_the_cap(tmp_path, most):
    source = json.dumps([{"kind": "files", "path": str(write(tmp_path / "a.jsonl")), "max_tokens": most}])
    with pytest.raises(DataError, match="the train split has .* tokens, one sequence needs 257.*max_tokens"):
        run(tmp_path, source, *SMALL, *LONG_ROWS)


def test_a_mixture_that_cannot_be_made_can_be_mended_without_building_documents_again(tmp_path, monkeypatch):
    path = write(tmp_path / "a.jsonl")
    with pytest.raises(ConfigError, match=r"raise corpus\.max_repeats"):
        run(tmp_path, path, *SMALL, "corpus.mixture_tokens=10000000")
    monkeypatch.setattr("longcat.corpus.stage.build_documents", None)
    assert run(tmp_path, path, *SMALL, "corpus.mixture_tokens=20000").facts.train_rows > 0


def test_a_tokenizer_given_is_as_good_as_the_same_one_trained(tmp_path):
    path = write(tmp_path / "a.jsonl")
    trained = run(tmp_path, path, *SMALL)
    shutil.copy(trained.path / "tokenizer.json", tmp_path / "mine.json")
    brought = run(tmp_path, path, *SMALL, f"corpus.tokenizer={tmp_path / 'mine.json'}")
    assert brought.digest != trained.digest
    assert everything(brought) == everything(trained)
    (tmp_path / "mine.json").rename(tmp_path / "moved.json")
    assert run(tmp_path, path, *SMALL, f"corpus.tokenizer={tmp_path / 'moved.json'}").cached
    with pytest.raises(ConfigError, match=r"corpus\.tokenizer: cannot read tokenizer .*mine\.json: No such file"):
        run(tmp_path, path, *SMALL, f"corpus.tokenizer={tmp_path / 'mine.json'}")


@pytest.mark.parametrize(
    ("content", "settings", "error", "message"),
    [
        ("{}", (), ConfigError, r"corpus\.tokenizer: cannot read tokenizer .*mine\.json"),
        ("{}", ("model.eos_token_id=2",), DataError, r"cannot read tokenizer .*mine\.json"),
        (
            None,
            ("corpus.vocabulary_size=300",),
            ConfigError,
            r"mine\.json has ids up to 339; corpus\.vocabulary_size=300 has to be at least 340",
        ),
        (None, ("corpus.end_of_text=<eos>",), ConfigError, r"has no special token '<eos>' \(corpus\.end_of_text\)"),
    ],
)
def test_a_tokenizer_that_cannot_be_used(tmp_path, content, settings, error, message):
    path = tmp_path / "mine.json"
    train_tokenizer(TEXTS, 400).save(str(path))
    if content is not None:
        path.write_text(content)
    with pytest.raises(error, match=message):
        run(tmp_path, write(tmp_path / "a.jsonl"), *SMALL, f"corpus.tokenizer={path}", *settings)
    assert not finished(tmp_path / "workspace")


def test_a_tokenizer_that_cannot_be_used_is_refused_before_anything_is_read(tmp_path):
    (tmp_path / "mine.json").write_text("{}")
    seen = []
    with pytest.raises(DataError, match="cannot read tokenizer"):
        run(
            tmp_path,
            write(tmp_path / "a.jsonl"),
            *SMALL,
            f"corpus.tokenizer={tmp_path / 'mine.json'}",
            "model.eos_token_id=2",
            report=seen.append,
        )
    assert not [progress for progress in seen if progress.message.startswith("reading")]


def sparse_tokenizer(path, end):
    """A tokenizer of 401 tokens; the one that every text begins with has the id 70,000."""
    tokenizer = train_tokenizer(TEXTS, 400)
    content = json.loads(tokenizer.to_str())
    content["model"]["vocab"][tokenizer.encode(TEXTS[0]).tokens[0]] = 70_000
    content["added_tokens"].append({**content["added_tokens"][0], "content": "<|endoftext|>", "id": end})
    path.write_text(json.dumps(content))
    return (f"corpus.tokenizer={path}", "corpus.end_of_text=<|endoftext|>", "corpus.vocabulary_size=80000")


def test_ids_beyond_the_number_of_tokens_are_kept(tmp_path):
    settings = sparse_tokenizer(tmp_path / "mine.json", 70_005)
    path = write(tmp_path / "a.jsonl")
    artifact = run(tmp_path, path, *SMALL, *settings, *LONG_ROWS)
    corpus = TokenCorpus.open(artifact.path)
    assert (corpus.vocabulary_size, corpus.end_of_text) == (70_006, 70_005)
    assert artifact.facts.vocabulary_size == len(corpus.token_bytes) == 70_006
    assert configure(path, *SMALL, *settings).model.eos_token_id == 70_005
    assert {np.load(artifact.path / shard.file).dtype for shard in corpus.train.index.shards} == {np.dtype(np.uint32)}
    batch = corpus.train.take(np.arange(len(corpus.train)))
    assert {70_000, 70_005} <= {*batch.tokens.ravel().tolist()} | {*batch.targets.ravel().tolist()}
    assert all_documents(artifact) == sorted(TEXTS)
    held_out = corpus.held_out.take(np.arange(len(corpus.held_out)))
    # a smaller vocabulary would give several n-grams the same number
    expected = NGram(batch, 3, 80_000).probabilities(held_out)
    for probability, other in zip(
        NGram(batch, 3, corpus.vocabulary_size).probabilities(held_out), expected, strict=True
    ):
        assert probability.min() > 0
        np.testing.assert_allclose(np.log(probability), np.log(other), atol=0.3)


def test_another_end_of_text_than_the_models_is_refused_before_anything_is_read(tmp_path):
    settings = sparse_tokenizer(tmp_path / "mine.json", 407)
    seen = []
    with pytest.raises(
        ConfigError,
        match=r"model\.eos_token_id=2, but corpus\.end_of_text='<\|endoftext\|>' is token 407 of corpus\.tokenizer=.*mine\.json",
    ):
        run(tmp_path, write(tmp_path / "a.jsonl"), *SMALL, *settings, "model.eos_token_id=2", report=seen.append)
    assert not [progress for progress in seen if progress.message.startswith("reading")]


def test_filters_of_ones_own_leave_documents_out(tmp_path, monkeypatch):
    module = tmp_path / "odd_documents_only.py"
    module.write_text("def keep(text):\n    return int(text.split()[1].rstrip(':')) % 2 == 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    path = write(tmp_path / "a.jsonl")
    filters = "corpus.filters=[c4_curly_bracket, 'odd_documents_only:keep']"
    artifact = run(tmp_path, path, "corpus.block_bytes=4000", "corpus.workers=2", *LONG_ROWS, filters)
    assert artifact.facts.dropped["odd_documents_only:keep"] == 40
    assert all_documents(artifact) == sorted(TEXTS[1::2])
    assert run(tmp_path, path, "corpus.block_bytes=4000", *LONG_ROWS, filters).cached
    module.write_text(module.read_text() + "# another opinion\n")
    assert not run(tmp_path, path, "corpus.block_bytes=4000", "corpus.workers=1", *LONG_ROWS, filters).cached


def test_a_group_of_filters_is_its_rules(tmp_path):
    path = write(tmp_path / "a.jsonl")
    rules = ["c4_lorem_ipsum", "c4_line_javascript", "c4_curly_bracket"]
    first = run(tmp_path, path, *SMALL, f"corpus.filters={rules}")
    assert run(tmp_path, path, *SMALL, f"corpus.filters={rules[::-1]}").cached
    assert not first.cached


def test_scores_of_ones_own_leave_documents_out(tmp_path, monkeypatch):
    module = tmp_path / "even_documents_only.py"
    module.write_text("def score(text):\n    return int(text.split()[1].rstrip(':')) % 2 == 0\n")
    monkeypatch.syspath_prepend(tmp_path)
    path = write(tmp_path / "a.jsonl")
    quality = "corpus.quality={function: 'even_documents_only:score', minimum: 1}"
    artifact = run(tmp_path, path, "corpus.block_bytes=4000", "corpus.workers=2", *LONG_ROWS, quality)
    assert artifact.facts.dropped["quality"] == 40
    assert all_documents(artifact) == sorted(TEXTS[::2])
    assert run(tmp_path, path, "corpus.block_bytes=4000", *LONG_ROWS, quality).cached
    module.write_text(module.read_text() + "# another opinion\n")
    assert not run(tmp_path, path, "corpus.block_bytes=4000", "corpus.workers=1", *LONG_ROWS, quality).cached


def test_a_score_that_is_not_there_is_refused_before_anything_is_written(tmp_path):
    path = write(tmp_path / "a.jsonl")
    with pytest.raises(ConfigError, match=r"corpus\.quality\.function=no_such_thing:score cannot be imported"):
        run(tmp_path, path, *SMALL, "corpus.quality={function: 'no_such_thing:score', minimum: 0}")
    assert not list((tmp_path / "workspace").glob("documents/*"))


def test_wrong_and_mixed_encodings_are_mended(tmp_path):
    path = tmp_path / "a.jsonl"
    chinese = "混合专家模型把每个词交给几个专家，其余的专家不参加计算。" * 2
    lines = [json.dumps({"text": text}).encode() for text in TEXTS]
    lines += [
        json.dumps({"text": "1" + chinese}, ensure_ascii=False).encode("gb18030"),
        json.dumps({"text": "2" + chinese}, ensure_ascii=False).encode(),
        json.dumps({"text": "They donâ€™t know what the cafÃ© is called."}).encode(),
    ]
    path.write_bytes(b"\n".join(lines))
    artifact = run(
        tmp_path, path, *SMALL, *LONG_ROWS, "corpus.encodings=[utf-8, gb18030]", "corpus.repair_encoding=true"
    )
    expected = [*TEXTS, "1" + chinese, "2" + chinese, "They don’t know what the café is called."]
    assert all_documents(artifact) == sorted(expected)
    with pytest.raises(DataError, match=f"{path}, line 81: invalid UTF-8 at byte"):
        run(tmp_path, path, *SMALL, "corpus.encodings=[utf-8]")
    detected = run(tmp_path, path, *SMALL, *LONG_ROWS)
    assert all_documents(detected) == sorted(expected[:-1])
    assert detected.facts.dropped["mojibake"] == 1


NOTICE = "Qqzzkx qqzzkx qqzzkx: this notice is printed below every document of the corpus."


def test_repeated_paragraphs_are_cut_over_blocks(tmp_path):
    texts = [f"{text}\n{NOTICE}" for text in TEXTS]
    path = write(tmp_path / "a.jsonl", [*texts, f"{NOTICE}\n\nbye", texts[0]])
    artifact = run(tmp_path, path, *SMALL, *LONG_ROWS, "corpus.repeated_paragraph_characters=60")
    facts = artifact.facts
    assert (facts.dropped["repeated_paragraphs"], facts.dropped["duplicate"]) == (1, 1)
    assert facts.paragraphs_cut == len(TEXTS) - 1
    expected = [texts[0], *(f"{text}\n" for text in TEXTS[1:])]
    assert all_documents(artifact) == sorted(expected)
    assert facts.text_bytes == sum(map(len, expected))
    assert facts.documents == len(TEXTS)
    samples = json.loads((documents_artifact(artifact) / "samples.json").read_text())
    assert [sample["text"] for sample in samples if sample["reason"] == "repeated_paragraphs"] == [f"{NOTICE}\n\nbye"]


def test_the_tokenizer_does_not_learn_from_what_is_cut_out(tmp_path):
    texts = [f"{text}\n{NOTICE}" for text in TEXTS]
    texts.sort(key=lambda text: content_hash(text.encode()))  # the one that keeps the notice is held out
    path = write(tmp_path / "a.jsonl", texts)
    artifact = run(tmp_path, path, *SMALL, "corpus.repeated_paragraph_characters=60")
    tokens = open_tokenizer(artifact.path / "tokenizer.json").get_vocab()
    assert not [token for token in tokens if "zzk" in token.lower()]


def test_a_run_without_rows_in_a_file_and_with_near_duplicates(tmp_path):
    with pq.ParquetWriter(tmp_path / "a.parquet", pa.schema([("text", pa.string())])):
        pass
    with pytest.raises(DataError, match="of 0 documents read, 0 were kept"):
        run(tmp_path, tmp_path / "a.parquet", "corpus.workers=1", "corpus.near_duplicates={}")


@pytest.mark.parametrize("setting", ["corpus.near_duplicates={}", "corpus.repeated_paragraph_characters=9"])
def test_no_blocks_at_all(tmp_path, setting):
    with pq.ParquetWriter(tmp_path / "a.parquet", pa.schema([("text", pa.string())])):
        pass
    with pytest.raises(DataError, match="of 0 documents read, 0 were kept"):
        run(tmp_path, tmp_path / "a.parquet", "corpus.workers=1", "corpus.block_bytes=1", setting)


def test_the_account_of_documents_is_not_made_again(tmp_path, monkeypatch):
    path = write(tmp_path / "a.jsonl", [*TEXTS, *TEXTS[:3]])
    settings = ["corpus.mask=[email]", "corpus.block_bytes=2000", "corpus.workers=1"]
    whole = run(tmp_path, path, *settings, workspace="whole")

    def fail(*_):
        raise RuntimeError("killed")

    with monkeypatch.context() as patch:
        patch.setattr("longcat.corpus.tokenizer.provide_tokenizer", fail)
        with pytest.raises(RuntimeError, match="killed"):
            run(tmp_path, path, *settings)
    monkeypatch.setattr("longcat.corpus.accounting.account_batch", fail)
    again = run(tmp_path, path, *settings)
    assert again.digest == whole.digest
    assert again.facts == whole.facts
    assert files(again) == files(whole)
