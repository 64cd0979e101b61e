"""AdamW and Muon on `tiny` at equal tokens.

    python benchmarks/optimizers.py [--steps 200] [--workspace DIR] [--json]

Trains the same steps with each and prints the held-out bits per byte and the time. Curves are in each checkpoint's
metrics.jsonl under the workspace.
"""

import argparse
import json

from longcat.artifact import Workspace
from longcat.config import load_config
from longcat.corpus.stage import preprocess
from longcat.evaluation.stage import evaluate
from longcat.training.stage import pretrain


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--workspace", default="workspace/optimizers")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    space, result = Workspace(arguments.workspace), {}
    for name in ("adamw", "muon"):
        options = [f"training.optimizer.name={name}", f"training.steps={arguments.steps}", "evaluation.tasks=[]"]
        config = load_config("tiny", None, options)
        tokens = preprocess(config, workspace=space)
        checkpoint = pretrain(config, tokens, workspace=space)
        scores = evaluate(config, tokens, checkpoint, workspace=space)
        result[name] = {
            "bits_per_byte": scores.facts["bits_per_byte"],
            "tokens": checkpoint.facts["tokens"],
            "seconds": checkpoint.facts["seconds_training"],
            "metrics": str(checkpoint.path / "metrics.jsonl"),
        }
    if arguments.json:
        print(json.dumps(result))
        return
    for name, row in result.items():
        print(
            f"{name:<6} {row['bits_per_byte']:.3f} bits/byte after {row['tokens']:,} tokens in {row['seconds']:.0f} s"
        )


if __name__ == "__main__":
    main()
