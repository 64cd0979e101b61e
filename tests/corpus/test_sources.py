import json
import os
from types import SimpleNamespace

import datasets
import huggingface_hub
import pytest

from longcat.config import SourceConfig
from longcat.corpus.readers import Unreadable
from longcat.corpus.sources import resolve
from longcat.errors import DataError

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def source(value, block_bytes=1 << 24):
    return resolve(SourceConfig.model_validate(value), block_bytes)


def records(source):
    return [record for block in source.blocks for record in block.records(["utf-8"], 1 << 24)]


def test_standard_library_is_python_of_this_machine():
    stdlib = source("stdlib")
    found = records(stdlib)
    texts = [record for record in found if isinstance(record, str)]
    assert stdlib.licence == "PSF-2.0"
    assert stdlib.tolerant
    assert len(texts) > 500
    assert len(stdlib.blocks) > 1
    assert any("class JSONDecoder" in text for text in texts)
    assert not any("site-packages" in record.place for record in found if isinstance(record, Unreadable))
    assert source("stdlib").pin == stdlib.pin


def test_pin_follows_content_not_place(tmp_path):
    (tmp_path / "here" / "deep").mkdir(parents=True)
    (tmp_path / "here" / "deep" / "b.txt").write_text("two")
    (tmp_path / "here" / "a.jsonl").write_text('{"text": "one"}\n')
    before = source(str(tmp_path / "here"))
    assert records(before) == ["one", "two"]
    (tmp_path / "here").rename(tmp_path / "there")
    assert source(str(tmp_path / "there")).pin == before.pin
    (tmp_path / "there" / "deep" / "b.txt").write_text("TWO")
    assert source(str(tmp_path / "there")).pin != before.pin


def test_hidden_and_foreign_files_are_left_out_with_a_word(tmp_path):
    (tmp_path / ".git").mkdir()
    for name in (".git/a.txt", ".b.txt", "c.pdf", "C.PDF", "d.txt", "e.pdf.gz", "README"):
        (tmp_path / name).write_text(name)
    os.mkfifo(tmp_path / "f.txt")
    told = r"files that are not read: 2 "
    with pytest.warns(UserWarning, match=told):
        found = source(str(tmp_path))
    assert records(found) == ["d.txt"]
    assert found.left_out == {".pdf": 2, "hidden": 2, "no suffix": 1, ".pdf.gz": 1, "no regular file": 1}


def test_a_folder_without_other_files_is_read_in_silence(tmp_path, recwarn):
    (tmp_path / "a.txt").write_text("one")
    assert source(str(tmp_path)).left_out == {}
    assert not recwarn


def test_format_is_part_of_the_pin(tmp_path):
    content = json.dumps({"text": "same bytes"})
    (tmp_path / "a.txt").write_text(content)
    (tmp_path / "a.jsonl").write_text(content)
    assert source(str(tmp_path / "a.txt")).pin != source(str(tmp_path / "a.jsonl")).pin


def test_missing_empty_and_foreign_sources(tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        source(str(tmp_path / "absent"))
    with pytest.raises(DataError, match=r"holds no file.*\.jsonl.*\.zst"):
        source(str(tmp_path))
    (tmp_path / "a.pdf").write_text("x")
    with pytest.raises(DataError, match=r"a\.pdf has a format that is not read"):
        source(str(tmp_path / "a.pdf"))


def test_file_that_changes_meanwhile_is_noticed(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("one")
    changing = source(str(path))
    path.write_text("one and more")
    with pytest.raises(DataError, match="was changed while"):
        records(changing)


def test_unreadable_file(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("one")

    def refuse(file):
        raise PermissionError(13, "Permission denied", str(file))

    with pytest.raises(DataError, match=rf"cannot read {path}: Permission denied"):
        resolve(SourceConfig.model_validate(str(path)), 1 << 20, refuse)  # root, as in a container, may read everything


@pytest.fixture
def hub(monkeypatch):
    """A hub with one data set, and the calls it got."""
    calls = []

    def dataset_info(self, name, revision):
        if name != "meow/texts":
            raise huggingface_hub.errors.HFValidationError(f"404 for {name}\nand a page of HTML")
        return SimpleNamespace(sha=COMMIT, card_data=SimpleNamespace(license="apache-2.0"))

    def rows():
        yield {"body": "one", "n": 1}
        yield {"body": None, "n": 2}

    def load_dataset(name, subset, **options):
        calls.append((name, subset, options))
        if options["split"] != "train":
            raise ValueError(f'Bad split: {options["split"]}. Available splits: ["train"]')
        return datasets.IterableDataset.from_generator(rows)

    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", dataset_info)
    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    return calls


def test_hub_is_streamed_at_the_commit_that_the_revision_stands_for(hub):
    found = source({"kind": "hub", "name": "meow/texts", "subset": "small", "text_field": "body"})
    assert (found.pin, found.licence, found.name) == ({"revision": COMMIT}, "apache-2.0", "meow/texts/small")
    text, bad = records(found)
    assert text == "one"
    assert isinstance(bad, Unreadable)
    assert set(map(str, hub)) == {
        str(("meow/texts", "small", {"split": "train", "revision": COMMIT, "streaming": True}))
    }


def test_hub_problems_are_put_in_words(hub):
    with pytest.raises(DataError, match=r"data set 'no/such'.*404 for no/such\).*check the name"):
        source("hub:no/such")
    with pytest.raises(DataError, match="no field 'text'; there are: body, n"):
        records(source("hub:meow/texts"))
    with pytest.raises(DataError, match="Bad split: test"):
        records(source({"kind": "hub", "name": "meow/texts", "split": "test"}))


def test_a_commit_needs_no_hub(monkeypatch):
    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", lambda *_, **__: pytest.fail("asked the hub"))
    assert source({"kind": "hub", "name": "meow/texts", "revision": COMMIT}).pin == {"revision": COMMIT}


def test_files_of_a_hub_data_set_are_blocks(hub, monkeypatch):
    def load_dataset(*_, **__):
        return datasets.IterableDataset.from_generator(
            lambda files: ({"text": f"{name}{n}"} for name in files for n in range(2)),
            gen_kwargs={"files": ["a", "b", "c"]},
        )

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    found = source("hub:meow/texts")
    assert [list(block.records(["utf-8"], 100)) for block in found.blocks] == [["a0", "a1"], ["b0", "b1"], ["c0", "c1"]]
    assert [block.index for block in found.blocks[1:]] == [1, 2]
