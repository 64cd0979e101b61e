"""The experts' load under the old and the present settings of the router, side by side.

    python benchmarks/balance.py [--preset tiny] [--seeds 0 1] [--steps 320] [--only old|new] [--set a.b=c ...]
                                 [--workspace DIR] [--json] [--plot FILE]

Trains each seed twice in this process, on one thread in fp32: with `OLD` (routers at the full learning rate, no importance
loss, mu = 0.1) and with the preset as it is, and compares the means over the last 50 steps. In every layer the busiest
routed expert should have less than 2 times, and the least used one more than 0.3 times the mean load; the loss should not
grow by more than 0.5 %. The records of a finished run stay in the workspace and are used again; delete them to repeat it.
Exit code 1 if a bar is missed.
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
from longcat.training.trainer import Trainer

OLD = [
    "training.optimizer.router_learning_rate_fraction=1",
    "training.losses.importance_weight=0",
    "training.balance.bias_update_rate=0.1",
    "training.balance.final_bias_update_fraction=1",
]
LAST = 50
MOST, LEAST, LOSS = 2.0, 0.3, 0.005
COLOURS = {"old": "#b04a3a", "new": "#2a6f97"}


Run = dict[str, Any]


def train(preset: str, seed: int, options: list[str], space: Workspace) -> Run:
    """Train once and record every step: loss, routed experts per token, slots of each expert, entropy of each router."""
    config = load_config(preset, None, [f"seed={seed}", "training.processes=1", *options])
    corpus = TokenCorpus.open(preprocess(config, workspace=space).path)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    os.environ |= {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    accelerator = choose("cpu")
    trainer = Trainer(config, join(accelerator, Degrees(), 600), accelerator, "fp32")
    loader = Loader(corpus.train, config.seed, config.training.global_batch_sequences)
    run: Run = {"routed": config.model.n_routed_experts, "top_k": config.model.moe_topk}
    run |= {"loss": [], "slots": [], "entropy": []}
    for step in range(config.training.steps):
        result = trainer.step(step, loader.batch(step))
        run["loss"].append(result.loss)
        run["slots"].append(result.expert_load.int().tolist())
        run["entropy"].append(result.router_entropy.tolist())
        print(f"\r{preset} seed {seed} step {step + 1} loss {result.loss:.3f} ", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    leave()
    return run


def relative_load(run: Run) -> np.ndarray:
    """Return the load of each routed expert over the mean of its layer, `[steps, layers, routed]`."""
    slots = np.array(run["slots"], dtype=float)[:, :, : run["routed"]]
    relative: np.ndarray = slots / slots.mean(2, keepdims=True)
    return relative


def summary(run: Run) -> dict[str, Any]:
    """Average over the last steps, per layer where there is one value per layer."""
    relative = relative_load(run)[-LAST:]
    slots = np.array(run["slots"], dtype=float)[-LAST:]
    return {
        "loss": statistics.fmean(run["loss"][-LAST:]),
        "ffn_experts_per_token": float(run["top_k"] * slots[:, :, : run["routed"]].sum() / slots.sum()),
        "most": relative.max(2).mean(0).round(3).tolist(),
        "least": relative.min(2).mean(0).round(3).tolist(),
        "router_entropy": np.mean(run["entropy"][-LAST:], axis=0).round(3).tolist(),
    }


def plot(runs: dict[int, dict[str, Run]], preset: str, file: Path) -> None:
    """Draw most and least load of each layer over the steps; seeds in one colour."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    layers = len(next(iter(runs.values()))["new"]["slots"][0])
    figure, panels = pyplot.subplots(
        1, layers, figsize=(4 * layers, 3), sharey=True, squeeze=False, layout="constrained"
    )
    for layer, panel in enumerate(panels[0]):
        for seed, settings in runs.items():
            for name, run in settings.items():
                load = relative_load(run)[:, layer]
                for extreme, values, style in (("most", load.max(1), "-"), ("least", load.min(1), ":")):
                    label = f"{name}, {extreme}" if seed == next(iter(runs)) else None
                    smooth = np.convolve(values, np.ones(10) / 10, mode="valid")
                    steps = np.arange(10, len(values) + 1)
                    panel.plot(steps, smooth, style, color=COLOURS[name], linewidth=1.1, alpha=0.8, label=label)
        for bar in (MOST, LEAST):
            panel.axhline(bar, color="grey", linewidth=0.6)
        panel.set_title(f"{preset}, layer {layer}", fontsize=9)
        panel.set_xlabel("step", fontsize=8)
        panel.tick_params(labelsize=7)
        panel.spines[["top", "right"]].set_visible(False)
    panels[0][0].set_ylabel("load over the mean of routed experts", fontsize=8)
    panels[0][0].legend(frameon=False, fontsize=7)
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=90)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="tiny")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--steps", type=int, default=320)
    parser.add_argument("--only", choices=COLOURS, help="train with this setting only, and compare nothing")
    parser.add_argument("--set", dest="settings", action="append", default=[], metavar="a.b=c")
    parser.add_argument("--workspace", default="workspace/balance")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--plot", type=Path, metavar="FILE")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    space = Workspace(arguments.workspace)
    options = [f"training.steps={arguments.steps}", *arguments.settings]
    runs: dict[int, dict[str, Run]] = {}
    for seed in arguments.seeds:
        runs[seed] = {}
        for name, changes in (("old", OLD), ("new", [])):
            if arguments.only not in (None, name):
                continue
            record = space.path / f"{arguments.preset}-seed-{seed}-{name}-{arguments.steps}.json"
            if not record.is_file():
                write_json(record, train(arguments.preset, seed, options + changes, space))
            runs[seed][name] = json.loads(record.read_text(encoding="utf-8"))
    if arguments.only:
        return 0
    result = {str(seed): {name: summary(run) for name, run in settings.items()} for seed, settings in runs.items()}
    if arguments.plot:
        plot(runs, arguments.preset, arguments.plot)
    passed = True
    for row in result.values():
        more = row["new"]["loss"] / row["old"]["loss"] - 1
        row["loss_change"] = more
        row["passed"] = max(row["new"]["most"]) < MOST and min(row["new"]["least"]) > LEAST and more <= LOSS
        passed &= row["passed"]
    if arguments.json:
        print(json.dumps(result, indent=2))
        return 0 if passed else 1
    for seed, row in result.items():
        for name in ("old", "new"):
            values = row[name]
            print(
                f"{arguments.preset} seed {seed} {name}: loss {values['loss']:.4f}, most/mean {values['most']}, "
                f"least/mean {values['least']}, router entropy {values['router_entropy']} nats, "
                f"{values['ffn_experts_per_token']:.3f} routed experts per token"
            )
        print(f"  loss {100 * row['loss_change']:+.2f} %: {'passed' if row['passed'] else 'missed'}")
    return 0 if passed else 1


if __name__ == "__main__":
    end_process(main())
