"""Makes the JSONL and YAML files of this folder: questions about local services whose answers are proved.

    python data/evaluation/local_services/make_local_services.py

Everything is drawn by longcat.local_services from a fixed seed (MIT, like the rest of the project). Routes of five orders are
proved by OR-Tools, of the extra `services`.
"""

import itertools
import json
from pathlib import Path

import yaml

from longcat.local_services import stop_order
from longcat.local_services.instance import CHOICES, Instance, Task, instances
from longcat.local_services.tasks import TASKS
from longcat.local_services.text import CUE, DELIMITER, LANGUAGES, OPTIONS

SEED = 17
ITEMS = 320
LARGE = 16
VERSION = 1.0
FOLDER = Path(__file__).parent


def drawn(task: Task, language: str) -> list[Instance]:
    """Draw the items of a task in a language; the last ones of stop_order have five orders."""
    large = LARGE if task.name == "stop_order" else 0
    items = itertools.islice(instances(task, language, "evaluation", SEED), ITEMS - large)
    return [*items, *itertools.islice(instances(stop_order.LARGE, language, "evaluation", SEED), large)]


def line(instance: Instance) -> str:
    item = {
        "id": instance.content[:16],
        "form": instance.form,
        "question": instance.question,
        "choices": instance.choices,
        "answer": instance.answer,
        "proof": instance.proof,
    }
    return json.dumps(item, ensure_ascii=False) + "\n"


def documents() -> dict[str, dict[str, object]]:
    """Return the YAML files by name: what all tasks of a language and a form have in common, the tasks, and their groups."""
    files: dict[str, dict[str, object]] = {}
    for language in LANGUAGES:
        common = {"test_split": "test", "target_delimiter": DELIMITER[language]}
        choice = {
            "output_type": "multiple_choice",
            "doc_to_text": "{{question}}\n" + CUE[language],
            "doc_to_choice": "{{choices}}",
            "doc_to_target": "{{answer}}",
            "metric_list": [_metric("acc"), _metric("acc_norm")],
        }
        generate = {
            "output_type": "generate_until",
            "doc_to_text": "{{question}}\n" + CUE[language],
            "doc_to_target": "{{choices[answer]}}",
            "generation_kwargs": {"until": ["\n"], "max_gen_toks": 96, "do_sample": False},
            "metric_list": [_metric("right")],
        }
        files[f"_choice_{language}"] = {**common, **choice}
        files[f"_generate_{language}"] = {**common, **generate}
        for form in ("choice", "generate"):
            names = []
            for task in TASKS.values():
                names.append(f"local_services_{task.name}_{language}_{form}")
                chance = 1 / CHOICES if form == "choice" or task.listed or task.named else 0.0
                files[names[-1]] = {
                    "include": f"_{form}_{language}.yaml",
                    "task": names[-1],
                    "dataset_kwargs": {"items": f"{task.name}_{language}.jsonl"},
                    "metadata": {"version": VERSION, "chance": chance},
                }
                if form == "generate" and task.listed:
                    opening, separator = OPTIONS[language]
                    options = opening + "{{choices | join('" + separator + "')}}"
                    files[names[-1]]["doc_to_text"] = "{{question}}\n" + options + "\n" + CUE[language]
            name = f"local_services_{language}_{form}"
            files[name] = _group(name, names, "acc" if form == "choice" else "right")
    groups = [f"local_services_{language}_{form}" for language in LANGUAGES for form in ("choice", "generate")]
    return {**files, "local_services": _group("local_services", groups, None)}


def _metric(name: str) -> dict[str, object]:
    return {"metric": name, "aggregation": "mean", "higher_is_better": True}


def _group(name: str, members: list[str], metric: str | None) -> dict[str, object]:
    mean = {"aggregate_metric_list": [{"metric": metric, "aggregation": "mean", "weight_by_size": False}]}
    return {"group": name, "task": members, **(mean if metric else {}), "metadata": {"version": VERSION}}


def written(name: str, document: dict[str, object]) -> str:
    """Return a YAML file; functions are named by tags, which yaml does not write by itself."""
    text = yaml.safe_dump(document, sort_keys=False, allow_unicode=True, width=120)
    if name.startswith("_"):
        text = f"custom_dataset: !function local_services.load\n{text}"
    if name.startswith("_generate"):
        text += "process_results: !function local_services.check\n"
    return text


if __name__ == "__main__":
    for task in TASKS.values():
        for language in LANGUAGES:
            lines = "".join(map(line, drawn(task, language)))
            (FOLDER / f"{task.name}_{language}.jsonl").write_text(lines, encoding="utf-8")
    for name, document in documents().items():
        (FOLDER / f"{name}.yaml").write_text(written(name, document), encoding="utf-8")
