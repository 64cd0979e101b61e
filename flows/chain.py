"""What every flow does: stages in order, each with what the ones before it made, and a summary at the end."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from prefect.logging import get_run_logger

from longcat.accelerator import choose
from longcat.artifact import Artifact, Workspace, write_json
from longcat.config import load_config
from longcat.errors import Cancelled
from longcat.tracking import Tracker
from tasks.benchmark import benchmark
from tasks.evaluate import evaluate
from tasks.preprocess import preprocess
from tasks.pretrain import pretrain

Stage = Literal["preprocess", "pretrain", "benchmark", "evaluate"]


def open_workspace(path: str | None) -> Workspace:
    """The workspace named, or `LONGCAT_WORKSPACE`, or ./workspace."""
    return Workspace(path or os.environ.get("LONGCAT_WORKSPACE") or "workspace")


def chain(
    name: str,
    stages: Sequence[Stage],
    preset: str | None,
    config_file: str | None,
    overrides: list[str] | None,
    workspace: str | None,
) -> dict[str, Any]:
    """Run stages in order and return the summary, which is also written to `summary.json` in the workspace.

    Raises:
        LongcatError: from the first stage that failed; finished artifacts stay.
    """
    config = load_config(preset, Path(config_file) if config_file else None, overrides or ())
    if config.accelerator != "auto" and set(stages) != {"preprocess"}:
        choose(config.accelerator)  # a device that is not there is told now, not after hours of preprocessing
    space = open_workspace(workspace)
    began = time.monotonic()
    with space.lease():
        tracker = Tracker(space, config, name=f"{name}-{config.preset}")
        made: dict[Stage, Artifact] = {}
        rows = []
        status = "FAILED"
        try:
            for stage in stages:
                started = time.monotonic()
                match stage:
                    case "preprocess":
                        made[stage] = preprocess(config, space, tracker).result()
                    case "pretrain":
                        made[stage] = pretrain(config, made["preprocess"], space, tracker).result()
                    case "benchmark":
                        made[stage] = benchmark(config, made["preprocess"], made["pretrain"], space, tracker).result()
                    case "evaluate":
                        made[stage] = evaluate(config, made["preprocess"], made["pretrain"], space, tracker).result()
                rows.append(_row(stage, made[stage], time.monotonic() - started))
                tracker.log_metrics(_headline(stage, made[stage]))
            status = "FINISHED"
        except BaseException as error:
            # Prefect's own signal for a cancelled run is no Exception either
            if isinstance(error, Cancelled) or not isinstance(error, Exception):
                status = "KILLED"
            raise
        finally:
            warning = tracker.close(status)
            if warning:
                get_run_logger().warning(warning)
        summary = {
            "flow": name,
            "preset": config.preset,
            "workspace": str(space.path),
            "status": "completed",
            "seconds": round(time.monotonic() - began, 2),
            "stages": [{**row, "mlflow_run_id": tracker.run_id(row["stage"])} for row in rows],
            "mlflow": {
                "tracking_uri": tracker.uri,
                "experiment": tracker.experiment,
                "run_id": tracker.run_id(),
                "warning": warning,
            },
        }
        write_json(space.path / "summary.json", summary)
    return summary


def _row(stage: Stage, artifact: Artifact, seconds: float) -> dict[str, Any]:
    return {
        "stage": stage,
        "status": "cached" if artifact.cached else "run",
        "seconds": round(seconds, 2),
        "key_figure": _key_figure(stage, artifact),
        "artifact": {"kind": artifact.kind, "digest": artifact.digest, "path": str(artifact.path)},
        "facts": artifact.facts,
    }


def _key_figure(stage: Stage, artifact: Artifact) -> str:
    facts = artifact.facts
    match stage:
        case "preprocess":
            return f"{facts['train_tokens'] / 1e6:.2f} M training tokens"
        case "pretrain":
            return f"loss {facts['final_loss']:.3f} after {facts['tokens'] / 1e6:.2f} M tokens"
        case "benchmark":
            mfu = "no MFU" if facts["mfu"] is None else f"MFU {facts['mfu']:.1%}"
            return f"{mfu}, {facts['tokens_per_second']:,.0f} tokens/s"
        case "evaluate":
            return f"{facts['bits_per_byte']:.3f} bits/byte ({facts['ngram_order']}-gram {facts['ngram_bits_per_byte']:.3f})"


def _headline(stage: Stage, artifact: Artifact) -> dict[str, float]:
    wanted = {
        "preprocess": ("train_tokens", "bytes_per_token"),
        "pretrain": ("final_loss", "tokens"),
        "benchmark": ("mfu", "tokens_per_second", "tflops_per_device"),
        "evaluate": ("bits_per_byte", "ngram_bits_per_byte", "unigram_bits_per_byte"),
    }[stage]
    return {name: float(artifact.facts[name]) for name in wanted if artifact.facts[name] is not None}
