"""How long a step waits for a checkpoint: written in the background, and written while training waits.

    python benchmarks/checkpoint_stall.py [--parameters 60] [--rounds 5] [--processes 2] [--folder DIR] [--json]

Makes a model of that many million parameters with AdamW, moves it by a step, and then saves it in turns, once as training
does by default and once with `training.asynchronous_checkpoints=false`, `--rounds` times each, after a first one of each
that makes room for the copy. Prints the medians of the seconds that the slowest process waited, and their ratio. After each
save it waits until the checkpoint is on the disk. Exit code 1 if training waits more than 10 % as long in the first way.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import shutil
import socket
import statistics
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from longcat.accelerator import choose
from longcat.config import PipelineConfig, load_config
from longcat.corpus.shards import Batch
from longcat.costs.flops import parameters
from longcat.parallel.axes import Degrees
from longcat.parallel.mesh import end_process, join, leave
from longcat.training.checkpoint_files import RunRecord
from longcat.training.saving import Saver
from longcat.training.trainer import Trainer

BAR = 0.1
ROWS, LENGTH = 2, 32


def config_of(millions: float, processes: int) -> PipelineConfig:
    """Return the preset `tiny`, wider, and with as many layers as come nearest to that many million parameters."""
    options = [
        "model.hidden_size=512",
        "training.optimizer.name=adamw",
        "training.precision=fp32",
        f"training.processes={processes}",
        f"training.global_batch_sequences={ROWS}",
    ]
    sizes = {}
    for layers in range(1, 64):
        config = load_config("tiny", None, [*options, f"model.num_layers={layers}"])
        sizes[layers] = abs(sum(parameters(config.model).values()) - millions * 1e6)
    nearest = min(sizes, key=lambda layers: sizes[layers])
    return load_config("tiny", None, [*options, f"model.num_layers={nearest}"])


def measure(rank: int, processes: int, port: int, millions: float, rounds: int, folder: str) -> None:
    """Save in turns; rank 0 writes what it found to `folder`."""
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(processes)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    config, accelerator = config_of(millions, processes), choose("cpu")
    mesh = join(accelerator, Degrees(processes), 600)
    trainer = Trainer(config, mesh, accelerator, "fp32")
    rows = np.random.default_rng(0).integers(3, 500, (ROWS, LENGTH + 1))
    trainer.step(0, Batch.of_rows(rows[mesh.batch_rank :: mesh.batch_world]))
    savers = {
        name: Saver(Path(folder) / name, mesh.open_on_host(name, 600), keep=1, asynchronous=name == "asynchronous")
        for name in ("asynchronous", "synchronous")
    }
    stalls: dict[str, list[float]] = {name: [] for name in savers}
    for number in range(rounds + 1):
        for name, saver in savers.items():
            dist.barrier()
            stalled = torch.tensor(saver.save(number, trainer.weights, trainer.optimizers, RunRecord()))
            saver.wait()
            dist.all_reduce(stalled, op=dist.ReduceOp.MAX)
            if number:
                stalls[name].append(float(stalled))
            if rank == 0:
                print(f"\rround {number} of {rounds}, {name}: {float(stalled):.3f} s   ", end="", file=sys.stderr)
    if rank == 0:
        written = sum(path.stat().st_size for path in Path(folder).rglob("*.distcp")) // len(savers)
        print(file=sys.stderr)
        found: dict[str, Any] = {f"{name}_s": statistics.median(of) for name, of in stalls.items()}
        found |= {"rounds": stalls, "checkpoint_bytes": written}
        found["parameters"] = sum(parameters(config.model).values())
        (Path(folder) / "found.json").write_text(json.dumps(found))
    leave()
    end_process()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parameters", type=float, default=60, metavar="MILLIONS")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--folder", type=Path, help="where checkpoints are written; a temporary folder by default")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = int(free.getsockname()[1])
    folder = Path(tempfile.mkdtemp(prefix="checkpoint-stall-", dir=arguments.folder))
    try:
        context = multiprocessing.get_context("spawn")
        shared = (arguments.processes, port, arguments.parameters, arguments.rounds, str(folder))
        started = [context.Process(target=measure, args=(rank, *shared)) for rank in range(arguments.processes)]
        for process in started:
            process.start()
        for process in started:
            process.join()
        if any(process.exitcode for process in started):
            raise SystemExit("a process failed")
        result = json.loads((folder / "found.json").read_text())
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    result["ratio"] = result["asynchronous_s"] / result["synchronous_s"]
    if arguments.json:
        print(json.dumps(result, indent=2))
    else:
        print(
            f"{result['parameters'] / 1e6:.1f} M parameters, {result['checkpoint_bytes'] / 1e6:,.0f} MB on the disk: a step "
            f"waits {result['asynchronous_s']:.3f} s, {result['synchronous_s']:.3f} s without the background: "
            f"{100 * result['ratio']:.1f} % (at most {100 * BAR:.0f} %)"
        )
    return int(result["ratio"] > BAR)


if __name__ == "__main__":
    sys.exit(main())
