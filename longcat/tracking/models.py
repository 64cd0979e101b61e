"""Checkpoints as MLflow has them: a logged model for each, and versions of a registered one. No weights are copied.

A logged model is known by the tag `digest`. MLflow keeps its signature and `config.json`; the tag `checkpoint` says where
the rest lies. A tracking server that is too old for logged models gets the versions alone.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from longcat.unpacking import read_json

_TAG_NAME, _TAG_VALUE = 250, 5000
"""Most characters of a tag of a model's version, as MLflow allows."""
_PARAM_VALUE = 6000
_CONFIG = "config.json"
_VERSIONS = "mlflow.modelVersions"


class Models:
    """The models of a tracking server or store."""

    def __init__(self, client: Any) -> None:
        self._client = client

    def made(self, run_id: str, event: Mapping[str, Any]) -> None:
        """Note that a run made a checkpoint, which becomes the version `latest-checkpoint`."""
        model = self._logged(run_id, event, source=run_id)
        if model is not None:
            self._link_output(run_id, model, event)
            self._log_metrics(run_id, model, event)
        version = self._version(event) or self._register(run_id, event, model)
        self._tell(event, version)
        self._name(event, version, "latest-checkpoint")

    def used(self, run_id: str, event: Mapping[str, Any]) -> None:
        """Note that a run took a checkpoint, and what it measured of it."""
        from mlflow.entities import LoggedModelInput

        model = self._logged(run_id, event, source=None)
        if model is not None:
            self._client.log_inputs(run_id, models=[LoggedModelInput(model.model_id)])
            self._log_metrics(run_id, model, event)

    def judged(self, run_id: str, event: Mapping[str, Any]) -> None:
        """Record what is known of a checkpoint with its version, which may become the champion."""
        model = self._logged(run_id, event, source=None)
        if model is not None:
            self._log_metrics(run_id, model, event)
        version = self._version(event) or self._register(run_id, event, model)
        if event["champion"]:
            self._name(event, version, "champion")
        self._tell(event, version)

    def _logged(self, run_id: str, event: Mapping[str, Any], source: str | None) -> Any:
        """Return the logged model of a checkpoint, which is made if it is not there; None on a server without them."""
        from mlflow.exceptions import MlflowException

        client, digest = self._client, event["digest"]
        experiment = client.get_run(run_id).info.experiment_id
        try:
            found = client.search_logged_models([experiment], f"tags.digest = '{digest}'", max_results=1)
        except MlflowException as error:
            if error.get_http_status_code() == 404 or "error code 404" in str(
                error
            ):  # the run was found: it is no other server
                return None
            raise
        if found:
            model = found[0]
        else:
            model = client.create_logged_model(
                experiment,
                name=re.sub(r"[/:.%\"']", "-", event["name"]),
                source_run_id=source,
                tags={"digest": digest, "checkpoint": _place(event), "mlflow.model.isExternal": "true"},
                params={name: str(value)[:_PARAM_VALUE] for name, value in event.get("params", {}).items()},
                model_type="LongCat",
            )
        if str(model.status) != "READY":  # else whoever made it was interrupted
            with TemporaryDirectory() as folder:
                _describe(model, Path(event["path"]), Path(folder))
                client.log_model_artifacts(model.model_id, folder)
            model = client.finalize_logged_model(model.model_id, "READY")
        return model

    def _link_output(self, run_id: str, model: Any, event: Mapping[str, Any]) -> None:
        from mlflow.entities import LoggedModelOutput

        outputs = self._client.get_run(run_id).outputs
        if all(one.model_id != model.model_id for one in (outputs.model_outputs if outputs else ())):
            self._client.log_outputs(run_id, [LoggedModelOutput(model.model_id, int(event.get("step", 0)))])

    def _log_metrics(self, run_id: str, model: Any, event: Mapping[str, Any]) -> None:
        from mlflow.entities import Metric

        metrics = []
        for key, value in event.get("metrics", {}).items():
            # MLflow gives the run each point of a model, so it has to be the one that the run has
            logged = [point for point in self._client.get_metric_history(run_id, key) if point.value == value]
            when, step = int(1000 * float(event.get("time", 0))), int(event.get("step", 0))
            if logged:
                when, step = logged[-1].timestamp, logged[-1].step
            metrics.append(Metric(key, value, when, step, model_id=model.model_id, run_id=run_id))
        if metrics:
            self._client.log_batch(run_id, metrics=metrics)

    def _version(self, event: Mapping[str, Any]) -> str | None:
        """Return the version that a checkpoint is of its model, or None; a model that is not there is made."""
        from mlflow.exceptions import MlflowException

        client, name = self._client, event["name"]
        try:
            client.create_registered_model(
                name, description="Checkpoints of LongCat models, a version each; no weights are kept here."
            )
        except MlflowException as error:
            if "RESOURCE_ALREADY_EXISTS" not in str(error.error_code):
                raise
        versions = client.search_model_versions(f"name = '{name}'")
        return next((str(v.version) for v in versions if v.tags.get("digest") == event["digest"]), None)

    def _register(self, run_id: str, event: Mapping[str, Any], model: Any) -> str:
        client, name = self._client, event["name"]
        if model is None:
            path = Path(event["path"]) / _CONFIG
            if path.is_file():
                client.log_artifact(run_id, str(path), "model")
            source, made_by, model_id = f"{client.get_run(run_id).info.artifact_uri}/model", run_id, None
        else:
            # `models:/ID` would be looked up in the store of this process, whatever the client's is
            source, made_by, model_id = model.artifact_location, model.source_run_id or run_id, model.model_id
        tags = {"digest": event["digest"], "checkpoint": _place(event)}
        version = str(client.create_model_version(name, source, made_by, tags=tags, model_id=model_id).version)
        if model is not None:
            client.set_logged_model_tags(model_id, {_VERSIONS: json.dumps([{"name": name, "version": int(version)}])})
        return version

    def _tell(self, event: Mapping[str, Any], version: str) -> None:
        """Give a version what the event says of it."""
        client, name = self._client, event["name"]
        if description := event.get("description"):
            client.update_model_version(name, version, description)
        for key, value in event.get("tags", {}).items():
            safe = re.sub(r"[^\w\-./ ]", "_", key)[:_TAG_NAME]
            client.set_model_version_tag(name, version, safe, value[:_TAG_VALUE])

    def _name(self, event: Mapping[str, Any], version: str, alias: str) -> None:
        """Give a version an alias, unless an event that happened later has given it already.

        A run sends its own events before those that earlier ones have left.
        """
        client, name, mark = self._client, event["name"], f"{alias}.since"
        since, happened = client.get_registered_model(name).tags.get(mark), float(event.get("time", 0))
        if since is not None and float(since) > happened:
            return
        client.set_registered_model_alias(name, alias, version)
        client.set_registered_model_tag(name, mark, repr(happened))


def _place(event: Mapping[str, Any]) -> str:
    """Return the folder of a checkpoint."""
    path = Path(event["path"])
    return str(path.parent if path.name == "huggingface" else path)


def _describe(model: Any, checkpoint: Path, folder: Path) -> None:
    """Write what MLflow keeps of a model: its signature, where it is, and its configuration.

    Args:
        model: the logged model.
        checkpoint: Hugging Face folder.
        folder: gets the files.
    """
    import numpy as np
    from mlflow.models import Model, ModelSignature
    from mlflow.types.schema import Schema, TensorSpec

    vocabulary = -1
    if (config := checkpoint / _CONFIG).is_file():
        shutil.copy(config, folder / _CONFIG)
        vocabulary = int(read_json(config).get("vocab_size", -1))
    Model(
        artifact_path=model.artifact_location,
        model_uuid=model.model_id,
        model_id=model.model_id,
        run_id=model.source_run_id,
        signature=ModelSignature(
            Schema([TensorSpec(np.dtype(np.int64), (-1, -1), "input_ids")]),
            Schema([TensorSpec(np.dtype(np.float32), (-1, -1, vocabulary), "logits")]),
        ),
        metadata={"checkpoint": str(checkpoint), "mlflow.model.isExternal": True},
    ).save(str(folder / "MLmodel"))
