"""The timeline of a training step of a pipeline, from processes of this machine.

    python benchmarks/step_timeline.py FILE [--processes 8] [--preset tiny] [--set a.b=c ...] [--steps 4] [--keep JSON]

By default four stages with `1f1b`, in each of which two processes share the experts, and eight micro-batches. Of the
profiled steps the last one is drawn to FILE (PNG), a process of each stage; `--keep` also writes what is drawn, and
`--from JSON` draws it without a run.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from longcat.accelerator import choose
from longcat.benchmark.axis_plots import timelines
from longcat.benchmark.measuring import profile
from longcat.config import load_config
from longcat.corpus.shards import Batch
from longcat.figures import png
from longcat.parallel.mesh import end_process, join, leave
from longcat.training.layout import settle_layout
from longcat.training.trainer import Trainer

LAYOUT = (
    "model.num_layers=4",
    "parallel.pipeline=4",
    "parallel.expert=2",
    "training.global_batch_sequences=16",
    "training.micro_batch_sequences=1",
)
LIMIT_S = 900.0


def work(arguments: argparse.Namespace) -> None:
    """Take steps in one of several processes; the first one writes their timelines."""
    torch.set_num_threads(1)
    settings = [*LAYOUT, *arguments.settings, f"training.processes={os.environ['WORLD_SIZE']}"]
    config, accelerator = load_config(arguments.preset, None, settings), choose("cpu")
    mesh = join(accelerator, settle_layout(config, accelerator).degrees, LIMIT_S)
    trainer = Trainer(config, mesh, accelerator, "fp32")
    rows, length = config.training.global_batch_sequences, config.corpus.sequence_length_tokens
    draw = np.random.default_rng(0).integers(3, config.corpus.vocabulary_size, (rows, length + 1))
    own = draw[mesh.batch_rank :: mesh.batch_world]
    batch = Batch(own[:, :-1].copy(), own[:, 1:].copy(), np.zeros_like(own[:, 1:]))
    folder = Path(arguments.output)
    found = profile(lambda step: trainer.step(step, batch), 0, arguments.steps, accelerator, folder, mesh)
    if found is not None:
        (folder / "timelines.json").write_text(json.dumps(found["timelines"]))
    leave()


def measured(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Return the timelines of new processes."""
    with tempfile.TemporaryDirectory() as folder:
        command = [
            sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={arguments.processes}",
            __file__, "unused", "--work", "--output", folder, "--preset", arguments.preset,
            "--steps", str(arguments.steps),
        ]  # fmt: skip
        command += [part for setting in arguments.settings for part in ("--set", setting)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=LIMIT_S)
        if result.returncode:
            raise SystemExit(result.stderr[-3000:])
        found: list[dict[str, Any]] = json.loads((Path(folder) / "timelines.json").read_text())
        return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("--processes", type=int, default=8)
    parser.add_argument("--preset", default="tiny")
    parser.add_argument("--steps", type=int, default=4, help="profiled, after one that is not shown")
    parser.add_argument("--set", dest="settings", action="append", default=[], metavar="a.b=c")
    parser.add_argument("--keep", type=Path, metavar="JSON")
    parser.add_argument("--from", dest="earlier", type=Path, metavar="JSON")
    parser.add_argument("--work", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--output", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.work:
        work(arguments)
        end_process()
    lines = json.loads(arguments.earlier.read_text()) if arguments.earlier else measured(arguments)
    if arguments.keep:
        arguments.keep.write_text(json.dumps(lines))
    arguments.file.parent.mkdir(parents=True, exist_ok=True)
    arguments.file.write_bytes(png(timelines(lines)))


if __name__ == "__main__":
    main()
