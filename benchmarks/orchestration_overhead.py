"""Overhead of Prefect and MLflow for the pretrain stage.

    python benchmarks/orchestration_overhead.py [--repeats 3] [--steps 60] [--json]

Trains the same few steps of `tiny`, alternately through the library alone and through the Prefect flow with MLflow, and
compares the time that the training stage took. Each training starts from nothing, in a workspace of its own.
"""

import argparse
import json
import os
import shutil
import statistics
import tempfile
import time
from pathlib import Path

from longcat.artifact import Workspace
from longcat.config import load_config
from longcat.corpus.stage import preprocess
from longcat.flows.server import prefect_api
from longcat.training.stage import pretrain


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    overrides = [f"training.steps={arguments.steps}", "corpus.sources=[{kind: stdlib, max_documents: 300}]"]
    config = load_config("tiny", None, overrides)
    os.environ["PREFECT_LOGGING_LEVEL"] = "ERROR"

    seconds: dict[str, list[float]] = {"library": [], "flow": []}
    with tempfile.TemporaryDirectory() as folder:
        space = Workspace(folder)
        tokens = preprocess(config, workspace=space)
        with prefect_api(space.path):
            from longcat.flows.pipeline import FLOWS

            for _ in range(arguments.repeats):
                began = time.monotonic()
                pretrain(config, tokens, workspace=space)
                seconds["library"].append(time.monotonic() - began)
                shutil.rmtree(Path(folder) / "checkpoint")
                summary = FLOWS["pretrain"](preset="tiny", overrides=overrides, workspace=folder)
                seconds["flow"].append(next(r["seconds"] for r in summary["stages"] if r["stage"] == "pretrain"))
                shutil.rmtree(Path(folder) / "checkpoint")
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    result = {"ratio": medians["flow"] / medians["library"], "median_seconds": medians, "seconds": seconds}
    if arguments.json:
        print(json.dumps(result))
    else:
        print(f"library {medians['library']:.1f} s, flow {medians['flow']:.1f} s, ratio {result['ratio']:.3f}")


if __name__ == "__main__":
    main()
