"""The numbers are those of lm-evaluation-harness' own `hf` model on the exported checkpoint."""

import pytest

from longcat.evaluation.catalog import find_tasks
from longcat.evaluation.harness import run_tasks
from longcat.evaluation.loading import load_tasks
from longcat.interchange.checkpoint_folder import CheckpointFolder
from longcat.interchange.convert import export
from longcat.interchange.folder import save_huggingface

pytestmark = pytest.mark.slow

WORDS = [f"order {number} of noodles 面条 is on its way" for number in range(6)]


@pytest.fixture(scope="module")
def theirs(opened, tmp_path_factory):
    pytest.importorskip("accelerate", reason="lm-evaluation-harness' hf model needs it")
    from lm_eval.models.huggingface import HFLM

    folder = tmp_path_factory.mktemp("hf")
    checkpoint = CheckpointFolder(folder / "checkpoint")
    save_huggingface(opened.model, checkpoint.huggingface)
    opened.tokenizer.save(str(checkpoint.tokenizer))
    export(checkpoint.path, folder / "out")
    # without a context, `hf` takes the token that begins a text; training has the one that ends the text before
    return HFLM(
        pretrained=str(folder / "out"), device="cpu", dtype="float32", batch_size=2, prefix_token_id=opened.end_of_text
    )


def test_three_kinds_of_task_agree(theirs, opened, tasks):
    choices = [{"question": word, "choices": ["late", "很早", "in time"], "answer": 1} for word in WORDS]
    choices[0]["question"] = ""
    choices[1]["question"] = "long " * 80
    choices[2]["question"] = "a special token </s> in text"
    tasks.add("choosing", choices, num_fewshot=1)
    texts = [{"question": "", "text": (word + ". ") * count**2} for count, word in enumerate(WORDS, 1)]
    tasks.add(
        "rolling", texts, output_type="loglikelihood_rolling", doc_to_target="{{text}}", doc_to_choice=None,
        metric_list=[{"metric": "bits_per_byte"}],
    )  # fmt: skip
    tasks.add(
        "writing", [{"question": word * 3, "answer": "x"} for word in WORDS], output_type="generate_until",
        doc_to_choice=None, generation_kwargs={"max_gen_toks": 24, "until": ["a", "\n"]},
        metric_list=[{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
    )  # fmt: skip
    config = tasks.config()
    ours = run_tasks(opened, config.evaluation, 0, lambda task, done: None)
    assert ours.failures == {}
    from lm_eval.evaluator import evaluate

    catalog = find_tasks(tasks.names, [str(tasks.folder)])
    loaded = {name: load_tasks(catalog, name).tasks[name] for name in tasks.names}
    for name, task in loaded.items():
        task.set_config(key="num_fewshot", value=1 if name == "choosing" else 0)
        task.set_fewshot_seed(seed=0)
    found = evaluate(theirs, {"tasks": loaded}, bootstrap_iters=0)
    for name in ("choosing", "rolling"):
        for mine, other in zip(ours.samples[name], found["samples"][name], strict=True):
            values = [response[0] if name == "rolling" else response[0][0] for response in other["resps"]]
            assert mine["log_likelihoods"] == pytest.approx(values, abs=1e-4, rel=1e-6)
    assert [mine["generated"] for mine in ours.samples["writing"]] == [
        other["resps"][0] for other in found["samples"]["writing"]
    ]
    assert len({mine["generated"][0] for mine in ours.samples["writing"]}) > 3
    for result in ours.results:
        for metric in result.metrics:
            assert metric.value == pytest.approx(found["results"][result.name][f"{metric.name},none"], rel=1e-6)
    assert ours.results[0].truncated >= 1
    assert max(len(opened.encode(text["text"])) for text in texts) > opened.window
