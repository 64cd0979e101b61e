"""Recomputation changes what is kept, and nothing that is computed."""

import pytest
import torch

from longcat.config import load_config
from longcat.model import LongcatModel
from longcat.model.recomputation import KEPT, use_recomputation
from tests.dispatched import Live, Operators
from tests.host_reads import HostReads
from tests.parallel.training import EVERYTHING

MODES = ("none", "selective", "full")


def make(recomputation, *overrides):
    model = LongcatModel(load_config("smoke", overrides=list(overrides)).model)
    model.initialize(0)
    use_recomputation(model, recomputation)
    return model.train()


def rows(length=32):
    tokens = torch.randint(3, 512, (2, length + 1), generator=torch.Generator().manual_seed(0))
    documents = torch.zeros(2, length, dtype=torch.long)
    documents[0, 11:], documents[1, 20:] = 1, -1
    return tokens[:, :-1], tokens[:, 1:].masked_fill(documents < 0, -100), documents


def total(model, phase="sparse", length=32):
    tokens, targets, documents = rows(length)
    sums = model.sums(tokens, targets, phase, documents)
    return sums.language_model + sums.mtp + sums.indexer + sums.hidden_z + sums.router_probability.square().sum(), sums


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("phase", ["dense", "warmup", "sparse"])
def test_gradients_and_loads_are_the_same_bits(phase, dtype):
    found = {}
    for mode in MODES:
        model = make(mode, *EVERYTHING).to(dtype)
        loss, sums = total(model, phase)
        loss.backward()
        gradients = {name: of.grad for name, of in model.named_parameters() if of.grad is not None}
        found[mode] = {"loss": loss.detach(), "load": sums.router_load, **gradients}
    for mode in MODES[1:]:
        assert found[mode].keys() == found["none"].keys()
        assert all(torch.equal(value, found["none"][name]) for name, value in found[mode].items())


def test_each_mode_keeps_less():
    kept = {}
    for mode in MODES:
        model = make(mode, *EVERYTHING)
        with Live() as live:
            loss, _ = total(model, length=64)
            kept[mode] = live.bytes
        del loss
    assert kept["none"] > 1.8 * kept["selective"]
    assert kept["selective"] > 1.1 * kept["full"]


def test_selective_recomputes_neither_routing_nor_attention():
    model = make("selective", *EVERYTHING)
    routed = []
    for layer in model.blocks:
        layer.mlp.router.register_forward_hook(lambda *_: routed.append(1))
    with Operators() as forward:
        loss, _ = total(model)
    routed.clear()
    with Operators() as backward, HostReads() as reads:
        loss.backward()
    assert not routed
    assert not reads.reads
    # the second depth of multi-token prediction follows the first one's choice of keys
    assert {name: forward.calls[name] for name in KEPT if name in forward.calls} == {
        "longcat::sparse_attention": 2 * len(model.blocks) + 2,
        "longcat::select_keys": len(model.blocks) + 1,
    }
    assert not KEPT & backward.calls.keys()


def test_nothing_is_kept_without_gradients():
    kept = []
    for mode in MODES:
        model = make(mode, *EVERYTHING)
        with torch.no_grad(), Live() as live:
            result = total(model)
            kept.append(live.bytes)
        del result
    assert kept[0] == kept[1] == kept[2]
