"""Likelihoods and generated text beside lm-evaluation-harness' `hf` with the same exported weights.

    make setup EXTRAS=dev,compare
    python benchmarks/evaluate.py [--json] [--rounds 5] [--checkpoint DIR] [--batch 16]

Without a checkpoint the model has the shapes of the preset `tiny` and initial weights. fp32 on the CPU, on OMP_NUM_THREADS threads;
both models live in one process and take turns, in alternating order; medians over rounds count. A ratio is ours over theirs, by the clock and, for a busy machine, in processor time. Requests
are the choices of data/evaluation/python_completion.jsonl, each with its context; prompts are these contexts, of unequal
length, each continued greedily: up to the end of a line, as tasks ask for it; up to a character that ends texts after half of their
length on average, each at another place; and by as many tokens each. The bar is 2 for each of the four, in processor time. Both
have to agree: likelihoods to 1e-3, and texts but for one in twenty.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_DATASETS_OFFLINE", "1")
os.environ.setdefault("TQDM_DISABLE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import torch

from longcat.accelerator import choose
from longcat.config import load_config
from longcat.corpus.tokenizer import train_tokenizer
from longcat.inference.opening import OpenCheckpoint, open_checkpoint
from longcat.inference.requests import Continuation, Prompt
from longcat.inference.runner import Runner
from longcat.inference.sampling import Sampling
from longcat.interchange import save_huggingface
from longcat.interchange.convert import export
from longcat.model import LongcatModel

ITEMS = Path(__file__).parent.parent / "data/evaluation/python_completion.jsonl"
BAR = 2.0
"""Least ratio of each kind of requests."""
Timed = tuple[Callable[[], Any], Callable[[], Any]]
"""Ours and theirs."""


def read_items() -> list[tuple[str, list[str]]]:
    """Return contexts with their choices."""
    records = [json.loads(line) for line in ITEMS.read_text(encoding="utf-8").splitlines()]
    return [(record["prompt"], record["choices"]) for record in records]


def open_both(given: Path | None, batch: int, folder: Path) -> tuple[OpenCheckpoint, Any]:
    """Open a checkpoint with longcat and, exported into a folder, as lm-eval's `hf`."""
    from lm_eval.models.huggingface import HFLM

    logging.disable(logging.WARNING)
    if given is None:
        given = folder / "ours"
        texts = [context + choices[0] for context, choices in read_items()]
        model = LongcatModel(load_config("tiny", overrides=["model.initializer_range=0.1"]).model)
        model.initialize(0)
        save_huggingface(model, given / "huggingface")
        train_tokenizer(texts, model.config.vocabulary).save(str(given / "huggingface/tokenizer.json"))
    export(given, folder / "theirs", dtype="float32")
    theirs = HFLM(pretrained=str(folder / "theirs"), device="cpu", dtype="float32", batch_size=batch)
    return open_checkpoint(given, None, choose("cpu"), "fp32"), theirs


def likelihoods(opened: OpenCheckpoint, theirs: Any, batch: int) -> tuple[Timed, int]:
    """Return both ways to score all choices, from tokens on, and the number of requests."""
    asked = [
        Continuation(opened.encode(context) or [opened.end_of_text], opened.encode(choice))
        for context, choices in read_items()
        for choice in choices
    ]
    runner = Runner(opened, batch_sequences=batch)
    in_theirs = [((str(n), ""), list(one.context), list(one.tokens)) for n, one in enumerate(asked)]

    def hf() -> list[float]:
        return [nats for nats, _ in theirs._loglikelihood_tokens(in_theirs, disable_tqdm=True)]

    return (lambda: [one.nats for one in runner.likelihoods(asked)], hf), len(asked)


def generation(
    opened: OpenCheckpoint, theirs: Any, batch: int, prompts: int, count: int, until: list[str]
) -> tuple[Timed, int]:
    """Return both ways to continue texts, from text to text, and the number of tokens up to what ends each."""
    from lm_eval.api.instance import Instance

    texts = [context for context, _ in read_items()][:prompts]
    runner = Runner(opened, batch_sequences=batch)
    options = {"until": until, "max_gen_toks": count, "do_sample": False}
    instances = [
        Instance(request_type="generate_until", doc={}, arguments=(text, options), idx=n)
        for n, text in enumerate(texts)
    ]

    def ours() -> list[str]:
        return [made.text for made in runner.generate(asked)]

    asked = [Prompt(opened.encode(text), Sampling(count), until) for text in texts]
    tokens = sum(len(made.tokens) for made in runner.generate(asked))
    return (ours, lambda: theirs.generate_until(instances, disable_tqdm=True)), tokens


def uneven_stop(opened: OpenCheckpoint, prompts: int, count: int) -> str:
    """Return the character whose first places in texts are nearest to half of these texts on average."""
    asked = [Prompt(opened.encode(text), Sampling(count)) for text, _ in read_items()[:prompts]]
    texts = [made.text for made in Runner(opened).generate(asked) if made.text]

    def share(stop: str) -> float:
        return statistics.mean(len(text.split(stop)[0]) / len(text) for text in texts)

    return min(sorted(set("".join(texts))), key=lambda stop: abs(share(stop) - 0.5))


def measure(both: Timed, units: int, rounds: int) -> tuple[dict[str, Any], list[Any]]:
    """Let both work in turns; returns speeds, the ratio by the clock and in processor time, and what the untimed first round found."""
    found = [work() for work in both]
    clocks: dict[str, Callable[[], float]] = {"clock": time.perf_counter, "processor": time.process_time}
    seconds: dict[str, list[list[float]]] = {name: [[], []] for name in clocks}
    for number in range(rounds):
        for place in (0, 1) if number % 2 == 0 else (1, 0):
            began = {name: read() for name, read in clocks.items()}
            both[place]()
            for name, read in clocks.items():
                seconds[name][place].append(read() - began[name])
    speeds = {who: units / statistics.median(of) for who, of in zip(("longcat", "hf"), seconds["clock"], strict=True)}
    ratios = {name: [theirs / ours for ours, theirs in zip(*of, strict=True)] for name, of in seconds.items()}
    medians = {name: statistics.median(of) for name, of in ratios.items()}
    return {"units_per_second": speeds, "ratio": medians, "ratios": ratios}, found


def compare(opened: OpenCheckpoint, theirs: Any, arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure all kinds of requests.

    Raises:
        SystemExit: likelihoods or texts differ.
    """
    scoring, requests = likelihoods(opened, theirs, arguments.batch)
    scored, (ours, hf) = measure(scoring, requests, arguments.rounds)
    scored["largest_difference"] = max(abs(one - other) for one, other in zip(ours, hf, strict=True))
    if scored["largest_difference"] > 1e-3:
        raise SystemExit(f"likelihoods differ by {scored['largest_difference']:.2g}")
    found = {"log-likelihood requests": scored}
    ends = {
        "up to a line's end": ["\n"],
        "of unequal length": [uneven_stop(opened, arguments.prompts, arguments.tokens)],
        "of one length": [],
    }
    for kind, until in ends.items():
        name = f"tokens of texts {kind}"
        making, tokens = generation(opened, theirs, arguments.batch, arguments.prompts, arguments.tokens, until)
        found[name], (ours, hf) = measure(making, tokens, arguments.rounds)
        same = sum(one == other for one, other in zip(ours, hf, strict=True)) / len(ours)
        if same < 0.95:
            raise SystemExit(f"{name}: only {same:.0%} of the texts are equal")
        found[name] |= {"tokens": tokens, "equal_texts": same}

    return {"threads": torch.get_num_threads(), "found": found}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--checkpoint", type=Path)
    parser.add_argument("--batch", type=int, default=16, help="sequences at a time, of both")
    parser.add_argument("--prompts", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=48, help="that each prompt is continued by")
    arguments = parser.parse_args()

    with tempfile.TemporaryDirectory(prefix="longcat-evaluate-") as folder:
        opened, theirs = open_both(arguments.checkpoint, arguments.batch, Path(folder))
        outcome = compare(opened, theirs, arguments)
    if arguments.json:
        print(json.dumps(outcome, indent=2))
        return
    for name, of in outcome["found"].items():
        speeds = ", ".join(f"{who} {value:.1f}" for who, value in of["units_per_second"].items())
        ratios = ", ".join(
            f"{median:.2f} by {clock} ({' '.join(f'{value:.2f}' for value in of['ratios'][clock])})"
            for clock, median in of["ratio"].items()
        )
        verdict = "met" if of["ratio"]["processor"] >= BAR else "missed"
        print(f"{name}/s: {speeds}; ratio {ratios}; bar {BAR:g} in processor time: {verdict}")
    largest = outcome["found"]["log-likelihood requests"]["largest_difference"]
    print(f"likelihoods differ by {largest:.1e} at most")


if __name__ == "__main__":
    main()
