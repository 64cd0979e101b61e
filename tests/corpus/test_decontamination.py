import json

import pytest

from longcat.corpus.decontamination import Decontamination, evaluation_files
from longcat.errors import DataError

QUESTION = "What is the name of the river that flows through the old town before it reaches the sea?"


def evaluation(tmp_path, *values):
    path = tmp_path / "set.jsonl"
    path.write_text("".join(json.dumps(value) + "\n" for value in values))
    return path


def test_a_run_of_thirteen_words_is_found(tmp_path):
    known = Decontamination([evaluation(tmp_path, {"question": QUESTION, "choices": ["a", {"text": "b"}]})])
    thirteen = "is the name of the river that flows through the old town before"
    assert len(thirteen.split()) == 13
    assert known.contains(f"Somebody asked: {QUESTION} Nobody knew.")
    assert known.contains(thirteen.upper())
    assert not known.contains(thirteen.rsplit(" ", 1)[0])
    assert not known.contains("the river that flows through another town before it reaches the sea, and so on and on")


def test_short_questions_are_never_found(tmp_path):
    known = Decontamination([evaluation(tmp_path, {"question": "two words"})])
    assert not known.contains("two words")


def test_files_are_named(tmp_path):
    assert [path.suffix for path in evaluation_files(["data"])] == [".jsonl"] * len(evaluation_files(["data"]))
    assert evaluation_files(["data"])
    with pytest.raises(DataError, match=r"nowhere\.jsonl does not exist"):
        evaluation_files([str(tmp_path / "nowhere.jsonl")])
    (tmp_path / "broken.jsonl").write_text('{"a": 1}\n{')
    with pytest.raises(DataError, match=r"broken\.jsonl:2"):
        Decontamination([tmp_path / "broken.jsonl"])
