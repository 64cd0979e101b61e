"""The flow `assess`: can a workload move to Ascend, with its page in MLflow and in Prefect."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from prefect.artifacts import create_markdown_artifact

from longcat.artifact import write_json
from longcat.assess import page
from longcat.assess.assessment import assess as assess_all
from longcat.assess.request import read_request
from longcat.config import load_config
from longcat.disk import write_text
from longcat.errors import Cancelled
from longcat.flows.walk import open_workspace
from longcat.redaction import redact_error, redacted_records
from longcat.tasks.orchestrator import BestEffortFlow, prefect_session, prefect_tags, tell
from longcat.tracking import Tracker
from longcat.tracking.store import read_run


def run(
    config_file: str | None = None,
    code: str | None = None,
    model: str | None = None,
    log: str | None = None,
    mlflow_run: str | None = None,
    batch_tokens: int | None = None,
    fine_tuning: bool | None = None,
    trainable_parameters: float | None = None,
    device: str | None = None,
    devices: int | None = None,
    sequence_length: int | None = None,
    tokens: float | None = None,
    to: str | None = None,
    link: str | None = None,
    global_batch: int | None = None,
    price: list[str] | None = None,
    workspace: str | None = None,
) -> dict[str, Any]:
    """Say whether a training workload can move to Ascend: what changes, how fast, what it costs, and how sure that is.

    Args:
        config_file: YAML file with the others by name, as the worker sees it; docs/examples has some.
        code: Folder or file with the program that trains.
        model: A config.json, a folder with one, or a preset.
        log: Training log of today's run.
        mlflow_run: Instead of a log, a run that MLflow has recorded.
        batch_tokens: Tokens of a step of today's run, where its log does not say.
        fine_tuning: Whether today's run tunes a trained model, where its log does not say.
        trainable_parameters: Parameters with a gradient in today's run, where others are frozen.
        device: Device of today's run, such as a100-80gb.
        devices: Number of its devices.
        sequence_length: Tokens of a sequence.
        tokens: Tokens to train on.
        to: Target, such as ascend-910b2:128.
        link: Link of the target between nodes, as of longcat plan.
        global_batch: Sequences of a step on the target.
        price: Prices of a device-hour, each such as "ascend-910b2=12.5 CNY".
        workspace: Folder for results; LONGCAT_WORKSPACE or ./workspace when none.

    Returns:
        The assessment.
    """
    given = {
        "code": code,
        "model": model,
        "log": log,
        "mlflow_run": mlflow_run,
        "batch_tokens": batch_tokens,
        "fine_tuning": fine_tuning,
        "trainable_parameters": trainable_parameters,
        "device": device,
        "devices": devices,
        "sequence_length": sequence_length,
        "tokens": tokens,
        "to": to,
        "link": link,
        "global_batch": global_batch,
    }
    request = read_request(None if config_file is None else Path(config_file), given, price or ())
    space = open_workspace(workspace)
    with space.lease(), redacted_records(), prefect_session():
        named = load_config().model_copy(update={"preset": request.name})
        tracker = Tracker(
            space, named, "assess", config_file, params=request.model_dump(mode="json", exclude_none=True)
        )
        tracker.run.set_tags(prefect_tags())
        status = "FAILED"
        try:
            result = assess_all(request, lambda run, names: read_run(tracker.uri, run, names))
            _publish(result, tracker, space.path / "assessments" / tracker.name)
            status = "FINISHED"
        except BaseException as error:
            redact_error(error)
            if isinstance(error, Cancelled) or not isinstance(error, Exception):
                status = "KILLED"
            raise
        finally:
            unsent = tracker.close(status)
    return result | {"warning": unsent}


def _publish(result: Mapping[str, Any], tracker: Tracker, folder: Path) -> None:
    """Write the pages, and log them with the figures and the verdicts."""
    folder.mkdir(parents=True, exist_ok=True)
    text = page.markdown(result)
    write_text(folder / "assessment.html", page.html(result))
    write_text(folder / "assessment.md", text)
    write_json(folder / "assessment.json", dict(result))
    for name in ("assessment.html", "assessment.md", "assessment.json"):
        tracker.run.log_artifact(folder / name)
    verdicts = {f"sovereignty.{which}": stack["verdict"] for which, stack in result["sovereignty"].items()}
    reasons = {f"sovereignty.{which}.reason": stack["reason"] for which, stack in result["sovereignty"].items()}
    tracker.run.set_tags(verdicts | reasons)
    tracker.run.log_metrics(_figures(result))
    tracker.run.set_note(text)
    tell(create_markdown_artifact, text, key="assessment", description=result["name"])


def _figures(result: Mapping[str, Any]) -> dict[str, float]:
    found: dict[str, float | None] = {"risks": float(len(result["risks"]))}
    if today := result.get("today"):
        found["today/mfu"] = today["mfu"]
    if plan := result.get("plan"):
        best = plan["best"][0]
        found |= {f"target/{name}": best[name] for name in ("mfu", "mfu_low", "mfu_high", "step_seconds", "peak_bytes")}
    if target := result.get("cost", {}).get("target"):
        found |= {"target/days": target["days"][1], "target/device_hours": target["device_hours"][1]}
    if code := result.get("code"):
        found["code/findings"] = float(len(code["findings"]))
    return {name: float(value) for name, value in found.items() if value is not None}


assess = BestEffortFlow(run, name="assess", persist_result=False, validate_parameters=True)
