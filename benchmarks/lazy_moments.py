"""Loss with AdamW on every row of the n-gram tables, with rows that are moved late, and with rows that are never moved late.

    python benchmarks/lazy_moments.py [--preset tiny] [--seeds 0 1] [--steps 320] [--set a.b=c ...]
                                      [--workspace DIR] [--json] [--plot FILE]

Trains each seed three times in this process, on one thread in fp32: `adamw` moves all rows in every step, `lazy` is
`training.optimizer.lazy_ngram_moments`, and `plain` is the same without making up for late moves, as lazy forms of Adam
commonly are: moments decay by the steps missed, and the row stays. Prints the mean loss of the last 50 steps. The records
of a finished run stay in the workspace and are used again; delete them to repeat it. Exit code 1 if `lazy` is more than
0.1 % away from `adamw`.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import statistics
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

from longcat.accelerator import choose
from longcat.artifact import Workspace, write_json
from longcat.config import load_config
from longcat.corpus.loader import Loader
from longcat.corpus.shards import TokenCorpus
from longcat.corpus.stage import preprocess
from longcat.parallel.axes import Degrees
from longcat.parallel.mesh import end_process, join, leave
from longcat.training.lazy_adamw import LazyAdamW
from longcat.training.trainer import Trainer

TABLES = "model.ngram={vocab_size_ratio: 8.5, neighbor_num: 3, split_num: 2}"
LAZY = ["parallel.embedding=true", "training.optimizer.lazy_ngram_moments=true"]
LAST, BAR = 50, 0.001
COLOURS = {"adamw": "#2a6f97", "lazy": "#e0a030", "plain": "#b04a3a"}


def train(name: str, preset: str, seed: int, options: list[str], space: Workspace) -> dict[str, Any]:
    """Train once; returns the loss of every step, and the share of rows that a step looks up."""
    options = [f"seed={seed}", "training.processes=1", TABLES, *options, *([] if name == "adamw" else LAZY)]
    config = load_config(preset, None, options)
    corpus = TokenCorpus.open(preprocess(config, workspace=space).path)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    os.environ |= {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    accelerator = choose("cpu")
    trainer = Trainer(config, join(accelerator, Degrees(), 600), accelerator, "fp32")
    tables = trainer.parallel.tables
    if name == "plain" and tables is not None:
        for optimizer in trainer.optimizers:
            if isinstance(optimizer, LazyAdamW):  # rows are read, and updated, as they lie in memory
                optimizer.current = tables.read = lambda rows: tables.local[rows]  # type: ignore[method-assign]
    loader = Loader(corpus.train, config.seed, config.training.global_batch_sequences)
    losses, shares = [], []
    for step in range(config.training.steps):
        losses.append(trainer.step(step, loader.batch(step)).loss)
        if tables is not None and tables.gradient is not None:
            shares.append(len(tables.gradient.rows) / len(tables.local))
        print(
            f"\r{preset} seed {seed} {name} step {step + 1} loss {losses[-1]:.3f} ", end="", file=sys.stderr, flush=True
        )
    print(file=sys.stderr)
    leave()
    return {"loss": losses, "rows_of_a_step": statistics.fmean(shares) if shares else 1.0}


def plot(runs: dict[int, dict[str, dict[str, Any]]], file: Path) -> None:
    """Draw what each run's loss is above that with AdamW, smoothed over ten steps."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6, 3), layout="constrained")
    for seed, named in runs.items():
        for name in ("lazy", "plain"):
            more = np.array(named[name]["loss"]) - np.array(named["adamw"]["loss"])
            smooth = np.convolve(more, np.ones(10) / 10, mode="valid")
            label = name if seed == next(iter(runs)) else None
            axes.plot(np.arange(10, len(more) + 1), smooth, color=COLOURS[name], linewidth=1.1, label=label)
    axes.axhline(0, color="grey", linewidth=0.6)
    axes.set_xlabel("step")
    axes.set_ylabel("loss above AdamW's, nats")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=90)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="tiny")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--steps", type=int, default=320)
    parser.add_argument("--set", dest="settings", action="append", default=[], metavar="a.b=c")
    parser.add_argument("--workspace", default="workspace/lazy-moments")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--plot", type=Path, metavar="FILE")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    space = Workspace(arguments.workspace)
    options = [f"training.steps={arguments.steps}", *arguments.settings]
    runs: dict[int, dict[str, dict[str, Any]]] = {}
    for seed in arguments.seeds:
        runs[seed] = {}
        for name in COLOURS:
            record = space.path / f"{arguments.preset}-seed-{seed}-{name}-{arguments.steps}.json"
            if not record.is_file():
                write_json(record, train(name, arguments.preset, seed, options, space))
            runs[seed][name] = json.loads(record.read_text(encoding="utf-8"))
    if arguments.plot:
        plot(runs, arguments.plot)
    result: dict[str, dict[str, float]] = {}
    for seed, named in runs.items():
        last = {name: statistics.fmean(run["loss"][-LAST:]) for name, run in named.items()}
        largest = max(abs(a - b) for a, b in zip(named["lazy"]["loss"], named["adamw"]["loss"], strict=True))
        result[str(seed)] = {
            **last,
            "lazy_change": last["lazy"] / last["adamw"] - 1,
            "plain_change": last["plain"] / last["adamw"] - 1,
            "largest_difference_of_a_step": largest,
            "rows_of_a_step": named["lazy"]["rows_of_a_step"],
        }
    passed = all(abs(row["lazy_change"]) <= BAR for row in result.values())
    if arguments.json:
        print(json.dumps(result, indent=2))
        return 0 if passed else 1
    for seed_name, row in result.items():
        print(
            f"seed {seed_name}: adamw {row['adamw']:.4f}, lazy {row['lazy']:.4f} ({row['lazy_change']:+.3%}, at most "
            f"{row['largest_difference_of_a_step']:.4f} in a step), plain {row['plain']:.4f} ({row['plain_change']:+.3%}); a step "
            f"looks up {row['rows_of_a_step']:.1%} of the rows"
        )
    print("passed" if passed else "missed")
    return 0 if passed else 1


if __name__ == "__main__":
    end_process(main())
