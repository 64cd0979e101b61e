"""The flow `assess`: its page in MLflow, with verdicts and figures."""

import mlflow
import pytest

from longcat.provenance import ROOT


@pytest.mark.slow
def test_the_flow_logs_its_page_and_verdicts(prefect_server, tmp_path):
    from longcat.flows.assess import assess

    found = assess(config_file=str(ROOT / "docs/examples/qwen-max.yaml"), workspace=str(tmp_path))
    assert found["sovereignty"]["today"]["verdict"] == "Partial"
    client = mlflow.MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    [run] = client.search_runs(["1"])
    assert run.info.status == "FINISHED"
    assert run.data.tags["sovereignty.today"] == "Partial" and "NVIDIA" in run.data.tags["sovereignty.today.reason"]
    assert run.data.params["name"].startswith("Qwen-Max") and "model.hidden_size" not in run.data.params
    assert run.data.metrics["risks"] == len(found["risks"])
    names = {one.path for one in client.list_artifacts(run.info.run_id)}
    assert names >= {"assessment.html", "assessment.md", "assessment.json"}
