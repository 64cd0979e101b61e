"""The shipped items: made byte for byte by their script, opened by lm-evaluation-harness, and not in any training text."""

import itertools
import json
import runpy

import pytest

from longcat.corpus.decontamination import KnownRuns, evaluation_files, known_runs
from longcat.corpus.normal_form import normal_form
from longcat.corpus.words import Words
from longcat.local_services.instance import instances
from longcat.local_services.tasks import TASKS
from longcat.local_services.text import LANGUAGES
from longcat.local_services.training_text import training_documents
from longcat.provenance import ROOT

FOLDER = ROOT / "data/evaluation/local_services"
SCRIPT = runpy.run_path(str(FOLDER / "make_local_services.py"), run_name="make_local_services")
EACH = [(name, language) for name in TASKS for language in LANGUAGES]


def lines(name, language):
    return (FOLDER / f"{name}_{language}.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)


@pytest.mark.parametrize(("name", "language"), EACH)
def test_the_script_makes_the_first_items(name, language):
    first = itertools.islice(instances(TASKS[name], language, "evaluation", SCRIPT["SEED"]), 16)
    assert [SCRIPT["line"](item) for item in first] == lines(name, language)[:16]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "language"), EACH)
def test_the_script_makes_the_files_byte_for_byte(name, language):
    if name == "stop_order":
        pytest.importorskip("ortools")
    assert list(map(SCRIPT["line"], SCRIPT["drawn"](TASKS[name], language))) == lines(name, language)


def test_the_script_makes_the_yaml_files():
    made = {name: SCRIPT["written"](name, document) for name, document in SCRIPT["documents"]().items()}
    assert made == {path.stem: path.read_text(encoding="utf-8") for path in FOLDER.glob("*.yaml")}


def test_the_harness_opens_the_whole_group(tmp_path, monkeypatch):
    """From any folder; every task has its items, its version and its chance level."""
    from lm_eval.tasks import TaskManager

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    manager = TaskManager(include_path=str(FOLDER), include_defaults=False)
    tasks = manager.load(["local_services"])["tasks"]
    assert len(tasks) == len(EACH) * 2
    for name, task in tasks.items():
        documents = list(task.test_docs())
        assert len(documents) >= 300
        assert task.config.metadata["version"] == SCRIPT["VERSION"]
        assert task.config.metadata["chance"] in (0.25, 0.0)
        document = documents[0]
        asked = task.doc_to_text(document)
        assert asked.endswith("答案：" if "_zh_" in name else "Answer:")
        if name.endswith("_choice"):
            assert task.doc_to_choice(document) == document["choices"]
            assert task.doc_to_target(document) == document["answer"]
        else:
            target = task.doc_to_target(document)
            assert target == document["choices"][document["answer"]]
            assert all(choice in asked for choice in document["choices"]) or task.config.metadata["chance"] == 0
            assert task.process_results(document, [f" {target}."]) == {"right": 1.0}
            wrong = document["choices"][document["answer"] - 1]
            assert task.process_results(document, [f" {wrong}."]) == {"right": 0.0}


@pytest.mark.parametrize(("name", "language"), EACH)
def test_the_checker_takes_every_right_answer_and_no_wrong_one(name, language):
    check = runpy.run_path(str(FOLDER / "local_services.py"))["check"]
    for item in map(json.loads, lines(name, language)):
        for index, choice in enumerate(item["choices"]):
            assert check(item, [choice]) == {"right": float(index == item["answer"])}, (item, choice)


@pytest.mark.parametrize("language", LANGUAGES)
def test_training_texts_hold_no_evaluation_item(language):
    asked = {json.loads(line)["question"] for name in TASKS for line in lines(name, language)}
    for text in training_documents(5, language, 900):
        assert text.split("\n")[0] not in asked


@pytest.mark.parametrize(("name", "language"), EACH)
def test_decontamination_knows_every_item(name, language):
    known = KnownRuns(known_runs([FOLDER / f"{name}_{language}.jsonl"]))
    assert FOLDER / f"{name}_{language}.jsonl" in evaluation_files(["data"])
    for item in map(json.loads, lines(name, language)):
        assert known.are_in(Words.of(normal_form(f"1. {item['question']}\n?")))
