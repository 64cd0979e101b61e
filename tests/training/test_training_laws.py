"""Schedule, balance, metrics file: the parts of training that need no processes."""

import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from longcat.config import BalanceConfig, OptimizerConfig, load_config
from longcat.training.balance import load_metrics, target_ffn_experts, update_router_bias
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
