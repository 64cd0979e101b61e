"""The balance loss against its formula, and the total as the sum of its parts."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from longcat.config import load_config
from longcat.model import LongcatModel
from longcat.training.losses import Counts, active_losses, balance_loss, importance_loss, losses, weighted_total
from longcat.training.trainer import phase_of


@settings(deadline=None)
@given(
    seed=st.integers(0, 999), groups=st.sampled_from([1, 2, 4]), target=st.floats(0.5, 2.9), tokens=st.integers(1, 30)
)
def test_balance_is_the_published_sum(seed, groups, target, tokens):
    model = load_config("smoke").model  # 4 routed and 2 zero experts, top-3
    generator = torch.Generator().manual_seed(seed)
    p = torch.randn(tokens, 6, generator=generator).softmax(-1)
    chosen = p.topk(3).indices
    load = torch.bincount(chosen.flatten(), minlength=6).float()
    expected = 0.0
    size = 4 // groups
    for j in range(groups):
        mine = range(j * size, (j + 1) * size)
        f = groups / (target * tokens) * sum(int(i in mine) for row in chosen.tolist() for i in row)
        expected += f * sum(float(p[:, i].sum()) for i in mine) / tokens
    f = sum(int(i >= 4) for row in chosen.tolist() for i in row) / ((3 - target) * tokens)
    expected += f * float(p[:, 4:].sum()) / tokens
    found = balance_loss(p.sum(0)[None], load[None], model, target, groups)
    assert float(found) == pytest.approx(expected, rel=1e-4)


def test_balance_is_one_a_layer_when_slots_are_on_target():
    model = load_config("smoke").model
    load = torch.tensor([[10.0, 10, 10, 10, 10, 10]] * 5)  # 20 tokens; K_e = 2 of K = 3
    probability = torch.rand(5, 6)
    probability = 20 * probability / probability.sum(1, keepdim=True)
    assert float(balance_loss(probability, load, model, 2.0, 2)) == pytest.approx(5)


@settings(deadline=None)
@given(seed=st.integers(0, 999), target=st.floats(0.5, 2.9), tokens=st.integers(1, 30))
def test_importance_is_the_distance_of_probabilities_from_the_target(seed, target, tokens):
    model = load_config("smoke").model  # 4 routed and 2 zero experts, top-3
    p = torch.randn(tokens, 6, generator=torch.Generator().manual_seed(seed)).softmax(-1)
    load = torch.bincount(p.topk(3).indices.flatten(), minlength=6).float()
    mean = p.mean(0).tolist()
    wanted = [target / 3 / 4] * 4 + [1 - target / 3]
    expected = sum((m - t) ** 2 / t for m, t in zip([*mean[:4], sum(mean[4:])], wanted, strict=True))
    computed = importance_loss(p.sum(0)[None], load[None], model, target)
    assert float(computed) == pytest.approx(expected, rel=1e-3, abs=1e-5)


def test_importance_without_zero_experts_is_the_squared_coefficient_of_variation():
    model = load_config("smoke", overrides=["model.zero_expert_num=0", "model.moe_topk=2"]).model
    p = torch.randn(50, 4, generator=torch.Generator().manual_seed(0)).softmax(-1)
    load = torch.bincount(p.topk(2).indices.flatten(), minlength=4).float()
    mean = p.mean(0)
    variation = mean.std(correction=0) / mean.mean()
    assert float(importance_loss(p.sum(0)[None], load[None], model, 2.0)) == pytest.approx(
        float(variation**2), rel=1e-3
    )
    nothing = torch.zeros(1, 4)
    assert torch.isfinite(importance_loss(nothing, nothing, model, 2.0))


def config_with(*overrides):
    sparse = "model.sparse_attention={index_n_heads: 2, index_head_dim: 12, index_topk: 8, index_local_tokens: 3, index_init_tokens: 1}"
    return load_config("smoke", overrides=[sparse, "model.mtp_num_layers=2", *overrides])


def test_total_is_the_weighted_sum_and_zero_weights_leave_out():
    config = config_with("training.losses.hidden_z_weight=0", "training.losses.mtp_weight=0.5")
    assert active_losses(config) == ["mtp", "indexer", "balance", "importance"]
    model = LongcatModel(config.model)
    model.initialize(0)
    tokens = torch.randint(3, 512, (4, 25), generator=torch.Generator().manual_seed(0))
    parts = losses(model.sums(tokens[:, :-1], tokens[:, 1:]), Counts(96, 96), config)
    expected = parts["language_model"] + 0.5 * parts["mtp"] + parts["indexer"] + 1e-3 * parts["balance"]
    torch.testing.assert_close(weighted_total(parts, config), expected + 0.03 * parts["importance"])
    torch.testing.assert_close(weighted_total(parts, config, "warmup"), parts["indexer"])
    assert parts["language_model"].item() == pytest.approx(6.24, abs=0.1)  # ln 512
    assert parts["mtp"].item() == pytest.approx(6.24 * 43 / 48, rel=0.05)  # depth k lacks the last k positions
    halves = [losses(model.sums(part[:, :-1], part[:, 1:]), Counts(96, 96), config) for part in tokens.split(2)]
    for name in ("language_model", "mtp", "indexer", "hidden_z"):
        torch.testing.assert_close(halves[0][name] + halves[1][name], parts[name], rtol=1e-4, atol=1e-5)


def test_a_model_without_the_parts_has_fewer_losses():
    assert active_losses(load_config("smoke")) == ["balance", "importance", "hidden_z"]


def test_phases_follow_one_another():
    training = config_with("training.dense_attention_steps=2", "training.indexer_warmup_steps=3").training
    assert [phase_of(step, training) for step in range(7)] == ["dense"] * 2 + ["warmup"] * 3 + ["sparse"] * 2
