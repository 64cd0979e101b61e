"""Time of a training step in MindSpore's graph mode, beside PyNative's and torch's, and the nodes of its graph.

    python benchmarks/mindspore_graph.py [--preset tiny] [--rounds 5] [--steps 3] [--python PYTHON] [--json]

One model in fp32, AdamW, the preset's batch with random tokens. torch's step is that of `longcat pretrain` in one process, here;
MindSpore's is that of `train_mindspore.py` on the exported model, in a process of the environment of `make mindspore`. The three
take turns, and the medians count. Nodes are those of the graph of losses and gradients: after differentiation, before
MindSpore's passes over the graph, and after them.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
MODES = ("pynative", "graph")
POINTS = {"before": "rewriter_before_opt_a", "after": "execute"}
"""Names that MindSpore 2.10 gives the graph of a step, gradients included, before it is optimised and when it is run."""
LIMIT_S = 900


def torch_step(preset: str, folder: Path) -> Callable[[int], None]:
    """Return a step of longcat's trainer by its number; its first weights and a batch are written to the folder."""
    import numpy as np

    from longcat.accelerator import choose
    from longcat.config import load_config
    from longcat.corpus.shards import Batch
    from longcat.interchange.convert import export
    from longcat.interchange.folder import save_huggingface
    from longcat.parallel.axes import Degrees
    from longcat.parallel.mesh import join
    from longcat.processes.child import free_port
    from longcat.training.trainer import Trainer

    overrides = ["training.optimizer={name: adamw, learning_rate: 1.0e-4}", "training.steps=100000"]
    config = load_config(preset, None, overrides)
    names = {"RANK": 0, "LOCAL_RANK": 0, "WORLD_SIZE": 1, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
    os.environ |= {name: str(value) for name, value in names.items()}
    accelerator = choose("cpu")
    trainer = Trainer(config, join(accelerator, Degrees(), timeout_s=60), accelerator, "fp32")
    save_huggingface(trainer.model, folder / "checkpoint")
    export(folder / "checkpoint", folder / "exported", format_="mindspore")
    shape = config.training.global_batch_sequences, config.corpus.sequence_length_tokens + 1
    batch = Batch.of_rows(np.random.default_rng(0).integers(3, config.model.vocabulary, shape))
    np.savez(folder / "batch.npz", tokens=batch.tokens, targets=batch.targets, documents=batch.documents)
    return lambda step: (trainer.step(step, batch), None)[1]


def mindspore_steps(folder: Path) -> None:
    """Answer each line `MODE STEPS` with the seconds of a step: what runs in MindSpore's environment."""
    sys.path.insert(0, str(folder / "exported"))
    import numpy
    from longcat_mindspore import load
    from train_mindspore import Settings, Trainer

    given = numpy.load(folder / "batch.npz")
    batch = [given[name] for name in ("tokens", "targets", "documents")]
    trainers = {mode: Trainer(load(folder / "exported"), Settings(steps=100_000), mode == "graph") for mode in MODES}
    done = dict.fromkeys(MODES, 0)
    for line in sys.stdin:
        mode, steps = line.split()
        began = time.perf_counter()
        for _ in range(int(steps)):
            trainers[mode].step(done[mode], *batch)
            done[mode] += 1
        print((time.perf_counter() - began) / int(steps), flush=True)


def start(python: Path, folder: Path, **environment: str) -> subprocess.Popen[str]:
    """Start `mindspore_steps` in its environment."""
    command = [str(python), str(Path(__file__).resolve()), "--serve", str(folder)]
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.Popen(
        command, env=clean | {"GLOG_v": "3"} | environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def ask(child: subprocess.Popen[str], mode: str, steps: int) -> float:
    """Let a child do some steps, and return the seconds of one."""
    assert child.stdin is not None and child.stdout is not None
    child.stdin.write(f"{mode} {steps}\n")
    child.stdin.flush()
    answer = child.stdout.readline()
    if not answer:
        raise SystemExit(f"MindSpore ended with exit code {child.wait(60)}")
    return float(answer)


def count_nodes(python: Path, folder: Path) -> dict[str, int]:
    """Compile once more with MindSpore writing its graphs down, and count the operators before its passes and after them."""
    graphs = folder / "graphs"
    child = start(python, folder, MS_DEV_SAVE_GRAPHS="1", MS_DEV_SAVE_GRAPHS_PATH=str(graphs))
    ask(child, "graph", 1)
    child.communicate(timeout=LIMIT_S)
    found: dict[str, int] = {}
    for path in sorted(graphs.rglob("*.ir")):
        point = re.sub(r"^\d+_|(_\d+)+\.ir$", "", path.name)
        nodes = re.search(r"Total number of cnodes: (\d+)", path.read_text(errors="replace"))
        if nodes is not None:
            found[point] = max(found.get(point, 0), int(nodes[1]))
    if missing := [point for point in POINTS.values() if point not in found]:
        raise SystemExit(f"this MindSpore writes no graph {missing[0]!r}; there are {', '.join(sorted(found))}")
    return {name: found[point] for name, point in POINTS.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", default="tiny")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--python", type=Path, default=ROOT / ".venv-mindspore/bin/python")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.serve:
        mindspore_steps(asked.serve)
        return
    if not asked.python.exists():
        raise SystemExit(f"{asked.python}: there is no such Python; make mindspore makes the environment")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        step = torch_step(asked.preset, folder)
        child = start(asked.python, folder)
        first = {mode: ask(child, mode, 1) for mode in MODES}
        seconds: dict[str, list[float]] = {"torch": [], **{mode: [] for mode in MODES}}
        done = 0
        for number in range(asked.rounds + 1):
            began = time.perf_counter()
            for _ in range(asked.steps):
                step(done)
                done += 1
            found = {"torch": (time.perf_counter() - began) / asked.steps}
            found |= {mode: ask(child, mode, asked.steps) for mode in MODES}
            if number:  # the first round warms up
                for kind, value in found.items():
                    seconds[kind].append(value)
        child.communicate(timeout=60)
        nodes = count_nodes(asked.python, folder)
    medians = {kind: statistics.median(values) for kind, values in seconds.items()}
    result = {
        "preset": asked.preset,
        "step_seconds": medians,
        "spread": {kind: [min(values), max(values)] for kind, values in seconds.items()},
        "compile_seconds": first["graph"],
        "graph_over_pynative": medians["pynative"] / medians["graph"],
        "graph_over_torch": medians["torch"] / medians["graph"],
        "nodes": nodes,
    }
    if asked.json:
        print(json.dumps(result))
        return
    for kind, value in medians.items():
        low, high = result["spread"][kind]
        print(f"{kind:10} {value * 1e3:9.1f} ms a step ({low * 1e3:.1f} to {high * 1e3:.1f})")
    print(
        f"a graph's step is {result['graph_over_pynative']:.1f} times as fast as PyNative's, {result['graph_over_torch']:.2f} times torch's"
    )
    print(
        f"first step of the graph, with compilation: {first['graph']:.1f} s; {nodes['before']:,} nodes before MindSpore's "
        f"passes, {nodes['after']:,} after them"
    )


if __name__ == "__main__":
    main()
