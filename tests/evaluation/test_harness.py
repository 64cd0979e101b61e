"""Tasks of lm-evaluation-harness on models whose scores are known, and what is recorded of them."""

import json
from dataclasses import replace

import pytest
from lm_eval.utils import make_table

from longcat.errors import ConfigError, DataError
from longcat.evaluation import harness
from longcat.evaluation.harness import check_tasks, run_tasks
from longcat.evaluation.samples import sample_file
from longcat.inference.requests import Likelihood

ITEMS = [
    {"question": "Two and two are", "choices": ["three", "four", "five", "six"], "answer": 1},
    {"question": "The order is", "choices": ["late", "early"], "answer": 0},
    {"question": "面条多少钱？", "choices": ["十二元", "六元"], "answer": 0},
]
GENERATION = {
    "output_type": "generate_until",
    "doc_to_choice": None,
    "doc_to_target": "{{choices[answer]}}",
    "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
}


def run(opened, config):
    check_tasks(config)
    return run_tasks(opened, config.evaluation, config.seed, lambda task, done: None)


def figures(outcome):
    return {(result.name, metric.name): metric for result in outcome.results for metric in result.metrics}


class Oracle:
    """A runner that finds what it knows likely; `sign` -1 makes it as unlikely."""

    known: set
    sign = 1.0

    def __init__(self, checkpoint, **_):
        self.checkpoint, self.window = checkpoint, checkpoint.window

    def likelihoods(self, requests, on_done):
        texts = [bytes(t - 3 for t in (*r.context, *r.tokens) if t > 2) for r in requests]
        on_done(len(requests))
        return [Likelihood(self.sign * (text in self.known) - 50.0, False, 0) for text in texts]


@pytest.mark.parametrize(("sign", "score"), [(1.0, 1.0), (-1.0, 0.0)])
def test_an_oracle_gets_everything_right_and_its_opposite_nothing(opened, monkeypatch, sign, score, tasks):
    lines = (harness.find_tasks(["python_completion"], []).source("python_completion").data[0]).read_text().splitlines()
    items = [json.loads(line) for line in lines][:24]
    texts = [item["prompt"] + item["choices"][item["answer"]] for item in items]
    Oracle.known = {bytes(t - 3 for t in opened.encode(text)) for text in texts}
    monkeypatch.setattr(Oracle, "sign", sign)
    monkeypatch.setattr(harness, "Runner", Oracle)
    outcome = run(opened, tasks.config("evaluation.task_limit=24", names=["python_completion"]))
    found = figures(outcome)["python_completion", "acc"]
    assert (found.value, found.chance) == (score, 0.25)
    assert outcome.results[0].documents == 24


def test_length_alone_is_no_help(opened, monkeypatch, tasks):
    Oracle.known = set()
    monkeypatch.setattr(harness, "Runner", Oracle)
    outcome = run(opened, tasks.config(names=["python_completion"]))
    found = figures(outcome)["python_completion", "acc"]
    assert found.value < 0.45
    assert found.stderr > 0


def test_samples_say_what_was_asked_and_answered(opened, tasks):
    tasks.add("shop", ITEMS, metadata={"version": 2.5})
    outcome = run(opened, tasks.config())
    [result], samples = outcome.results, outcome.samples["shop"]
    assert (result.version, result.documents, result.few_shot, result.truncated) == ("2.5", 3, 0, 0)
    assert [sample["prompt"] for sample in samples] == [item["question"] for item in ITEMS]
    for sample, item in zip(samples, ITEMS, strict=True):
        assert sample["choices"] == item["choices"]
        assert sample["target"] == item["answer"]
        likelihoods = sample["log_likelihoods"]
        assert sample["answer"] == likelihoods.index(max(likelihoods))
        assert sample["right"] is (sample["answer"] == item["answer"])
    [acc] = [metric for metric in result.metrics if metric.name == "acc"]
    assert acc.value == sum(sample["right"] for sample in samples) / 3
    assert acc.chance == pytest.approx((1 / 4 + 1 / 2 + 1 / 2) / 3)


def test_chance_is_what_a_task_says_or_unknown(opened, tasks):
    tasks.add("stated", ITEMS, **GENERATION | {"generation_kwargs": {"max_gen_toks": 3}, "metadata": {"chance": 0.2}})
    tasks.add("silent", ITEMS, **GENERATION | {"generation_kwargs": {"max_gen_toks": 3}})
    found = figures(run(opened, tasks.config()))
    assert found["stated", "exact_match"].chance == 0.2
    assert found["silent", "exact_match"].chance is None


def test_filters_have_names_of_their_own(opened, tasks):
    filters = [
        {"name": "strict", "filter": [{"function": "take_first"}]},
        {"name": "lower", "filter": [{"function": "lowercase"}, {"function": "take_first"}]},
    ]
    tasks.add("shop", ITEMS, **GENERATION | {"generation_kwargs": {"max_gen_toks": 4}, "filter_list": filters})
    outcome = run(opened, tasks.config())
    assert {name for _, name in figures(outcome)} == {"exact_match.strict", "exact_match.lower"}
    assert [(s["document"], s["filter"]) for s in outcome.samples["shop"]] == [
        (document, name) for name in ("strict", "lower") for document in range(3)
    ]


def test_groups_tags_includes_and_functions(opened, tasks):
    (tasks.folder / "_shop.inc").write_text("metadata: {version: 7}\ntag: shops\n")
    (tasks.folder / "words.py").write_text("def question(doc):\n    return 'Q: ' + doc['question']\n")
    tasks.add("one", ITEMS, include="_shop.inc")
    tasks.add("two", ITEMS, include="_shop.inc")
    path = tasks.folder / "two.yaml"
    path.write_text(path.read_text().replace("doc_to_text: '{{question}}'", "doc_to_text: !function words.question"))
    means = [{"metric": "acc", "aggregation": "mean", "weight_by_size": True}]
    tasks.add("both", group="both", task=["one", "two"], aggregate_metric_list=means)
    group = tasks.folder / "both.yaml"
    group.write_text("group: both\ntask: [one, two]\naggregate_metric_list:\n  - {metric: acc, aggregation: mean}\n")
    outcome = run(opened, tasks.config(names=["both"]))
    found = figures(outcome)
    assert found["both", "acc"].value == pytest.approx((found["one", "acc"].value + found["two", "acc"].value) / 2)
    assert found["both", "acc"].chance == found["one", "acc"].chance
    assert found["both", "acc"].stderr > 0
    assert outcome.samples["two"][0]["prompt"] == "Q: " + ITEMS[0]["question"]
    assert outcome.results[0].version == "7"
    assert outcome.report["group_subtasks"] == {"both": ["one", "two"]}
    by_tag = run(opened, tasks.config(names=["shops"]))
    assert {result.name for result in by_tag.results} == {"one", "two"}


def test_every_file_of_a_task_is_part_of_the_identity(tasks):
    (tasks.folder / "_shop.inc").write_text("metadata: {version: 7}\n")
    (tasks.folder / "more.py").write_text("PREFIX = 'Q: '\n")
    (tasks.folder / "words.py").write_text(
        "import sys\n\nsys.path.insert(0, __file__.removesuffix('/words.py'))\nimport more\n\n\n"
        "def question(doc):\n    return more.PREFIX + doc['question']\n"
    )
    (tasks.folder / "other.py").write_text("")
    tasks.add("one", ITEMS, include="_shop.inc")
    path = tasks.folder / "one.yaml"
    path.write_text(path.read_text().replace("doc_to_text: '{{question}}'", "doc_to_text: !function words.question"))
    known = [check_tasks(tasks.config())]
    (tasks.folder / "other.py").write_text("# nobody's\n")
    assert check_tasks(tasks.config()) == known[0]
    for name in ("_shop.inc", "words.py", "more.py", "one.yaml", "one.jsonl"):
        file = tasks.folder / name
        file.write_text(file.read_text() + ("\n" if name == "one.jsonl" else "# more\n"))
        known.append(check_tasks(tasks.config()))
    assert len({json.dumps(one) for one in known}) == 6
    assert str(tasks.folder) not in json.dumps(known)


def test_results_are_read_by_the_harness_own_tools(opened, tasks):
    tasks.add("shop", ITEMS)
    outcome = run(opened, tasks.config())
    report = json.loads(json.dumps(outcome.report))
    assert "shop" in make_table(report)
    assert report["n-samples"] == {"shop": {"original": 3, "effective": 3}}
    assert str(tasks.folder) not in json.dumps(report)


def test_few_shot_is_a_setting_but_for_tasks_that_say_none(opened, tasks):
    tasks.add("some", ITEMS)
    tasks.add("never", ITEMS, num_fewshot=0)
    outcome = run(opened, tasks.config("evaluation.few_shot=2"))
    assert {result.name: result.few_shot for result in outcome.results} == {"some": 2, "never": 0}
    assert outcome.samples["some"][0]["prompt"].count("\n\n") == 2


@pytest.mark.parametrize(
    ("fields", "settings", "message"),
    [
        ({"num_fewshot": 20}, [], "shop: 20 examples before each question, and there are 3 documents to take"),
        (
            {},
            ["evaluation.few_shot=4"],
            r"shop: 4 examples .* there are 3 documents to take .* or evaluation\.few_shot",
        ),
        ({"num_fewshot": 3, "fewshot_split": "test"}, [], "there are 2 documents besides the question itself"),
    ],
)
def test_more_examples_than_documents_are_refused(tasks, fields, settings, message):
    tasks.add("shop", ITEMS, **fields)
    with pytest.raises(ConfigError, match=message):
        check_tasks(tasks.config(*settings))


def test_as_many_examples_as_there_are_can_be_asked_for(opened, tasks):
    tasks.add("all", ITEMS, num_fewshot=3)
    tasks.add("others", ITEMS, num_fewshot=2, fewshot_split="test")
    assert run(opened, tasks.config()).failures == {}


def test_what_was_cut_is_counted(opened, tasks):
    long = [item | {"question": "x" * size} for item, size in zip(ITEMS, (10, 300, 250), strict=True)]
    tasks.add("shop", long)
    outcome = run(opened, tasks.config())
    assert outcome.results[0].truncated == 2
    # the last token of a choice does not go through the model: 300 + 1 + 5 - 257
    assert [sample["dropped_tokens"] for sample in outcome.samples["shop"]] == [0, 49, 3]


def test_a_conversation_is_asked_by_the_chat_template(opened, tasks):
    template = (
        "{% for m in messages %}<s>{{ m['role'] }}: {{ m['content'] }}{% endfor %}"
        "{% if add_generation_prompt %}<s>assistant:{% endif %}"
    )
    tasks.add("shop", ITEMS)
    config = tasks.config(
        "evaluation.chat_template=true", "evaluation.system_prompt=Be brief.", "evaluation.few_shot=1"
    )
    outcome = run(replace(opened, chat_template=template), config)
    prompt = outcome.samples["shop"][0]["prompt"]
    assert prompt.startswith("<s>system: Be brief.<s>user: ")
    assert prompt.endswith(f"<s>user: {ITEMS[0]['question']}<s>assistant:")
    with pytest.raises(ConfigError, match="has no chat template"):
        run(opened, config)


def test_sampled_texts_depend_on_the_seed_and_on_nothing_else(opened, tasks):
    options = {"do_sample": True, "temperature": 1.5, "max_gen_toks": 12}
    filters = [{"name": "all", "filter": [{"function": "take_first_k", "k": 2}, {"function": "take_first"}]}]
    tasks.add("shop", ITEMS, **GENERATION | {"generation_kwargs": options, "repeats": 2, "filter_list": filters})

    def texts(*overrides):
        return [sample["generated"] for sample in run(opened, tasks.config(*overrides)).samples["shop"]]

    first = texts()
    assert texts() == first
    assert texts("evaluation.batch_sequences=1") == first
    assert texts("evaluation.task_limit=2") == first[:2]
    assert texts("seed=1") != first
    assert all(one != other for one, other in first)
    greedy = texts("evaluation.generation.do_sample=false")
    assert all(one == other for one, other in greedy)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_gen_toks": 256}, "max_gen_toks=256 leaves no room for a prompt in the model's 256 positions"),
        ({"max_gen_toks": "many"}, "max_gen_toks='many' is not a whole number"),
        ({"max_gen_toks": 0}, "max_tokens=0 has to be at least 1"),
        ({"do_sample": True}, "do_sample=true needs a temperature above 0"),
        ({"do_sample": "yes"}, "do_sample='yes' is neither true nor false"),
        ({"temperature": -1}, "temperature=-1.0 is not a number of 0 or more"),
        ({"top_p": 3, "max_gen_toks": 8}, "top_p=3.0 has to be between 0 and 1"),
        ({"num_beams": 4, "max_gen_toks": 8}, "num_beams=4 is not supported; there are until, max_gen_toks"),
        ({"until": [1], "max_gen_toks": 8}, r"until=\[1\] is neither a string nor a list of strings"),
    ],
)
def test_generation_arguments_without_sense_are_refused(tasks, options, message):
    tasks.add("shop", ITEMS, **GENERATION | {"generation_kwargs": options})
    with pytest.raises(ConfigError, match=f"shop: .*{message}"):
        check_tasks(tasks.config())


@pytest.mark.parametrize("until", [None, "", [""], []])
def test_no_stop_string_is_no_mistake(opened, tasks, until):
    tasks.add("shop", ITEMS, **GENERATION | {"generation_kwargs": {"until": until, "max_gen_toks": 6}})
    outcome = run(opened, tasks.config())
    assert outcome.failures == {}
    assert all(len(sample["generated"][0]) > 1 for sample in outcome.samples["shop"])


def test_a_task_that_fails_leaves_the_others_alone(opened, tasks):
    (tasks.folder / "scores.py").write_text("def broken(doc, results):\n    raise KeyError('price')\n")
    tasks.add("good", ITEMS)
    tasks.add("bad", ITEMS)
    path = tasks.folder / "bad.yaml"
    path.write_text(path.read_text() + "process_results: !function scores.broken\n")
    tasks.add("long", [item | {"choices": ["a", "b" * 300], "answer": 0} for item in ITEMS])
    outcome = run(opened, tasks.config())
    assert [result.name for result in outcome.results] == ["good"]
    assert outcome.failures["bad"] == "KeyError: 'price'"
    assert outcome.failures["long"].startswith(
        "task long, document 0: a continuation has 301 tokens, the model reads 256"
    )


def test_progress_names_the_task(opened, tasks):
    told = []
    tasks.add("one", ITEMS)
    tasks.add("two", ITEMS)
    config = tasks.config()
    run_tasks(opened, config.evaluation, 0, lambda task, done: told.append((task, done)))
    assert told[0] == ("one", 0)
    assert ("two", 0.5) in told
    assert [done for _, done in told] == sorted(done for _, done in told)
    assert told[-1] == ("two", 1)


def test_tasks_that_run_what_is_generated_have_to_be_accepted(tasks):
    tasks.add("shop", ITEMS, unsafe_code=True)
    with pytest.raises(
        ConfigError, match=r"shop runs programs that the model writes; evaluation\.run_generated_code=true"
    ):
        check_tasks(tasks.config())
    check_tasks(tasks.config("evaluation.run_generated_code=true"))


def test_names_of_files_of_samples_are_safe():
    assert sample_file("mmlu::law/tax") == "mmlu%3A%3Alaw%2Ftax.jsonl"
    assert len({sample_file(name) for name in ("a/b", "a_b", "a%2Fb")}) == 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"choices": []}, r"shop\.jsonl:2: the list of choices is empty"),
        ({"choices": None}, r"shop\.jsonl:2: the field 'choices' is missing"),
        ({"question": None}, r"shop\.jsonl:2: the field 'question' is missing"),
        ({"answer": 7}, r"shop\.jsonl:2: the answer 7 is none of the 2 choices"),
        ({"answer": None}, r"shop\.jsonl:2: the field 'answer' is missing"),
    ],
)
def test_documents_that_cannot_be_asked_are_named(tasks, change, message):
    items = [dict(item) for item in ITEMS]
    items[1] = {key: value for key, value in (items[1] | change).items() if value is not None}
    tasks.add("shop", items)
    with pytest.raises(DataError, match=message):
        check_tasks(tasks.config())


def test_a_choice_without_text_is_refused(tasks):
    items = [dict(item) for item in ITEMS]
    items[2] = items[2] | {"choices": ["", "六元"]}
    tasks.add("shop", items, target_delimiter="")
    with pytest.raises(DataError, match=r"shop\.jsonl:3: the choice '' is no text that could be scored"):
        check_tasks(tasks.config())
