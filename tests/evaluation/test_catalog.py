"""Where tasks are found, and what is said of those that are not there or broken."""

import json

import pytest

from longcat.errors import ConfigError, DataError
from longcat.evaluation import catalog
from longcat.evaluation.catalog import find_tasks
from longcat.evaluation.harness import check_tasks
from longcat.evaluation.loading import load_tasks

ITEM = {"question": "q", "choices": ["a", "b"], "answer": 0}


def test_an_unknown_task_is_named_with_what_is_near(tasks):
    tasks.add("orders_zh", [ITEM])
    with pytest.raises(ConfigError, match=r"evaluation\.tasks: unknown task 'order_zh'; near are: orders_zh"):
        find_tasks(["order_zh"], [str(tasks.folder)])


def test_a_folder_that_is_not_there_is_named():
    with pytest.raises(ConfigError, match=r"evaluation\.task_paths: /no/such is no folder"):
        find_tasks(["python_completion"], ["/no/such"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("task: shop\ndoc_to_text: [a\nb: c\n", r"no task 'shop' was found; .*shop\.yaml:3: broken YAML"),
        ("task: shop\ninclude: gone.yaml\n", r"no task 'shop' was found; .*shop\.yaml:2: include: there is no file"),
        (
            "task: shop\ndataset_path: json\nprocess_docs: !function gone.f\n",
            r"shop\.yaml:3: !function gone\.f: there is no",
        ),
    ],
)
def test_broken_yaml_is_named_with_its_line(tasks, text, message):
    tasks.add("shop", [ITEM], text=text)
    with pytest.raises(DataError, match=message):
        find_tasks(["shop"], [str(tasks.folder)])


@pytest.mark.parametrize(
    ("name", "source", "message"),
    [
        ("words.py", b"import sys\ndef f(x:\n", r"words\.py:2: broken Python \('\(' was never closed\)"),
        ("words.py", b"def f(x):\nreturn x\n", r"words\.py:2: broken Python \(expected an indented block"),
        ("words.py", b"x = '\xe4'\n", r"words\.py.*broken Python .*utf-8"),
        ("words.py", b"x = 1\0\n", r"words\.py.*(broken Python|cannot read).*null bytes"),
        ("more.py", b"def f(x:\n", r"more\.py:1: broken Python"),
    ],
)
def test_broken_code_is_named_with_its_line(tasks, name, source, message):
    (tasks.folder / "words.py").write_text("import more\n\n\ndef f(x):\n    return x\n")
    (tasks.folder / name).write_bytes(source)
    tasks.add("shop", [ITEM], text="task: shop\ndataset_path: json\nprocess_docs: !function words.f\n")
    with pytest.raises(DataError, match=message):
        find_tasks(["shop"], [str(tasks.folder)])


def test_code_may_say_how_it_is_encoded(tasks):
    (tasks.folder / "words.py").write_bytes(b"# coding: latin-1\nNAME = '\xe4'\n\n\ndef f(docs):\n    return docs\n")
    tasks.add("shop", [ITEM])
    with (tasks.folder / "shop.yaml").open("a") as stream:
        stream.write("process_docs: !function words.f\n")
    assert find_tasks(["shop"], [str(tasks.folder)]).source("shop").files[1].name == "words.py"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"question": "a"}\n{"question":\n', r"shop\.jsonl:2: broken JSON"),
        ('{"question": "a"}\n\n[1]\n', r"shop\.jsonl:3: expected a JSON object, found list"),
        (None, r"shop\.yaml: dataset_kwargs: there is no file .*shop\.jsonl"),
    ],
)
def test_broken_data_is_named_with_its_line(tasks, content, message):
    tasks.add("shop")
    if content is not None:
        (tasks.folder / "shop.jsonl").write_text(content)
    with pytest.raises(DataError, match=message):
        find_tasks(["shop"], [str(tasks.folder)])


def test_a_mark_at_the_beginning_and_blank_lines_are_no_mistake(tasks):
    tasks.add("shop")
    lines = b"\xef\xbb\xbf" + b"\n\n".join(json.dumps(ITEM).encode() for _ in range(3)) + b"\n\n"
    (tasks.folder / "shop.jsonl").write_bytes(lines)
    found = load_tasks(find_tasks(["shop"], [str(tasks.folder)]), "shop")
    assert len(found.tasks["shop"].eval_docs) == 3


def test_data_lies_beside_the_yaml_wherever_one_is(tasks, tmp_path, monkeypatch):
    files = {"test": "data/test.jsonl", "train": ["data/a*.jsonl"]}
    tasks.add("shop", dataset_kwargs={"data_files": files}, fewshot_split="train", validation_split=None)
    (tasks.folder / "data").mkdir()
    for name in ("test", "a1", "a2"):
        (tasks.folder / f"data/{name}.jsonl").write_text(json.dumps(ITEM | {"question": name}) + "\n")
    monkeypatch.chdir(tmp_path)
    found = find_tasks(["shop"], [str(tasks.folder)])
    assert [file.name for file in found.source("shop").data] == ["test.jsonl", "a1.jsonl", "a2.jsonl"]
    task = load_tasks(found, "shop").tasks["shop"]
    assert [doc["question"] for doc in task.eval_docs] == ["test"]
    assert [doc["question"] for doc in task.fewshot_docs()] == ["a1", "a2"]


def test_a_later_folder_comes_before_what_is_built_in(tasks):
    tasks.add("python_completion", [ITEM])
    found = find_tasks(["python_completion"], [str(tasks.folder)])
    assert len(load_tasks(found, "python_completion").tasks["python_completion"].eval_docs) == 1


def test_a_data_set_that_the_hub_does_not_tell_of_is_named(tasks, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(
        "huggingface_hub.HfApi.dataset_info", lambda *_, **__: (_ for _ in ()).throw(OSError("no route"))
    )
    catalog._commit.cache_clear()
    tasks.add("shop", dataset_path="someone/orders")
    with pytest.raises(
        ConfigError, match=r"shop\.yaml needs data set 'someone/orders'.*OSError: no route.*40-digit commit"
    ):
        check_tasks(tasks.config())


def test_the_commit_of_a_data_set_is_part_of_the_identity(tasks):
    commit = "0123456789abcdef0123456789abcdef01234567"
    tasks.add("shop", dataset_path="someone/orders", dataset_kwargs={"revision": commit})
    found = find_tasks(["shop"], [str(tasks.folder)])
    assert found.identity["shop"][0]["data_sets"] == {"someone/orders": commit}


@pytest.mark.slow
def test_built_in_tasks_are_known(monkeypatch):
    commit = "0123456789abcdef0123456789abcdef01234567"
    monkeypatch.setattr(catalog, "_commit", lambda *_: commit)
    found = find_tasks(["arc_easy"], [])
    [part] = found.parts["arc_easy"]
    assert list(part.pins.values()) == [commit]
    assert len(part.files) >= 1


def test_questions_about_local_services_are_a_group_with_their_data(tasks):
    found = find_tasks(["local_services_intent_zh_choice"], [])
    [part] = found.parts["local_services_intent_zh_choice"]
    names = [file.name for file in (*part.files, *part.data)]
    assert {"_choice_zh.yaml", "local_services.py", "checkers.py", "intent_zh.jsonl"} < set(names)
    assert "make_local_services.py" not in names
    assert len(find_tasks(["local_services"], []).parts["local_services"]) > 36
