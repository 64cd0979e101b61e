"""Comparison of AdamW and Muon on `tiny` at equal tokens, with the experts' load as it approaches the target.

    python benchmarks/optimizers.py [--steps 200] [--set a.b=c ...] [--workspace DIR] [--json] [--plot DIR]

Trains the same steps with each and prints held-out bits per byte, time, routed experts per token and the busiest expert's
load, over the last tenth of the steps. `--plot` draws loss and experts of all steps.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

from longcat.artifact import Workspace
from longcat.config import load_config, target_ffn_experts
from longcat.corpus.stage import preprocess
from longcat.evaluation.stage import evaluate
from longcat.interchange.checkpoint_folder import CheckpointFolder
from longcat.training.metrics import read_metrics
from longcat.training.stage import pretrain

COLOURS = {"adamw": "#b04a3a", "muon": "#2a6f97"}


def plot(records: dict[str, list[dict[str, Any]]], target: float, directory: Path) -> None:
    """Draw `optimizers.png` and `expert-target.png`."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    directory.mkdir(parents=True, exist_ok=True)
    for key, label, name in (
        ("train/loss", "loss, nats per token", "optimizers"),
        ("moe/ffn_experts_per_token", "routed experts per token", "expert-target"),
    ):
        figure, axes = pyplot.subplots(figsize=(8, 4))
        for optimizer, rows in records.items():
            if name == "optimizers":
                x, axis = [row["train/tokens"] / 1e6 for row in rows], "million tokens"
            else:
                x, axis = [row["step"] for row in rows], "step"
            axes.plot(x, [row[key] for row in rows], color=COLOURS[optimizer], linewidth=1.2, label=optimizer)
        if name == "expert-target":
            axes.axhline(target, color="grey", linestyle=":", label=f"target K_e = {target:g}")
        axes.set_xlabel(axis)
        axes.set_ylabel(label)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False)
        figure.tight_layout()
        figure.savefig(directory / f"{name}.png", dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--set", dest="settings", action="append", default=[], metavar="a.b=c")
    parser.add_argument("--only", choices=COLOURS, help="train with this one only")
    parser.add_argument("--workspace", default="workspace/optimizers")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--plot", type=Path, metavar="DIR")
    arguments = parser.parse_args()
    space, result, records = Workspace(arguments.workspace), {}, {}
    for name in [arguments.only] if arguments.only else COLOURS:
        options = [
            f"training.optimizer.name={name}",
            f"training.steps={arguments.steps}",
            "evaluation.tasks=[]",
            *arguments.settings,
        ]
        config = load_config("tiny", None, options)
        tokens = preprocess(config, workspace=space)
        checkpoint = pretrain(config, tokens, workspace=space)
        scores = evaluate(config, tokens, checkpoint, workspace=space)
        records[name] = read_metrics(CheckpointFolder(checkpoint.path).metrics)
        last = records[name][-max(1, arguments.steps // 10) :]
        result[name] = {
            "bits_per_byte": scores.facts.scores["held_out"]["bits_per_byte"],
            "tokens": checkpoint.facts.tokens,
            "seconds": checkpoint.facts.seconds_training,
            "ffn_experts_per_token": statistics.fmean(row["moe/ffn_experts_per_token"] for row in last),
            "max_load": statistics.fmean(row["moe/max_load"] for row in last),
        }
    target = target_ffn_experts(config.model, config.training.balance)
    if arguments.plot:
        plot(records, target, arguments.plot)
    if arguments.json:
        print(json.dumps(result, indent=2))
        return
    for name, row in result.items():
        print(
            f"{name:<6} {row['bits_per_byte']:.3f} bits/byte after {row['tokens']:,} tokens in {row['seconds']:.0f} s; "
            f"{row['ffn_experts_per_token']:.3f} routed experts per token (target {target:g}), busiest {row['max_load']:.2f} x mean"
        )


if __name__ == "__main__":
    main()
