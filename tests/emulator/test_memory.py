"""What saves memory on the device: sublayers that are recomputed, and optimizer state on the host."""

import copy

import pytest
import torch

from longcat.config import load_config
from longcat.model import LongcatModel
from longcat.model.recomputation import KEPT, use_recomputation
from longcat.training.offload import OffloadedStates
from longcat.training.optimizer import build_optimizers
from tests.dispatched import Operators
from tests.emulator.test_model import OVERRIDES

pytestmark = pytest.mark.emulator


@pytest.mark.parametrize("phase", ["dense", "sparse"])
def test_attention_is_not_computed_again(phase):
    config = load_config("tiny-2.0", overrides=OVERRIDES)
    plain = LongcatModel(config.model).bfloat16()
    plain.initialize(0)
    plain = plain.to("npu")
    again = copy.deepcopy(plain)
    use_recomputation(again, "selective")
    tokens = torch.randint(0, config.model.vocabulary, (2, 97), generator=torch.Generator().manual_seed(1)).to("npu")
    for model in (plain, again):
        with Operators() as forward:
            sums = model.sums(tokens[:, :-1], tokens[:, 1:], phase=phase)
        with Operators() as backward:
            (sums.language_model + sums.mtp + sums.indexer).backward()
        # those of references are of the check at first use
        kept = {name for name in KEPT & forward.calls.keys() if name.startswith("npu")}
        assert kept == (
            {"npu::npu_fusion_attention"}
            if phase == "dense"
            else {"npu::npu_sparse_flash_attention", "npu::npu_lightning_indexer"}
        )
        assert not kept & backward.calls.keys()
    for (name, ours), (_, theirs) in zip(again.named_parameters(), plain.named_parameters(), strict=True):
        assert (ours.grad is None) == (theirs.grad is None)
        assert ours.grad is None or torch.equal(ours.grad, theirs.grad), name


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_states_rest_on_the_host(name):
    config = load_config("smoke", overrides=[f"training.optimizer.name={name}"])
    first = LongcatModel(config.model)
    first.initialize(0)
    first = first.to("npu")
    second = copy.deepcopy(first)
    ours, theirs = (build_optimizers(model, config.training.optimizer, torch.float32) for model in (first, second))
    offloaded = OffloadedStates(ours)
    for step in range(2):
        for model in (first, second):
            for number, parameter in enumerate(model.parameters()):
                parameter.grad = torch.full_like(parameter, 0.01 * (number % 7 - step))
        for mine, other in zip(ours, theirs, strict=True):
            offloaded.step(mine)
            other.step()
        held = [of for one in ours for state in one.state.values() for of in state.values() if of.dim()]
        assert held
        assert {of.device.type for of in held} == {"npu"}
        assert sum(of.untyped_storage().nbytes() for of in held) == 0
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
