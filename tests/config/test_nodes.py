"""Numbers of nodes that disagree are refused before anything starts."""

import pytest

from longcat.accelerator import Accelerator, choose
from longcat.config import load_config
from longcat.errors import ConfigError, DeviceError
from longcat.training.checks import check_training
from longcat.training.layout import settle_layout, training_device


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["nodes=2"], "training.nodes=2 needs training.launcher=slurm or join, not local"),
        (["launcher=join", "nodes=2", "min_nodes=3"], "training.min_nodes=3 exceeds training.nodes=2"),
        (["launcher=join", "nodes=2", "processes=3"], "training.processes=3 is not a multiple of training.nodes=2"),
        (["launcher=join", "nodes=2", "node_names=[a]"], "training.node_names has 1 names, not training.nodes=2"),
        (["launcher=join", "nodes=2", "node_names=[a, a]"], "training.node_names has 1 names"),
        (["launcher=join", "head=here"], "training.head='here' is not HOST:PORT"),
        (["launcher=join", "head=here:99999"], "is not HOST:PORT"),
    ],
)
def test_numbers_that_disagree(settings, message):
    with pytest.raises(ConfigError, match=message):
        load_config("smoke", None, [f"training.{setting}" for setting in settings])


def npus(count):
    return Accelerator("npu", "Ascend910B2", count, 64 * 10**9, supports_bf16=True)


def config(*settings):
    return load_config("smoke", None, ["training.launcher=join", "training.nodes=4", *settings])


@pytest.mark.parametrize(("nodes", "processes"), [(None, 8), (4, 8), (2, 4), (1, 2)])
def test_each_node_has_its_share(nodes, processes):
    for settings in (["training.processes=8"], []):
        assert settle_layout(config(*settings), npus(2), nodes).degrees.processes == processes


def test_a_number_of_nodes_that_no_layout_fits():
    with pytest.raises(ConfigError, match=r"not a multiple of .*\(3 of training.nodes=4 nodes are there\)"):
        settle_layout(config("training.processes=8"), npus(2), 3)


def test_more_processes_than_devices_on_a_node():
    with pytest.raises(ConfigError, match="there are 1 npu devices on each of 4 nodes"):
        settle_layout(config("training.processes=8"), npus(1))


def test_one_machine_is_as_before():
    assert settle_layout(load_config("smoke", None, ["training.processes=2"]), choose("cpu")).degrees.processes == 2


def test_a_head_without_the_nodes_devices():
    head = config(
        "accelerator=npu", "training.processes=64", "training.precision=bf16", "training.global_batch_sequences=64"
    )
    if choose("auto").kind == "npu":
        pytest.skip("this machine has NPUs")
    device = training_device(head)
    assert (device.kind, device.count) == ("npu", 16)
    assert settle_layout(head, device).precision == "bf16"
    check_training(head)


@pytest.mark.parametrize("settings", [["training.processes=64"], ["training.precision=bf16"]])
def test_what_such_a_head_has_to_be_told(settings):
    if choose("auto").kind == "npu":
        pytest.skip("this machine has NPUs")
    with pytest.raises(ConfigError, match="no npu to settle training.processes and training.precision by"):
        training_device(config("accelerator=npu", "training.global_batch_sequences=64", *settings))
    with pytest.raises(DeviceError):
        training_device(
            load_config("smoke", None, ["accelerator=npu", *settings, "training.global_batch_sequences=64"])
        )
