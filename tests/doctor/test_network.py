"""Variables of the network against the cards that are there."""

import pytest

from longcat.doctor.network import chosen, examine_network, interfaces

CARDS = {"eth0": ["10.0.0.1"], "eth1": ["10.1.0.1", "fd00::1"], "lo": ["127.0.0.1"]}


@pytest.mark.parametrize(
    ("name", "value", "cards"),
    [
        ("HCCL_SOCKET_IFNAME", "eth", ["eth0", "eth1"]),
        ("HCCL_SOCKET_IFNAME", "=eth1", ["eth1"]),
        ("HCCL_SOCKET_IFNAME", "=eth", []),
        ("NCCL_SOCKET_IFNAME", "^eth,docker", ["lo"]),
        ("NCCL_SOCKET_IFNAME", "^=eth0", ["eth1", "lo"]),
        ("GLOO_SOCKET_IFNAME", "eth0,lo", ["eth0", "lo"]),
        ("GLOO_SOCKET_IFNAME", "eth", []),
    ],
)
def test_a_variable_chooses_cards_as_its_library_reads_it(name, value, cards):
    assert chosen(name, value, CARDS) == cards


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({}, []),
        ({"HCCL_SOCKET_IFNAME": "=eth0", "HCCL_IF_IP": "10.0.0.1", "HCCL_CONNECT_TIMEOUT": "600"}, []),
        ({"HCCL_EXEC_TIMEOUT": "0", "HCCL_BUFFSIZE": "120", "ASCEND_RT_VISIBLE_DEVICES": "0,3"}, []),
        ({"HCCL_SOCKET_IFNAME": "ib0"}, ["no network card that is up; there are eth0, eth1, lo"]),
        ({"HCCL_IF_IP": "10.9.9.9"}, ["no address of this machine"]),
        ({"HCCL_IF_IP": "login"}, ["is no IP address"]),
        ({"HCCL_IF_IP": "10.0.0.1", "HCCL_SOCKET_IFNAME": "=eth1"}, ["wins over HCCL_SOCKET_IFNAME"]),
        ({"HCCL_SOCKET_IFNAME": "eth1", "GLOO_SOCKET_IFNAME": "eth0"}, ["choose different cards"]),
        ({"HCCL_CONNECT_TIMEOUT": "60"}, ["from 120 to 7200"]),
        ({"HCCL_EXEC_TIMEOUT": "30m"}, ["whole number"]),
        ({"HCCL_BUFFSIZE": "0"}, ["from 1"]),
        ({"ASCEND_RT_VISIBLE_DEVICES": "0,0"}, ["different device numbers"]),
        ({"ASCEND_RT_VISIBLE_DEVICES": "npu:0"}, ["different device numbers"]),
        ({"MASTER_ADDR": "10.0.0.1"}, ["MASTER_ADDR is set and MASTER_PORT is not"]),
    ],
)
def test_contradictions_are_told_once_each(variables, words):
    facts, problems = examine_network(variables | {"HOME": "/root"}, CARDS)
    assert facts["variables"] == variables
    assert len(problems) == len(words)
    assert all(word in problem for word, problem in zip(words, problems, strict=True))


def test_this_machine_has_a_loopback_card():
    assert "127.0.0.1" in {address for found in interfaces().values() for address in found}
