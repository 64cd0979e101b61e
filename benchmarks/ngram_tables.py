"""N-gram tables that are gathered whole, against rows spread over processes: peak memory, bytes on the way, time of a step.

    python benchmarks/ngram_tables.py [--processes 2] [--ratio 120.5] [--steps 4] [--rounds 3] [--set a.b=c ...] [--json]

Alternatives take turns, each time in fresh processes: `whole` is FSDP, which gathers the tables and moves all rows with
AdamW; `rows` is `parallel.embedding`; `lazy` adds `training.optimizer.lazy_ngram_moments`. The model is `tiny`
with tables of `ratio` times its vocabulary, fp32 on a CPU. Prints medians over the rounds, and the median of the rounds'
ratios. Memory is the rise of a process' resident peak over what it has before the model is built; bytes are what the
largest process gives to collectives in a step after the first.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch.utils._python_dispatch import TorchDispatchMode

from longcat.accelerator import choose
from longcat.config import load_config
from longcat.corpus.shards import Batch
from longcat.parallel.axes import Degrees
from longcat.parallel.mesh import end_process, join, leave
from longcat.training.trainer import Trainer

ALTERNATIVES = {
    "whole": [],
    "rows": ["parallel.embedding=true"],
    "lazy": ["parallel.embedding=true", "training.optimizer.lazy_ngram_moments=true"],
}
FIGURES = {
    "peak_bytes": ("peak memory", 1e6, "MB"),
    "bytes": ("collectives", 1e6, "MB"),
    "seconds": ("step", 1e-3, "ms"),
}


class Bytes(TorchDispatchMode):
    """Adds up what collectives are given or give, the larger of both, by the name of the collective."""

    def __init__(self) -> None:
        super().__init__()
        self.of: dict[str, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace == "c10d":
            sizes = [_size(argument) for argument in args if isinstance(argument, (torch.Tensor, list))]
            name = func.overloadpacket.__name__.strip("_")
            self.of[name] = self.of.get(name, 0) + max(sizes, default=0)
        return func(*args, **(kwargs or {}))


def _size(tensors: torch.Tensor | list[Any]) -> int:
    if isinstance(tensors, torch.Tensor):
        return tensors.numel() * tensors.element_size()
    return sum(_size(one) for one in tensors if isinstance(one, (torch.Tensor, list)))


def options(arguments: argparse.Namespace, name: str) -> list[str]:
    tables = f"model.ngram={{vocab_size_ratio: {arguments.ratio}, neighbor_num: 3, split_num: 2}}"
    return [
        tables, "training.optimizer.name=adamw", f"training.processes={arguments.processes}",
        "training.global_batch_sequences=4", *arguments.settings, *ALTERNATIVES[name],
    ]  # fmt: skip


def work(arguments: argparse.Namespace) -> None:
    """Take steps in one of several processes; the first one writes what the largest needed."""
    torch.set_num_threads(1)
    config, accelerator = load_config("tiny", None, options(arguments, arguments.work)), choose("cpu")
    mesh = join(accelerator, Degrees(arguments.processes), 300)
    before = accelerator.peak_memory_bytes()
    trainer = Trainer(config, mesh, accelerator, "fp32")
    rows, length = config.training.global_batch_sequences, config.corpus.sequence_length_tokens
    # words as frequent as in a text: row numbers repeat
    shares = 1 / np.arange(1, config.model.vocabulary - 2)
    seconds = []
    for step in range(arguments.steps):
        tokens = np.random.default_rng(step).choice(len(shares), (rows, length + 1), p=shares / shares.sum()) + 3
        batch = Batch.of_rows(tokens[mesh.batch_rank :: mesh.batch_world])
        began, counted = time.perf_counter(), Bytes()
        if step + 1 == arguments.steps:
            with counted:
                trainer.step(step, batch)
        else:
            trainer.step(step, batch)
            seconds.append(time.perf_counter() - began)
    peak = accelerator.peak_memory_bytes() - before
    largest = torch.tensor([peak, sum(counted.of.values())], dtype=torch.float64)
    dist.all_reduce(largest, op=dist.ReduceOp.MAX)
    if mesh.rank == 0:
        # the first step touches its memory for the first time
        facts = dict(zip(FIGURES, [*largest.tolist(), statistics.median(seconds[1:])], strict=True))
        table = trainer.model.model.ngram_embeddings
        assert table is not None
        Path(arguments.output).write_text(json.dumps({**facts, "table_bytes": table.tables.weight.numel() * 4}))
    leave()


def measure(name: str, arguments: argparse.Namespace) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "facts.json"
        command = [
            sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={arguments.processes}", __file__,
            "--work", name, "--output", str(output), "--processes", str(arguments.processes),
            "--ratio", str(arguments.ratio), "--steps", str(arguments.steps),
        ]  # fmt: skip
        command += [part for setting in arguments.settings for part in ("--set", setting)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=1800)
        if result.returncode:
            raise SystemExit(result.stderr[-3000:])
        found: dict[str, float] = json.loads(output.read_text())
        return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--ratio", type=float, default=120.5)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--set", dest="settings", action="append", default=[], metavar="a.b=c")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--work", choices=ALTERNATIVES, help=argparse.SUPPRESS)
    parser.add_argument("--output", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.steps < 3:
        parser.error("--steps: one step to begin with, one that is timed and one whose bytes are counted, 3 at least")
    if arguments.work:
        work(arguments)
        end_process()
    rounds = []
    for number in range(arguments.rounds):
        rounds.append({name: measure(name, arguments) for name in ALTERNATIVES})
        print(f"\rround {number + 1} of {arguments.rounds} ", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    result: dict[str, Any] = {"table_bytes": rounds[0]["whole"]["table_bytes"], "rounds": rounds}
    for name in ALTERNATIVES:
        result[name] = {key: statistics.median(one[name][key] for one in rounds) for key in FIGURES}
        result[f"whole / {name}"] = {
            key: statistics.median(one["whole"][key] / one[name][key] for one in rounds) for key in FIGURES
        }
    if arguments.json:
        print(json.dumps(result, indent=2))
        return
    print(f"tables of {result['table_bytes'] / 1e6:.0f} MB, {arguments.processes} processes")
    for name in ALTERNATIVES:
        figures = [
            f"{text} {result[name][key] / unit:.0f} {unit_name} ({result[f'whole / {name}'][key]:.2f})"
            for key, (text, unit, unit_name) in FIGURES.items()
        ]
        print(f"{name:<6} {', '.join(figures)}")


if __name__ == "__main__":
    main()
