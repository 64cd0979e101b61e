"""The scaling rules do to variances what they say."""

import pytest
import torch

from longcat.config import ModelConfig, OptimizerConfig, load_config
from longcat.model import LongcatModel
from longcat.model.scaling import mla_alignment, role_of, routed_scale, transfer, variance_compensation
from longcat.training.optimizer import build_optimizers, set_learning_rate


@pytest.mark.parametrize(("hidden", "rank"), [(512, 64), (512, 256)])
def test_alignment_makes_the_variance_independent_of_the_rank(hidden, rank):
    torch.manual_seed(0)
    compressed = torch.randn(2000, rank) * mla_alignment(hidden, rank)  # as a norm leaves it
    weight = torch.randn(256, rank) * 0.02
    assert (compressed @ weight.T).var() == pytest.approx(hidden * 0.02**2, rel=0.05)


def test_published_factors():
    assert mla_alignment(6144, 1536) == 2.0
    assert mla_alignment(6144, 512) == pytest.approx(3.4641, abs=1e-4)
    assert mla_alignment(8192, 1536) == pytest.approx(2.3094, abs=1e-4)
    assert variance_compensation(12288, 2048) == variance_compensation(6144, 1024) == 6
    flash = load_config("longcat-flash").model
    assert routed_scale(flash) == routed_scale(flash.model_copy(update={"routed_scaling_factor": None})) == 6


def test_compensation_restores_the_variance_of_whole_experts():
    """m-fold finer experts, m times as many chosen: the sum has m^-2 of the variance, whose root gamma gives back."""
    torch.manual_seed(0)
    m, inner, hidden, experts, chosen = 4, 64, 64, 16, 2

    def output(pieces):
        count = experts * pieces
        weights = torch.randn(2000, count).softmax(-1).topk(chosen * pieces).values
        size = (inner / pieces) ** 0.5  # deviation of one expert's output grows with the root of its width
        return (weights[:, :, None] * torch.randn(2000, chosen * pieces, hidden) * size).sum(1)

    ratio = float(output(1).var() / (variance_compensation(inner, inner // m) ** 2 * output(m).var()))
    assert ratio == pytest.approx(1, rel=0.35)


def sizes(width, proxy):
    base = load_config("smoke").model.model_dump()
    config = ModelConfig(**{**base, "hidden_size": width, "proxy_hidden_size": proxy, "initializer_range": 0.04})
    model = LongcatModel(config)
    model.initialize(0)
    return model


def test_transfer_from_a_proxy():
    wide, own = sizes(256, 64), sizes(256, None)
    for (name, a), (_, b) in zip(wide.named_parameters(), own.named_parameters(), strict=True):
        share = transfer(role_of(name, a.dim()), 4.0).variance
        torch.testing.assert_close(a, b * share**0.5)
    assert wide.model.embed_tokens.weight.std().item() == pytest.approx(0.04, rel=0.05)
    assert wide.lm_head.weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert wide.blocks[0].mlps[0].up_proj.weight.std().item() == pytest.approx(0.02, rel=0.05)


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_learning_rates_follow_the_roles(name):
    model = sizes(256, 64)
    optimizers = build_optimizers(model, OptimizerConfig(name=name))
    set_learning_rate(optimizers, 1e-3)
    rates = {id(p): group["lr"] for o in optimizers for group in o.param_groups for p in group["params"]}
    assert len(rates) == len(list(model.parameters()))
    for parameter_name, parameter in model.named_parameters():
        role = role_of(parameter_name, parameter.dim())
        expected = 1e-3 if role in ("embedding", "vector") else 2.5e-4
        own = OptimizerConfig().router_learning_rate_fraction if "router" in parameter_name else 1.0
        assert rates[id(parameter)] == pytest.approx(expected * own)


def test_roles_by_name():
    config = load_config(
        "smoke", overrides=["model.ngram={vocab_size_ratio: 3.5, neighbor_num: 3, split_num: 2}"]
    ).model
    roles = {name: role_of(name, p.dim()) for name, p in LongcatModel(config).named_parameters()}
    assert {name for name, role in roles.items() if role == "embedding"} == {
        "model.embed_tokens.weight",
        "model.ngram_embeddings.tables.weight",
    }
    assert [name for name, role in roles.items() if role == "unembedding"] == ["lm_head.weight"]
    assert all("norm" in name for name, role in roles.items() if role == "vector")
