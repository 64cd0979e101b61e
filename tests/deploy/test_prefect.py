"""Deployments and automations: what Prefect makes of them."""

from pathlib import Path

import pytest
import yaml
from prefect.events.schemas.automations import AutomationCore
from prefect.flows import load_flow_from_entrypoint
from prefect.utilities.callables import parameter_schema

from longcat.config import load_config, preset_names
from longcat.flows.dag import STAGES
from longcat.flows.pipeline import FLOWS

ROOT = Path(__file__).parents[2]
DEPLOYMENTS = yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]


@pytest.mark.parametrize("deployment", DEPLOYMENTS, ids=lambda one: one["name"])
def test_a_deployment_is_named_for_what_it_does(deployment):
    assert (
        deployment["name"] not in ("local", "default") or "assess" in deployment["tags"]
    )  # assess/local, as was asked
    assert deployment["description"]
    assert "longcat" in deployment["tags"]
    file, _, name = deployment["entrypoint"].partition(":")
    flow = load_flow_from_entrypoint(f"{ROOT / file}:{name}")
    flow.validate_parameters(deployment["parameters"])
    if "preset" in deployment["parameters"]:
        load_config(deployment["parameters"]["preset"], None, deployment["parameters"].get("overrides", []))
    else:
        assert (ROOT / deployment["parameters"]["config_file"]).is_file()


def test_names_are_unlike_and_every_flow_has_a_deployment():
    assert len({one["name"] for one in DEPLOYMENTS}) == len(DEPLOYMENTS)
    assert (
        {one["entrypoint"].partition(":")[2] for one in DEPLOYMENTS} - {"assess"}
        == FLOWS.keys()
        == {"pipeline"} | {stage.name for stage in STAGES}
    )


@pytest.mark.parametrize("flow", FLOWS.values(), ids=lambda flow: flow.name)
def test_the_form_of_a_run_has_choices_and_descriptions(flow):
    fields = parameter_schema(flow).properties
    assert fields.keys() == {"preset", "config_file", "overrides", "workspace", "checkpoint"}
    assert all(len(field.get("description", "")) > 20 for field in fields.values())
    [choices] = [one["enum"] for one in fields["preset"]["anyOf"] if "enum" in one]
    assert choices == preset_names()


def test_automations_fit_prefects_schema():
    automations = yaml.safe_load((ROOT / "deploy" / "automations.yaml").read_text())["automations"]
    made = [AutomationCore.model_validate(one) for one in automations]
    assert [sorted(one.trigger.expect) for one in made] == [["prefect.flow-run.Crashed"], ["prefect.flow-run.Late"]]
    assert all(one.actions and one.enabled for one in made)
