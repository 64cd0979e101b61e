"""Adapter for lm-evaluation-harness: it scores our models on local tasks, without network access."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import yaml

from longcat.artifact import sha256_file
from longcat.corpus.readers.jsonl import json_lines
from longcat.errors import ConfigError
from longcat.inference.requests import Continuation, Prompt
from longcat.inference.runner import Runner
from longcat.inference.sampling import Sampling
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


def score(runner: Runner, names: list[str], *, limit: int | None, seed: int) -> dict[str, dict[str, float]]:
    """Run tasks of lm-evaluation-harness.

    Args:
        runner: asks the model.
        names: names of tasks in data/evaluation.
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
        model=adapter(runner),
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


def adapter(runner: Runner) -> Any:
    """Wrap a runner as a model of lm-eval."""
    from lm_eval.api.model import TemplateLM

    class Adapter(TemplateLM):
        """A model of lm-eval that asks the runner."""

        @property
        def eot_token_id(self) -> int:
            return runner.checkpoint.end_of_text

        def tok_encode(self, string: str, **_: Any) -> list[int]:
            return runner.checkpoint.encode(string)

        def _loglikelihood_tokens(self, requests: list[Any], **_: Any) -> list[tuple[float, bool]]:
            asked = [Continuation(context, continuation) for _, context, continuation in requests]
            return [(found.nats, found.greedy) for found in runner.likelihoods(asked)]

        def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = False) -> list[float]:
            results = []
            for request in requests:
                ids, length = self.tok_encode(request.args[0]), runner.window
                pieces = [ids[i : i + length] for i in range(0, len(ids), length)]
                scored = self._loglikelihood_tokens([(None, [self.eot_token_id], piece) for piece in pieces])
                results.append(sum(value for value, _ in scored))
            return results

        def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
            prompts = []
            for request in requests:
                prompt, options = request.args
                sampling = Sampling(int(options.get("max_gen_toks", 64)))
                prompts.append(Prompt(self.tok_encode(prompt), sampling, options.get("until", [])))
            return [made.text for made in runner.generate(prompts)]

    return Adapter()
