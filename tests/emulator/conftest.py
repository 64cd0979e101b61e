"""What is marked `emulator` runs under `longcat emulate` only (`make test-emulator`)."""

import os

import pytest
import torch


def pytest_collection_modifyitems(items):
    if os.environ.get("ASCEND_EMULATOR_LIBRARIES"):
        return
    skip = pytest.mark.skip(reason="needs the emulated Ascend: make test-emulator")
    for item in items:
        if item.get_closest_marker("emulator"):
            item.add_marker(skip)


@pytest.fixture(scope="session")
def npu():
    """torch_npu, whose operators are tested."""
    return pytest.importorskip("torch_npu")


@pytest.fixture
def seed():
    """Random inputs that are the same in each run."""
    torch.manual_seed(0)
