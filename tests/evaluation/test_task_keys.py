"""Keys of a task that make no sense are refused before anything is loaded, with the file and the key."""

import pytest
import yaml

from longcat.errors import DataError
from longcat.evaluation.catalog import find_tasks
from longcat.evaluation.harness import check_tasks

ITEM = {"question": "q", "choices": ["a", "b"], "answer": 0}
REGEX = {"function": "regex", "regex_pattern": "(["}


def filters(*steps):
    return {"filter_list": [{"name": "short", "filter": list(steps)}]}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"metadata": {"chance": 7}}, r"metadata\.chance: 7 is no number between 0 and 1"),
        ({"metadata": {"chance": -0.1}}, r"metadata\.chance: -0\.1 is no number between 0 and 1"),
        ({"metadata": {"chance": "abc"}}, r"metadata\.chance: 'abc' is no number"),
        ({"metadata": {"chance": True}}, r"metadata\.chance: True is no number"),
        ({"metadata": {"chance": float("nan")}}, r"metadata\.chance: nan is no number"),
        ({"metadata": {"chance": [0.5]}}, r"metadata\.chance: \[0\.5\] is no number"),
        ({"metadata": {"chance": {"acc": 7}}}, r"metadata\.chance: acc: 7 is not between 0 and 1"),
        ({"metadata": {"chance": {"acc": "x"}}}, r"metadata\.chance: acc: 'x' is no number"),
        (
            {"metadata": {"chance": {"ac": 0.5}}},
            r"metadata\.chance: the task has no metric 'ac'; there are: acc, acc_norm",
        ),
        ({"num_fewshot": -2}, r"num_fewshot: -2 is no whole number of 0 or more"),
        ({"num_fewshot": 1.5}, r"num_fewshot: 1\.5 is no whole number"),
        ({"num_fewshot": "two"}, r"num_fewshot: 'two' is no whole number"),
        ({"repeats": 0}, r"repeats: 0 is no whole number of 1 or more"),
        ({"output_type": "choice"}, r"output_type: 'choice' is none of loglikelihood, multiple_choice"),
        ({"generation_kwargs": ["until"]}, r"generation_kwargs: \['until'\] is no mapping"),
        ({"num_fewshots": 2}, r"unknown key 'num_fewshots'; near are: num_fewshot"),
        ({"doc_to_text": None}, r"doc_to_text is missing"),
        ({"doc_to_choice": None}, r"doc_to_choice is missing, which output_type: multiple_choice needs"),
        ({"test_split": None}, r"test_split is missing"),
        ({"process_docs": "words.f"}, r"process_docs: 'words\.f' is no function; it is written as !function"),
        ({"process_results": "words.f"}, r"process_results: 'words\.f' is no function"),
        (
            {"metric_list": [{"metric": "ac", "aggregation": "mean"}]},
            r"metric_list: unknown metric 'ac'; near are: acc",
        ),
        ({"metric_list": [{"metric": "ac"}]}, r"metric_list: unknown metric 'ac'"),
        (
            {"metric_list": [{"metric": "acc", "aggregation": "meen"}]},
            r"metric_list: acc: unknown aggregation 'meen'; near are: mean",
        ),
        ({"metric_list": "acc"}, r"metric_list: 'acc' is no list"),
        ({"metric_list": ["acc"]}, r"metric_list: 'acc' does not name a metric"),
        (filters(REGEX), r"filter_list: short: regex_pattern: '\(\[' is no regular expression \(unterminated"),
        (filters({"function": "regexp"}), r"filter_list: short: unknown function 'regexp'; near are: regex"),
        (filters({"function": "regex", "pattern": "a"}), r"filter_list: short: regex: .*'pattern'"),
        ({"filter_list": ["regex"]}, r"filter_list: 'regex' has no name and list of functions"),
    ],
)
def test_a_key_that_makes_no_sense_is_named(tasks, monkeypatch, fields, message):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    tasks.add("shop", [ITEM], **fields)
    with pytest.raises(DataError, match=rf"shop\.yaml: {message}"):
        find_tasks(["shop"], [str(tasks.folder)])


def test_a_key_that_a_group_overrides_is_checked(tasks):
    tasks.add("one", [ITEM])
    group = {"group": "all", "task": [{"task": "one", "num_fewshot": -1}]}
    (tasks.folder / "all.yaml").write_text(yaml.safe_dump(group))
    with pytest.raises(DataError, match=r"all\.yaml: num_fewshot: -1 is no whole number"):
        find_tasks(["all"], [str(tasks.folder)])


def test_what_a_task_of_one_s_own_code_registers_is_known(tasks):
    (tasks.folder / "words.py").write_text(
        "from lm_eval.api.filter import Filter\nfrom lm_eval.api.registry import register_filter\n\n\n"
        "@register_filter('of_the_tests')\nclass Mine(Filter):\n    def apply(self, resps, docs):\n        return resps\n\n\n"
        "def question(doc):\n    return doc['question']\n"
    )
    tasks.add("shop", [ITEM], **filters({"function": "of_the_tests"}, {"function": "take_first"}))
    path = tasks.folder / "shop.yaml"
    path.write_text(path.read_text().replace("doc_to_text: '{{question}}'", "doc_to_text: !function words.question"))
    check_tasks(tasks.config())
