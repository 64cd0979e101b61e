"""Schedule, balance, metrics file: the parts of training that need no processes."""

import json
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from longcat.config import BalanceConfig, OptimizerConfig, load_config, target_ffn_experts
from longcat.training.balance import bias_update_rate, layer_metrics, load_metrics, update_router_bias
from longcat.training.metrics import Follower, MetricsFile, read_metrics
from longcat.training.schedule import learning_rate


@given(steps=st.integers(2, 5000), warmup=st.integers(0, 100), share=st.floats(0, 1))
def test_learning_rate_rises_then_falls_between_its_bounds(steps, warmup, share):
    config = OptimizerConfig(learning_rate=1e-3, warmup_steps=warmup, final_learning_rate_fraction=share)
    rates = [learning_rate(step, steps, config) for step in range(steps)]
    assert all(0 < rate <= 1e-3 * (1 + 1e-9) for rate in rates if share > 0)
    assert rates[:warmup] == sorted(rates[:warmup])
    assert all(a >= b - 1e-12 for a, b in zip(rates[warmup:], rates[warmup + 1 :], strict=False))
    assert learning_rate(steps, steps, config) == pytest.approx(1e-3 * share) or warmup >= steps


FORMS = {
    "linear": lambda x: 1 - x,
    "sqrt": lambda x: 1 - math.sqrt(x),
    "cosine": lambda x: (1 + math.cos(math.pi * x)) / 2,
}


@given(
    steps=st.integers(1, 2000),
    warmup=st.integers(0, 100),
    share=st.floats(0, 1),
    fraction=st.floats(0.001, 1),
    form=st.sampled_from(sorted(FORMS)),
)
def test_wsd_stays_at_the_peak_and_then_falls_to_its_last_rate(steps, warmup, share, fraction, form):
    config = OptimizerConfig(
        learning_rate=1e-3,
        warmup_steps=warmup,
        final_learning_rate_fraction=share,
        schedule="wsd",
        decay_fraction=fraction,
        decay_form=form,
    )
    rates = [learning_rate(step, steps, config) for step in range(steps)]
    decaying = min(max(1, round(fraction * steps)), max(0, steps - warmup))
    begin = steps - decaying
    assert rates[:warmup] == [1e-3 * (step + 1) / warmup for step in range(min(warmup, steps))]
    assert all(rate == 1e-3 for rate in rates[warmup:begin])
    expected = [1e-3 * (share + (1 - share) * FORMS[form]((n + 1) / decaying)) for n in range(decaying)]
    assert rates[begin:] == pytest.approx(expected, abs=1e-15)
    if decaying:
        assert rates[-1] == pytest.approx(1e-3 * share, abs=1e-15)
        assert learning_rate(steps + 5, steps, config) == pytest.approx(rates[-1], abs=1e-15)


def test_a_constant_rate_stays_after_its_warm_up():
    config = OptimizerConfig(learning_rate=1e-3, warmup_steps=4, schedule="constant")
    assert [learning_rate(step, 8, config) for step in range(10)] == pytest.approx(
        [2.5e-4, 5e-4, 7.5e-4, 1e-3, *[1e-3] * 6]
    )


def test_the_default_is_the_cosine_of_before():
    config = OptimizerConfig(learning_rate=0.1, warmup_steps=2)
    assert config.schedule == "cosine"
    cosines = [(1 + math.cos(math.pi * n / 8)) / 2 for n in range(8)]
    assert [learning_rate(step, 10, config) for step in range(10)] == [
        0.1 * 1 / 2,
        0.1 * 2 / 2,
        *[0.1 * (0.1 + (1 - 0.1) * one) for one in cosines],
    ]


def test_bias_control_reaches_the_target_share():
    """With the published law, a router with random preferences settles at K_e routed experts a token, evenly loaded."""
    model = load_config("smoke").model
    balance = BalanceConfig(bias_update_rate=0.05)
    generator = torch.Generator().manual_seed(0)
    preference = torch.randn(6, generator=generator)
    bias, loads = torch.zeros(6), []
    for _ in range(600):
        scores = (preference + torch.randn(512, 6, generator=generator)).softmax(-1)
        load = torch.bincount((scores + bias).topk(model.moe_topk).indices.flatten(), minlength=6).float()
        update_router_bias(bias, load, model, balance, balance.bias_update_rate)
        loads.append(load)
    settled = load_metrics(torch.stack(loads[-50:]).mean(0)[None], model)
    before = load_metrics(loads[0][None], model)
    assert settled["moe/ffn_experts_per_token"] == pytest.approx(target_ffn_experts(model, balance), rel=0.02)
    assert settled["moe/max_load"] < 1.1 < before["moe/max_load"]
    assert torch.equal(bias[model.n_routed_experts :], torch.zeros(2))


def test_a_batch_without_load_leaves_the_bias():
    model = load_config("smoke").model
    bias = torch.tensor([0.1, -0.2, 0.0, 0.3, 0.0, 0.0])
    before = bias.clone()
    update_router_bias(bias, torch.zeros(6), model, BalanceConfig(), 0.1)
    assert torch.equal(bias, before)
    assert load_metrics(torch.zeros(1, 6), model) == {
        "moe/ffn_experts_per_token": 0,
        "moe/max_load": 0,
        "moe/min_load": 0,
    }


def test_rate_of_the_bias_falls_in_a_straight_line():
    balance = BalanceConfig(bias_update_rate=0.2, final_bias_update_fraction=0.25)
    assert [bias_update_rate(step, 5, balance) for step in range(5)] == pytest.approx(
        [0.2, 0.1625, 0.125, 0.0875, 0.05]
    )


@pytest.mark.parametrize(("routed", "zero", "top_k"), [(8, 4, 3), (768, 128, 12), (512, 256, 12)])
def test_mu_is_about_the_fraction_of_the_mean_probability(routed, zero, top_k):
    """An expert without tokens gains mu, times a factor near 1, of 1 / (N + Z) per step, for any number of experts."""
    changes = [f"model.n_routed_experts={routed}", f"model.zero_expert_num={zero}", f"model.moe_topk={top_k}"]
    model = load_config("smoke", overrides=changes).model
    bias, load = torch.zeros(routed + zero), torch.ones(routed + zero)
    load[0] = 0
    update_router_bias(bias, load, model, BalanceConfig(), 0.01)
    assert 0.75 * 0.01 <= float(bias[0]) * (routed + zero) <= 1.01 * 0.01


def test_layers_are_described_one_by_one():
    model = load_config("smoke").model  # 4 routed and 2 zero experts, top-3
    load = torch.tensor([[10.0, 10, 10, 10, 10, 10], [20, 0, 10, 10, 20, 0]])  # 20 tokens
    metrics = layer_metrics(load, torch.tensor([1.7, 0.2]), torch.tensor([0.2, 0.9]), model)
    assert metrics == pytest.approx(
        {
            "moe/layer_0/max_load": 1, "moe/layer_0/min_load": 1, "moe/layer_0/zero_expert_max": 0.5,
            "moe/layer_0/router_entropy": 1.7, "moe/layer_0/router_top_probability": 0.2,
            "moe/layer_1/max_load": 2, "moe/layer_1/min_load": 0, "moe/layer_1/zero_expert_max": 1,
            "moe/layer_1/router_entropy": 0.2, "moe/layer_1/router_top_probability": 0.9,
        }
    )  # fmt: skip
    assert load_metrics(load, model) == pytest.approx(
        {"moe/ffn_experts_per_token": 2, "moe/max_load": 2, "moe/min_load": 0}
    )
    without = load_config("smoke", overrides=["model.zero_expert_num=0"]).model
    assert "moe/layer_0/zero_expert_max" not in layer_metrics(load[:1, :4], torch.ones(1), torch.ones(1), without)
    many = layer_metrics(load.repeat(6, 1), torch.ones(12), torch.ones(12), model)
    assert "moe/layer_03/max_load" in many


def test_metrics_survive_a_crash_and_a_resume(tmp_path):
    path = tmp_path / "metrics.jsonl"
    follower = Follower(path)
    assert follower.new() == []
    metrics = MetricsFile(path, after_step=0)
    for step in range(1, 5):
        metrics.append({"step": step})
    assert [record["step"] for record in follower.new()] == [1, 2, 3, 4]
    with path.open("a") as stream:
        stream.write('{"step": 5')  # the process was killed while writing
    assert follower.new() == []
    resumed = MetricsFile(path, after_step=2)
    for step in range(3, 7):
        resumed.append({"step": step, "attempt": 1})
    assert [record["step"] for record in follower.new()] == [5, 6]
    assert [record["step"] for record in read_metrics(path)] == [1, 2, 3, 4, 5, 6]
    assert all(json.loads(line) for line in path.read_text().splitlines())


def test_steps_that_are_learnt_otherwise_after_going_back_are_followed_again(tmp_path):
    path = tmp_path / "metrics.jsonl"
    follower = Follower(path)

    def write(after, steps, loss, time):
        file = MetricsFile(path, after_step=after)
        for step in steps:
            file.append({"step": step, "time": time, "attempt": time, "train/loss": loss, "perf/mfu": time / 10})

    write(0, range(1, 9), 3.0, 1)
    assert len(follower.new()) == 8
    write(4, range(5, 8), 3.0, 2)  # the same again, as after a restart
    assert follower.new() == []
    write(4, range(5, 8), 2.5, 3)  # other batches, as after going back
    assert [(record["step"], record["train/loss"]) for record in follower.new()] == [(5, 2.5), (6, 2.5), (7, 2.5)]
    assert follower.last_step == 8
    write(7, [8, 9], math.nan, 4)
    assert [record["step"] for record in follower.new()] == [8, 9]
    write(7, [8, 9], math.nan, 5)
    assert follower.new() == []
