"""Time of a run that reuses everything, in a workspace that is new and in one that is full.

    python benchmarks/full_workspace.py [--runs 500] [--artifacts 300] [--repeats 3] [--limit 20] [--json]

Runs `smoke`, and again with everything reused. Then fills the workspace: runs in MLflow with their metrics, parameters and
journals, a version of the model for each fifth of them, and finished results beside those that are used. Then runs again.
The exit code is 1 if the median in the full workspace is above the limit.
"""

import argparse
import json
import os
import secrets
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from longcat.artifact import MANIFEST
from longcat.disk import write_text
from longcat.stores import sqlite_url
from longcat.tracking.forwarding import KEY_TAG, import_mlflow
from longcat.tracking.journal import Sent
from longcat.unpacking import read_json

RUNS_A_JOURNAL = 5
"""A flow's run, and those of its four stages."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=500)
    parser.add_argument("--artifacts", type=int, default=300)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--limit", type=float, default=20.0)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        workspace = Path(folder)
        first = run(workspace)
        new = [run(workspace) for _ in range(arguments.repeats)]
        fill_mlflow(workspace, arguments.runs)
        fill_results(workspace, arguments.artifacts)
        full = [run(workspace) for _ in range(arguments.repeats)]
    answer = {
        "runs": arguments.runs,
        "artifacts": arguments.artifacts,
        "first_s": round(first, 2),
        "new_s": round(statistics.median(new), 2),
        "full_s": round(statistics.median(full), 2),
        "ratio": round(statistics.median(full) / statistics.median(new), 2),
        "limit_s": arguments.limit,
    }
    if arguments.json:
        print(json.dumps(answer, indent=2))
    else:
        print(f"everything made              {answer['first_s']:6.2f} s")
        print(f"reused, new workspace        {answer['new_s']:6.2f} s")
        print(f"reused, full workspace       {answer['full_s']:6.2f} s, {answer['ratio']:.2f} times as long")
    return int(answer["full_s"] > arguments.limit)


def run(workspace: Path) -> float:
    """Run `smoke` in a process of its own; returns the seconds that it took."""
    environment = {k: v for k, v in os.environ.items() if k not in ("MLFLOW_TRACKING_URI", "PREFECT_API_URL")}
    began = time.monotonic()
    command = [sys.executable, "-m", "longcat.cli", "run", "--preset", "smoke", "--workspace", str(workspace), "--json"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    return time.monotonic() - began


def fill_mlflow(workspace: Path, runs: int) -> None:
    """Copy the runs that are there until MLflow has so many more, each five with a journal, and a version of the model."""
    from mlflow.entities import Metric, Param, RunTag

    client = import_mlflow().MlflowClient(sqlite_url(workspace / "mlflow.db"))
    experiment = client.get_experiment_by_name("longcat").experiment_id
    samples = client.search_runs([experiment], max_results=RUNS_A_JOURNAL, order_by=["attributes.start_time ASC"])
    journal = min((workspace / "tracking").glob("*.jsonl"))
    [version, *_] = client.search_model_versions("name = 'longcat-smoke'")
    parent = None
    for number in range(runs):
        of = samples[number % RUNS_A_JOURNAL]
        if first := number % RUNS_A_JOURNAL == 0:
            copy = journal.with_name(f"20200101-000000-{secrets.token_hex(3)}.jsonl")
            shutil.copy(journal, copy)
            Sent(copy.stat().st_size, {}, None, complete=True).save(copy)
        tags = {**of.data.tags, KEY_TAG: f"{copy.stem}/{number}"}
        if not first:
            tags["mlflow.parentRunId"] = parent
        made = client.create_run(experiment, start_time=of.info.start_time, tags=tags).info.run_id
        if first:
            parent = made
            client.create_model_version("longcat-smoke", version.source, made, tags={"digest": secrets.token_hex(16)})
        names = list(of.data.metrics)
        points = [Metric(name, 1.0, 0, 0) for name in names]
        points += [Metric("train/loss", 1.0 / step, step, step) for step in range(1, 500)]
        client.log_batch(made, metrics=points[:1000])
        params = [Param(name, value) for name, value in of.data.params.items()]
        for start in range(0, len(params), 100):
            client.log_batch(made, params=params[start : start + 100], tags=[RunTag("filled", "true")])
        client.set_terminated(made, "FINISHED")


def fill_results(workspace: Path, artifacts: int) -> None:
    """Copy the finished results, by turns, until there are so many more."""
    found = [path.parent for path in sorted(workspace.glob(f"*/*/{MANIFEST}"))]
    for number in range(artifacts):
        of = found[number % len(found)]
        to = of.with_name(secrets.token_hex(16))
        shutil.copytree(of, to)
        write_text(to / MANIFEST, json.dumps(read_json(of / MANIFEST) | {"digest": to.name}))


if __name__ == "__main__":
    sys.exit(main())
