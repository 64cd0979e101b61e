"""Adapter for lm-evaluation-harness: it scores our models on local tasks, without network access."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import torch
import yaml
from tokenizers import Tokenizer

from longcat.artifact import sha256_file
from longcat.corpus.readers.jsonl import json_lines
from longcat.errors import ConfigError
from longcat.evaluation.perplexity import TokenModel
from longcat.inference.opening import OpenCheckpoint
from longcat.inference.requests import Prompt
from longcat.inference.runner import Runner
from longcat.inference.sampling import Sampling
from longcat.model.transformer import LongcatModel
from longcat.provenance import ROOT

TASKS = ROOT / "data/evaluation"


def task_files(names: list[str]) -> dict[str, list[Path]]:
    """Find the YAML and JSONL files of each task.

    Raises:
        ConfigError: a task is unknown.
        DataError: a line of its JSONL is broken.
    """
    task_yaml = {path.stem: path for path in TASKS.glob("*.yaml")}
    files = {}
    for name in names:
        if name not in task_yaml:
            raise ConfigError(f"evaluation.tasks: unknown task {name!r}; there are: {', '.join(sorted(task_yaml))}")
        data = task_yaml[name].with_suffix(".jsonl")
        for _ in json_lines(data):
            pass
        files[name] = [task_yaml[name], data]
    return files


def identity_of(names: list[str]) -> dict[str, list[str]]:
    """Return the SHA-256 of each task's files."""
    return {name: [sha256_file(path) for path in paths] for name, paths in task_files(names).items()}


def score(
    model: TokenModel,
    tokenizer: Tokenizer,
    names: list[str],
    *,
    end_of_text: int,
    length: int,
    batch: int,
    limit: int | None,
    seed: int,
) -> dict[str, dict[str, float]]:
    """Run tasks of lm-evaluation-harness.

    Args:
        model: the model.
        tokenizer: the model's tokenizer.
        names: names of tasks in data/evaluation.
        end_of_text: token that precedes a text without context, and that ends a generated text.
        length: maximum number of tokens in the model's input.
        batch: sequences scored at once.
        limit: maximum number of documents per task; all if None.
        seed: random seed of the harness.

    Returns:
        By task: its metrics, their standard errors (`NAME_stderr`), `version` and the number of `documents`.
    """
    os.environ.setdefault("HF_DATASETS_OFFLINE", "1")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    import datasets
    import lm_eval
    from lm_eval.tasks import TaskManager

    datasets.disable_progress_bars()
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    tasks = []
    for yaml_path, data in task_files(names).values():
        task = yaml.safe_load(yaml_path.read_text(encoding="utf-8"))
        tasks.append({**task, "dataset_kwargs": {"data_files": {"test": str(data)}}})
    outcome = lm_eval.simple_evaluate(
        model=adapter(model, tokenizer, end_of_text=end_of_text, length=length, batch=batch),
        tasks=tasks,
        task_manager=TaskManager(include_defaults=False),
        limit=limit,
        bootstrap_iters=100,  # 0 would leave the standard errors out
        random_seed=seed,
        numpy_random_seed=seed,
        torch_random_seed=seed,
        log_samples=False,
        verbosity="ERROR",
    )
    assert outcome is not None
    return {
        name: {
            **{key.removesuffix(",none"): value for key, value in figures.items() if isinstance(value, int | float)},
            "version": float(outcome["versions"][name]),
            "documents": outcome["n-samples"][name]["effective"],
        }
        for name, figures in outcome["results"].items()
    }


def adapter(model: TokenModel, tokenizer: Tokenizer, *, end_of_text: int, length: int, batch: int) -> Any:
    """Wrap one of our models as a model of lm-eval; see `score` for the arguments."""
    from lm_eval.api.model import TemplateLM

    class Adapter(TemplateLM):
        """A model of lm-eval that scores continuations sorted by length, in batches of one fixed size."""

        @property
        def eot_token_id(self) -> int:
            return end_of_text

        def tok_encode(self, string: str, **_: Any) -> list[int]:
            ids: list[int] = tokenizer.encode(string, add_special_tokens=False).ids
            return ids

        def _loglikelihood_tokens(self, requests: list[Any], **_: Any) -> list[tuple[float, bool]]:
            results: list[tuple[float, bool]] = [(0.0, False)] * len(requests)
            order = sorted(range(len(requests)), key=lambda i: -len(requests[i][1]) - len(requests[i][2]))
            for start in range(0, len(order), batch):
                part = order[start : start + batch]
                rows = [(requests[i][1] + requests[i][2])[-(length + 1) :] for i in part]
                width = max(map(len, rows)) - 1
                padded = torch.full((batch, width), end_of_text)
                padding = torch.ones(batch, width, dtype=torch.bool)
                for row, ids in enumerate(rows):
                    padded[row, : len(ids) - 1] = torch.tensor(ids[:-1])
                    padding[row, : len(ids) - 1] = False
                with torch.inference_mode():
                    if isinstance(model, LongcatModel):
                        scores = model.logits(padded, padding=padding).log_softmax(-1)
                    else:
                        scores = model(padded).float().log_softmax(-1)
                for row, (index, ids) in enumerate(zip(part, rows, strict=True)):
                    count = min(len(requests[index][2]), len(ids) - 1)
                    targets = torch.tensor(ids[-count:])
                    here = scores[row, len(ids) - 1 - count : len(ids) - 1]
                    likelihood = here.gather(1, targets[:, None]).sum()
                    results[index] = (float(likelihood), bool((here.argmax(-1) == targets).all()))
            return results

        def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = False) -> list[float]:
            results = []
            for request in requests:
                ids = self.tok_encode(request.args[0])
                pieces = [ids[i : i + length] for i in range(0, len(ids), length)]
                scored = self._loglikelihood_tokens([(None, [end_of_text], piece) for piece in pieces])
                results.append(sum(value for value, _ in scored))
            return results

        def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
            assert isinstance(model, LongcatModel)
            checkpoint = OpenCheckpoint(Path(), model, tokenizer, end_of_text, None, "fp32")
            prompts = []
            for request in requests:
                prompt, options = request.args
                sampling = Sampling(int(options.get("max_gen_toks", 64)))
                prompts.append(Prompt(self.tok_encode(prompt), sampling, options.get("until", [])))
            return [made.text for made in Runner(checkpoint, batch_sequences=batch).generate(prompts)]

    return Adapter()
