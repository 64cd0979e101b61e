"""Long rows divided over processes, against the same rows in one: loss, gradients, time of a step and peak memory.

    python benchmarks/context_parallel.py [--processes 4] [--lengths 32768 131072] [--attention dense] [--set a.b=c ...] [--json]

A step of the preset `smoke` on one row of each length, several documents in it, with n-grams, multi-token prediction and an
indexer; fp32 on a CPU. `--attention` says how far it has been trained: `dense` leaves the indexer out, `warmup` lets it
learn from all keys, `sparse` reads what it chooses. The processes are along `parallel.context`, with another layout by
`--set parallel.tensor=2` and so on. Differences are those of the loss, and the largest of a gradient as a fraction of its
tensor's largest number, with the tensor that has it. Memory is the rise of the largest process' resident peak over what
it has before the model is built.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file
from torch.distributed.tensor import DTensor

from longcat.accelerator import choose
from longcat.config import load_config
from longcat.corpus.shards import Batch
from longcat.parallel.mesh import end_process, join, leave
from longcat.training.layout import settle_layout
from longcat.training.trainer import Trainer

EVERYTHING = (
    "model.mtp_num_layers=1",
    "model.ngram={vocab_size_ratio: 2.5, neighbor_num: 3, split_num: 2}",
    "model.sparse_attention={index_n_heads: 2, index_head_dim: 12, index_topk: 256, index_init_tokens: 4, index_local_tokens: 64}",
    "training.mask_documents=true",
    "training.global_batch_sequences=1",
)
PHASES = {
    "dense": "training.dense_attention_steps=1",
    "warmup": "training.indexer_warmup_steps=1",
    "sparse": "training.dense_attention_steps=0",
}
DOCUMENTS = 5
"""In a row, of unequal lengths."""


def options(arguments: argparse.Namespace, processes: int, length: int) -> list[str]:
    layout = [f"training.processes={processes}"]
    if processes > 1:
        layout += [f"parallel.context={processes}", *arguments.settings]
    sizes = [f"corpus.sequence_length_tokens={length}", f"model.max_position_embeddings={length}"]
    return [*EVERYTHING, PHASES[arguments.attention], *sizes, *layout]


def row(length: int) -> Batch:
    """Make a row of several documents."""
    draw = np.random.default_rng(0)
    tokens = draw.integers(3, 512, (1, length + 1))
    starts = np.sort(draw.choice(length, DOCUMENTS - 1, replace=False))
    documents = np.searchsorted(starts, np.arange(length), side="right")[None]
    return Batch(tokens[:, :-1].copy(), tokens[:, 1:].copy(), documents)


def work(arguments: argparse.Namespace) -> None:
    """Take a step in one of several processes; the first one writes what came of it."""
    torch.set_num_threads(1)
    processes, [length] = int(os.environ["WORLD_SIZE"]), arguments.lengths
    config, accelerator = load_config("smoke", None, options(arguments, processes, length)), choose("cpu")
    mesh = join(accelerator, settle_layout(config, accelerator).degrees, arguments.limit)
    before = accelerator.peak_memory_bytes()
    trainer = Trainer(config, mesh, accelerator, "fp32")
    began = time.perf_counter()
    result = trainer.step(0, row(length))
    figures = torch.tensor([time.perf_counter() - began, accelerator.peak_memory_bytes() - before], dtype=torch.float64)
    dist.all_reduce(figures, op=dist.ReduceOp.MAX)
    gradients = {
        name: of.grad.full_tensor() if isinstance(of.grad, DTensor) else of.grad
        for name, of in trainer.weights.named_parameters()
        if of.grad is not None
    }
    if mesh.rank == 0:
        folder = Path(arguments.output)
        save_file({name: of.contiguous() for name, of in gradients.items()}, folder / "gradients.safetensors")
        seconds, peak = figures.tolist()
        loads = result.expert_load.tolist()
        facts = {"loss": result.loss, **result.auxiliary, "loads": loads, "seconds": seconds, "peak_bytes": peak}
        (folder / "facts.json").write_text(json.dumps(facts))
    leave()


def measure(arguments: argparse.Namespace, processes: int, length: int, folder: Path) -> dict[str, Any]:
    folder.mkdir()
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}", __file__,
        "--work", "--output", str(folder), "--lengths", str(length), "--attention", arguments.attention,
        "--limit", str(arguments.limit),
    ]  # fmt: skip
    command += [part for setting in arguments.settings for part in ("--set", setting)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    result = subprocess.run(
        command, env=environment, capture_output=True, text=True, check=False, timeout=arguments.limit
    )
    if result.returncode:
        raise SystemExit(result.stderr[-3000:])
    found: dict[str, Any] = json.loads((folder / "facts.json").read_text())
    return found


def compare(arguments: argparse.Namespace, length: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as name:
        folders = {processes: Path(name) / str(processes) for processes in (1, arguments.processes)}
        alone, divided = (measure(arguments, processes, length, folder) for processes, folder in folders.items())
        expected, found = (load_file(folder / "gradients.safetensors") for folder in folders.values())
    wrong = {
        name: float((found[name] - whole).abs().max() / whole.abs().max().clamp_min(1e-30))
        for name, whole in expected.items()
    }
    worst = max(wrong, key=wrong.__getitem__)
    return {
        "tokens": length,
        "processes": arguments.processes,
        "attention": arguments.attention,
        "loss": alone["loss"],
        "loss_difference": abs(divided["loss"] - alone["loss"]),
        "same_loads": divided["loads"] == alone["loads"],
        "gradient_difference": wrong[worst],
        "worst_gradient": worst,
        "seconds": {"alone": alone["seconds"], "divided": divided["seconds"]},
        "peak_bytes": {"alone": alone["peak_bytes"], "divided": divided["peak_bytes"]},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, default=4)
    parser.add_argument("--lengths", type=int, nargs="+", default=[32_768, 131_072])
    parser.add_argument("--attention", choices=PHASES, default="dense")
    parser.add_argument("--limit", type=float, default=3600, help="seconds that a step may take")
    parser.add_argument("--set", dest="settings", action="append", default=[], metavar="a.b=c")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--work", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--output", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.work:
        work(arguments)
        end_process()
    results = []
    for length in arguments.lengths:
        one = compare(arguments, length)
        results.append(one)
        if not arguments.json:
            seconds, peak = one["seconds"], one["peak_bytes"]
            print(
                f"{length:,} tokens, {one['attention']} attention: loss {one['loss']:.6f}, differs by {one['loss_difference']:.1e}, "
                f"gradients by at most {one['gradient_difference']:.1e} ({one['worst_gradient']}), "
                f"expert loads {'the same' if one['same_loads'] else 'DIFFER'}; "
                f"{seconds['alone']:.1f} s and {peak['alone'] / 1e6:.0f} MB in one process, "
                f"{seconds['divided']:.1f} s and {peak['divided'] / 1e6:.0f} MB in the largest of {one['processes']}"
            )
    if arguments.json:
        print(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
