"""What lies in `deploy/`: it fits its schema, and what it tells longcat fits longcat."""

import json
import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import jsonschema
import pytest
import yaml

from longcat.config import load_config
from longcat.processes.orders import split_address
from longcat.provenance import ROOT
from longcat.training.launchers import JOIN_PORT
from tests.waiting import wait_until

KUBERNETES = "1.30"


def documents(name):
    return list(yaml.safe_load_all((ROOT / "deploy" / name).read_text(encoding="utf-8")))


[VOLCANO] = documents("volcano.yaml")
TASKS = {task["name"]: task for task in VOLCANO["spec"]["tasks"]}
STATEFUL = {(one["kind"], one["metadata"]["name"]): one for one in documents("statefulset.yaml")}
PODS = {
    "volcano's head": TASKS["head"]["template"],
    "volcano's node": TASKS["node"]["template"],
    "a node": STATEFUL["StatefulSet", "longcat-node"]["spec"]["template"],
    "the head": STATEFUL["Job", "longcat-head"]["spec"]["template"],
}


def test_the_job_is_as_volcano_wants_it():
    schema = json.loads(Path(__file__).with_name("volcano.schema.json").read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(VOLCANO, schema)
    with pytest.raises(jsonschema.ValidationError, match="minAvailabel"):
        jsonschema.validate({**VOLCANO, "spec": {**VOLCANO["spec"], "minAvailabel": 3}}, schema)


@pytest.mark.parametrize("document", [*STATEFUL.values()], ids=lambda document: document["kind"])
def test_a_document_is_as_kubernetes_wants_it(document):
    validate = pytest.importorskip("kubernetes_validate").validate
    validate(document, KUBERNETES, strict=True)


@pytest.mark.parametrize("name", PODS)
def test_a_pod_is_as_kubernetes_wants_it(name):
    module = pytest.importorskip("kubernetes_validate")
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pod"}, "spec": PODS[name]["spec"]}
    module.validate(pod, KUBERNETES, strict=True)
    pod["spec"] = {**pod["spec"], "contaners": []}
    with pytest.raises(module.ValidationError):
        module.validate(pod, KUBERNETES, strict=True)


def settings_of(pod):
    [container] = pod["spec"]["containers"]
    arguments = [word.split("=", 1) for word in container["args"]]
    preset = next(value for name, value in arguments if name == "--preset")
    return load_config(preset, None, [value for name, value in arguments if name == "--set"])


@pytest.mark.parametrize(
    ("head", "node", "replicas"),
    [
        (PODS["volcano's head"], PODS["volcano's node"], TASKS["node"]["replicas"]),
        (PODS["the head"], PODS["a node"], STATEFUL["StatefulSet", "longcat-node"]["spec"]["replicas"]),
    ],
    ids=["volcano", "stateful set"],
)
def test_the_head_waits_for_the_nodes_that_there_are(head, node, replicas):
    training = settings_of(head).training
    [container] = node["spec"]["containers"]
    devices = container["resources"]["limits"]["huawei.com/Ascend910"]
    assert (training.launcher, training.nodes, training.processes) == ("join", replicas, replicas * devices)
    assert split_address(container["command"][2])[1] == JOIN_PORT
    mounts = [pod["spec"]["containers"][0]["volumeMounts"][0]["mountPath"] for pod in (head, node)]
    assert mounts == ["/workspace", "/workspace"]


def test_nodes_find_the_head_by_name():
    address = PODS["volcano's node"]["spec"]["containers"][0]["command"][2]
    job = VOLCANO["metadata"]["name"]
    assert address == f"{job}-head-0.{job}:{JOIN_PORT}"
    assert VOLCANO["spec"]["minAvailable"] == sum(task["replicas"] for task in TASKS.values())
    service, _ = split_address(PODS["a node"]["spec"]["containers"][0]["command"][2])
    selector = STATEFUL["Service", service]["spec"]["selector"]
    assert selector.items() <= PODS["the head"]["metadata"]["labels"].items()


@pytest.fixture
def batch(tmp_path):
    """Starts the batch script where `longcat` is a program of Python; the script is ended with the test."""
    scripts = []

    def start(program):
        longcat = tmp_path / ".venv/bin/longcat"
        longcat.parent.mkdir(parents=True)
        longcat.write_text(f"#!{sys.executable}\n{program}\n")
        longcat.chmod(0o700)
        environment = {**os.environ, "SLURM_JOB_NUM_NODES": "3"}
        command = ["bash", ROOT / "deploy/slurm.sbatch", "--preset", "small"]
        scripts.append(subprocess.Popen(command, cwd=tmp_path, env=environment, start_new_session=True))
        return scripts[-1]

    yield start
    for script in scripts:
        with suppress(ProcessLookupError):
            os.killpg(script.pid, signal.SIGKILL)


@pytest.mark.parametrize("code", [0, 2])
def test_the_batch_script_ends_as_its_flow_does(batch, tmp_path, code):
    program = "import sys; open('arguments', 'w').write(' '.join(sys.argv[1:])); sys.exit({})"
    assert batch(program.format(code)).wait(500) == code
    said = (tmp_path / "arguments").read_text()
    assert said.startswith("pretrain --set training.launcher=slurm --set training.nodes=3 ")
    assert said.endswith(" --preset small")


STUBBORN = """
import pathlib, signal, sys, time
heard = []
signal.signal(signal.SIGTERM, lambda *_: heard.append(pathlib.Path(f"heard-{len(heard)}").touch()))
pathlib.Path("ready").touch()
while len(heard) < 2:
    time.sleep(0.02)
time.sleep(0.3)
sys.exit(CODE)
"""


@pytest.mark.parametrize("code", [0, 130])
def test_the_batch_script_waits_for_the_checkpoint_however_often_it_is_told_to_end(batch, tmp_path, code):
    script = batch(STUBBORN.replace("CODE", str(code)))
    wait_until((tmp_path / "ready").exists, script)
    for number in range(2):
        script.terminate()
        wait_until((tmp_path / f"heard-{number}").exists, script)
    assert script.wait(500) == code


def test_deployments_name_flows_that_there_are():
    deployments = yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]
    slurm = [one for one in deployments if one["name"] == "slurm"]
    assert [one["entrypoint"] for one in slurm] == ["flows/pipeline.py:pretrain"]
    overrides = slurm[0]["parameters"]["overrides"]
    assert load_config(slurm[0]["parameters"]["preset"], None, overrides).training.launcher == "slurm"
