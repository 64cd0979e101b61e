"""What is said of tasks that the harness cannot load."""

import json

import pytest

from longcat.errors import DataError
from longcat.evaluation.catalog import find_tasks
from longcat.evaluation.harness import check_tasks
from longcat.evaluation.loading import load_tasks

ITEMS = [{"question": f"q{number}", "choices": ["a", "b"], "answer": 0} for number in range(3)]
GENERATION = {"output_type": "generate_until", "doc_to_choice": None}


def changed(where, **fields):
    return [item | (fields if number in where else {}) for number, item in enumerate(ITEMS)]


@pytest.mark.parametrize(
    ("items", "fields", "message"),
    [
        ([], {}, r"shop\.jsonl: there are no documents in it"),
        (ITEMS, {"test_split": "tset", "dataset_kwargs": {"data_files": {"test": "shop.jsonl"}}}, r"shop\.yaml: test_split: there is no split 'tset'; there are: test"),
        (ITEMS, {"fewshot_split": "dev"}, r"shop\.yaml: fewshot_split: there is no split 'dev'; there are: test"),
        (ITEMS, {"doc_to_text": "{{qustion}}"}, r"shop\.jsonl:1: the field 'qustion' is missing; there are: question, choices"),
        (ITEMS, {"doc_to_text": "Q: {{qustion}} A:"}, r"shop\.jsonl:1: the field 'qustion' is missing"),
        (ITEMS, {"doc_to_target": "{{answers[0]}}"}, r"shop\.jsonl:1: the field 'answers' is missing"),
        (ITEMS, {"doc_to_text": "{{question"}, r"shop cannot be loaded .*TemplateSyntaxError|shop\.jsonl:1: TemplateSyntaxError"),
        (changed({0, 1, 2}, choices="ab"), {}, r"shop\.jsonl:1: the choices 'ab' are no list"),
        (changed({0, 1, 2}, choices=5), {}, r"shop\.jsonl:1: the choices 5 are no list"),
        (changed({0, 1, 2}, choices="ab"), {"doc_to_choice": "choices"}, r"shop\.jsonl:1: the choices 'ab' are no list"),
        (changed({0, 1, 2}, choices=[]), {}, r"shop\.jsonl:1: the list of choices is empty"),
        (changed({1}, choices="ab"), {}, r"shop\.jsonl:2: the choices 'ab' are no list"),
        (changed({0, 1, 2}, choices=None), {}, r"shop\.jsonl:1: the field 'choices' is null"),
        (changed({1}, choices=None), {}, r"shop\.jsonl:2: the field 'choices' is null"),
        (changed({0, 1, 2}, question=None), {}, r"shop\.jsonl:1: the field 'question' is null"),
        (changed({2}, question=None), {}, r"shop\.jsonl:3: the field 'question' is null"),
        (changed({2}, question=None), {"doc_to_text": "Q: {{question}}\nA:"}, r"shop\.jsonl:3: the field 'question' is null"),
        (changed({2}, question=None), {"doc_to_text": "question"}, r"shop\.jsonl:3: the field 'question' is null"),
        (changed({0, 1, 2}, answer=None), {}, r"shop\.jsonl:1: the field 'answer' is null"),
        (changed({1}, answer=None), {}, r"shop\.jsonl:2: the field 'answer' is null"),
        (changed({1}, answer=None), {"doc_to_target": "{{choices[answer]}}"}, r"shop\.jsonl:2: the field 'answer' is null"),
        (changed({0, 1, 2}, question=5), {**GENERATION, "doc_to_text": "question", "generation_kwargs": {"max_gen_toks": 8}}, r"shop\.jsonl:1: the question 5 is no text"),
    ],
)  # fmt: skip
def test_a_task_that_cannot_be_loaded_says_why(tasks, items, fields, message):
    tasks.add("shop", items, **fields)
    with pytest.raises(DataError, match=message):
        check_tasks(tasks.config())


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("return None", r"shop\.yaml: process_docs: only_good returns None, and has to return .* datasets\.Dataset"),
        ("return [1]", r"shop\.yaml: process_docs: only_good returns a list, and has to return"),
        ("return documents.filter(lambda one: False)", r"process_docs: only_good leaves none of the 3 documents"),
        ("return documents['price']", r"process_docs: only_good raises ValueError: .*'price'.* \(.*words\.py:2\)"),
    ],
)
def test_a_function_that_makes_no_documents_is_named(tasks, body, message):
    (tasks.folder / "words.py").write_text(f"def only_good(documents):\n    {body}\n")
    tasks.add("shop", ITEMS)
    with (tasks.folder / "shop.yaml").open("a") as stream:
        stream.write("process_docs: !function words.only_good\n")
    with pytest.raises(DataError, match=message):
        check_tasks(tasks.config())


def test_the_task_of_a_group_that_is_at_fault_is_named(tasks):
    tasks.add("good", ITEMS)
    tasks.add("bad", changed({0, 1, 2}, choices="ab"))
    (tasks.folder / "all.yaml").write_text("group: all\ntask: [good, bad]\n")
    with pytest.raises(DataError, match=r"bad\.jsonl:1: the choices 'ab' are no list"):
        check_tasks(tasks.config(names=["all"]))


def test_the_file_of_the_split_that_is_asked_is_named(tasks):
    files = {"test": "test.jsonl", "train": "train.jsonl"}
    tasks.add("shop", dataset_kwargs={"data_files": files}, fewshot_split="train")
    for name, items in (("test", changed({1}, answer=7)), ("train", ITEMS)):
        (tasks.folder / f"{name}.jsonl").write_text("".join(json.dumps(item) + "\n" for item in items))
    with pytest.raises(DataError, match=r"test\.jsonl:2: the answer 7 is none of the 2 choices"):
        check_tasks(tasks.config())


def test_an_optional_field_may_be_null(tasks):
    tasks.add("shop", [*changed({1}, hint=None), ITEMS[0] | {"hint": "h"}], doc_to_text="{{question}}{{hint or ''}}")
    check_tasks(tasks.config())
    assert len(load_tasks(find_tasks(["shop"], [str(tasks.folder)]), "shop").tasks["shop"].eval_docs) == 4
