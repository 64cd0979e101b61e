import json

import pytest

from longcat.corpus.decontamination import evaluation_files, is_contaminated, known_runs
from longcat.corpus.words import Words
from longcat.errors import DataError

QUESTION = "What is the name of the river that flows through the old town before it reaches the sea?"


def evaluation(tmp_path, *values):
    path = tmp_path / "set.jsonl"
    path.write_text("".join(json.dumps(value) + "\n" for value in values))
    return path


def test_a_run_of_thirteen_words_is_found(tmp_path):
    known = known_runs([evaluation(tmp_path, {"question": QUESTION, "choices": ["a", {"text": "b"}]})])
    thirteen = "is the name of the river that flows through the old town before"
    assert len(thirteen.split()) == 13
    assert is_contaminated(Words.of(f"Somebody asked: {QUESTION} Nobody knew."), known)
    assert is_contaminated(Words.of(thirteen.upper()), known)
    assert not is_contaminated(Words.of(thirteen.rsplit(" ", 1)[0]), known)
    assert not is_contaminated(
        Words.of("the river that flows through another town before it reaches the sea, and so on and on"), known
    )


def test_short_questions_are_never_found(tmp_path):
    known = known_runs([evaluation(tmp_path, {"question": "two words"})])
    assert not is_contaminated(Words.of("two words"), known)


def test_files_are_named(tmp_path):
    assert [path.suffix for path in evaluation_files(["data"])] == [".jsonl"] * len(evaluation_files(["data"]))
    assert evaluation_files(["data"])
    with pytest.raises(DataError, match=r"nowhere\.jsonl does not exist"):
        evaluation_files([str(tmp_path / "nowhere.jsonl")])
    (tmp_path / "broken.jsonl").write_text('{"a": 1}\n{')
    with pytest.raises(DataError, match=r"broken\.jsonl:2"):
        known_runs([tmp_path / "broken.jsonl"])
