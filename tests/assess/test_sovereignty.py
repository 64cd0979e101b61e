"""Whose stack it is: the table, and the verdicts that follow from it."""

import dataclasses

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from longcat.assess.sovereignty import Component, Table, audit, read_table, stack_of_run
from longcat.costs.hardware import hardware_table
from longcat.errors import ConfigError
from longcat.provenance import ROOT

TABLE = read_table()
VENDORS = {"NVIDIA": "NVIDIA GPU", "Huawei": "Ascend", "AMD": "AMD Instinct", "Intel": "Intel Gaudi"}


def test_every_component_has_a_source_and_every_layer_components():
    assert all(one.source and one.names for one in TABLE.components.values())
    assert {one.layer for one in TABLE.components.values()} == set(TABLE.layers)


@pytest.mark.parametrize("row", hardware_table(), ids=lambda row: row.name)
def test_a_device_of_the_hardware_table_is_its_vendors(row):
    for name in (row.name, *row.aliases):
        found = TABLE.find("accelerator", name)
        if row.vendor in VENDORS:
            assert found is not None and found.name == VENDORS[row.vendor], name
        elif found is not None:  # of a vendor that the table of stacks may not know
            assert row.vendor.split()[0].lower() in f"{found.name} {found.maker}".lower(), (name, found.name)


@pytest.mark.parametrize(
    ("kind", "device", "verdict", "named"),
    [
        ("npu", "Ascend910B2", "Full", "domestic or open source"),
        ("cuda", "NVIDIA A100-SXM4-80GB", "Partial", "accelerator: NVIDIA A100-SXM4-80GB (NVIDIA, USA)"),
        ("cpu", "Intel(R) Xeon(R) Platinum 8488C", "Partial", "accelerator: Intel"),
        ("cpu", "Kunpeng-920", "Full", "domestic"),
    ],
)
def test_a_run_of_longcat(kind, device, verdict, named):
    found = audit(stack_of_run(kind, device))
    assert found.verdict == verdict and named in found.reason
    assert {part.layer for part in found.parts} == set(TABLE.layers) and not found.not_known


def test_an_open_library_that_needs_a_closed_one_of_abroad_is_foreign():
    """NCCL's source is open, and nobody can run it without CUDA."""
    found = audit({"accelerator": ["Kunlun P800"], "collective library": ["NCCL"]})
    assert found.verdict == "Partial" and "collective library: NCCL needs CUDA (NVIDIA, USA)" in found.reason
    assert "accelerator" not in found.reason


def test_what_is_not_known_is_said_and_decides_only_without_an_accelerator():
    some = audit({"accelerator": ["Ascend910B2"], "framework": ["Frame of Nobody"]})
    assert some.verdict == "Full" and "framework: Frame of Nobody" in some.not_known
    assert "compiler: not stated" in some.reason
    assert audit({"framework": ["PyTorch"]}).verdict == "not known"
    assert audit({"accelerator": ["Machine of Nobody"]}).verdict == "not known"


def test_an_unknown_layer_is_named():
    with pytest.raises(ConfigError, match="there is no layer 'acelerator'; did you mean 'accelerator'"):
        audit({"acelerator": ["Ascend910B2"]})


def test_a_table_that_does_not_hold_together_is_refused(tmp_path):
    text = "home: A\nlayers: [x]\ncomponents: [{name: a, layer: %s, names: [a], maker: m, country: A, open_source: true, needs: [%s], source: s}]\n"
    for layer, needs, said in (("y", "", "has the layer 'y'"), ("x", "b", "a needs b, which has no entry")):
        path = tmp_path / f"{layer}{needs}.yaml"
        path.write_text(text % (layer, needs))
        with pytest.raises(ConfigError, match=said):
            read_table(path)


@given(st.lists(st.tuples(st.sampled_from("ABC"), st.booleans(), st.sets(st.integers(0, 6))), min_size=1, max_size=7))
@settings(max_examples=200, deadline=None)
def test_full_means_that_nothing_foreign_and_closed_can_be_reached(rows):
    names = [f"c{number}" for number in range(len(rows))]
    components = {
        name: Component(
            name, "accelerator", (name,), "m", country, is_open, tuple(names[i] for i in needs if i < len(rows)), "s"
        )
        for name, (country, is_open, needs) in zip(names, rows, strict=True)
    }
    table = Table("A", ("accelerator",), components)
    reached, waiting = set(), ["c0"]
    while waiting:
        if (name := waiting.pop()) not in reached:
            reached.add(name)
            waiting += components[name].needs
    closed = any(components[name].country != "A" and not components[name].open_source for name in reached)
    assert audit({"accelerator": ["c0"]}, table).verdict == ("Partial" if closed else "Full")
    freed = {name: dataclasses.replace(one, open_source=True) for name, one in components.items()}
    assert audit({"accelerator": ["c0"]}, Table("A", ("accelerator",), freed)).verdict == "Full"


@pytest.mark.parametrize(
    ("example", "verdict", "foreign"),
    [
        ("longcat-2.0", "Full", set()),
        ("qwen-max", "Partial", {"NVIDIA GPU", "NVLink", "NCCL", "CUDA", "cuBLAS", "cuDNN"}),
        ("ernie-4.0", "Partial", {"NVIDIA GPU", "NVLink", "InfiniBand", "NCCL", "CUDA", "cuBLAS", "cuDNN"}),
    ],
)
def test_the_three_systems(example, verdict, foreign):
    stack = yaml.safe_load((ROOT / f"docs/examples/{example}.yaml").read_text())["stack"]
    found = audit(stack)
    assert found.verdict == verdict and not found.not_known
    assert {part.called for part in found.parts if part.origin == "foreign"} == foreign
    assert {part.called for part in found.parts} == {called for layer in stack.values() for called in layer}
