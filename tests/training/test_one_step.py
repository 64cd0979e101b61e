"""Whole optimizer steps by hand, in plain fp64, beside those of `Trainer`: every law of a step shows in the weights.

Gradients come from the model; everything after them is written down here once more from its formula.
"""

import math

import numpy as np
import pytest
import torch

from longcat.accelerator import choose
from longcat.config import load_config
from longcat.corpus.shards import Batch
from longcat.model import LongcatModel
from longcat.padding import IGNORE
from longcat.training.losses import Counts, losses, weighted_total
from longcat.training.trainer import Trainer

STEPS, WARMUP = 6, 2
RATE, FINAL_RATE, ROUTER, DECAY, LIMIT = 0.02, 0.3, 0.25, 0.5, 2.0
MU, FINAL_MU, TARGET = 0.2, 0.25, 1.5
BETA1, BETA2, EPSILON, MOMENTUM = 0.8, 0.9, 1e-5, 0.9
WIDTH = 2  # of the model over its proxy
SETTINGS = [
    f"training.steps={STEPS}",
    f"training.balance={{bias_update_rate: {MU}, final_bias_update_fraction: {FINAL_MU}, "
    f"target_ffn_experts: {TARGET}}}",
    "training.losses.balance_weight=0.01",
    "model.attention_bias=true",  # some of them have no gradient but noise, which epsilon keeps small
    "model.mtp_num_layers=1",
    "model.ngram={vocab_size_ratio: 2.5, neighbor_num: 3, split_num: 2}",
    "model.initializer_range=0.1",
    "model.proxy_hidden_size=32",
]

LAZY = [
    "parallel.embedding=true",
    "training.optimizer.lazy_ngram_moments=true",
    "training.optimizer.epsilon=1e-16",
    "model.attention_bias=false",
]


def optimizer_settings(name):
    return (
        f"training.optimizer={{name: {name}, learning_rate: {RATE}, final_learning_rate_fraction: {FINAL_RATE}, "
        f"router_learning_rate_fraction: {ROUTER}, warmup_steps: {WARMUP}, weight_decay: {DECAY}, beta1: {BETA1}, "
        f"beta2: {BETA2}, epsilon: {EPSILON}, momentum: {MOMENTUM}, max_gradient_norm: {LIMIT}}}"
    )


def batches():
    """Random rows; in every other batch few targets are learnt, so that its gradient is much larger."""
    generator = np.random.default_rng(0)
    for step in range(STEPS):
        batch = Batch.of_rows(generator.integers(3, 512, (4, 33)))
        if step % 2:
            targets = np.full_like(batch.targets, IGNORE)
            targets[:, 3] = 5 + step
            batch = Batch(batch.tokens, targets, batch.documents)
        yield batch


def newton_schulz(matrix):
    """Five steps of x -> a x + b (x x^T) x + c (x x^T)^2 x from the normed matrix."""
    x = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    x = x / (x.norm() + 1e-7)
    for _ in range(5):
        square = x @ x.T
        x = 3.4445 * x - 4.7750 * square @ x + 2.0315 * square @ square @ x
    return x if matrix.shape[0] <= matrix.shape[1] else x.T


class ByHand:
    """Weights, moments and biases in fp64."""

    def __init__(self, config, muon):
        self.config, self.muon = config, muon
        self.model = LongcatModel(config.model).train()
        self.model.initialize(config.seed)
        self.weights = {name: p.detach().double() for name, p in self.model.named_parameters()}
        self.first = {name: torch.zeros_like(w) for name, w in self.weights.items()}
        self.second = {name: torch.zeros_like(w) for name, w in self.weights.items()}
        self.biases = [torch.zeros(6, dtype=torch.float64) for _ in self.model.blocks]
        self.norms = []

    def gradients(self, batch):
        with torch.no_grad():
            for name, p in self.model.named_parameters():
                p.copy_(self.weights[name])
                p.grad = None
            for layer, bias in zip(self.model.blocks, self.biases, strict=True):
                layer.mlp.router.e_score_correction_bias.copy_(bias)
        tokens, targets, documents = (torch.from_numpy(v) for v in (batch.tokens, batch.targets, batch.documents))
        sums = self.model.sums(tokens, targets, padding=documents < 0)
        counts = Counts(torch.tensor(tokens.numel()), (targets != IGNORE).sum())
        weighted_total(losses(sums, counts, self.config), self.config).backward()
        return {name: p.grad.double() for name, p in self.model.named_parameters()}, sums.router_load.double()

    def step(self, number, batch):
        gradients, load = self.gradients(batch)
        norm = math.sqrt(sum(float(g.square().sum()) for g in gradients.values()))
        self.norms.append(norm)
        if norm > LIMIT:
            gradients = {name: g * LIMIT / norm for name, g in gradients.items()}
        if number < WARMUP:
            rate = RATE * (number + 1) / WARMUP
        else:
            cosine = (1 + math.cos(math.pi * (number - WARMUP) / (STEPS - WARMUP))) / 2
            rate = RATE * (FINAL_RATE + (1 - FINAL_RATE) * cosine)
        for name, w in self.weights.items():
            table = "embed_tokens" in name or "tables" in name
            matrix = w.dim() >= 2 and not table
            router, head = "router" in name, name == "lm_head.weight"
            own = rate * (ROUTER if router else 1) / (WIDTH if matrix else 1)
            if matrix:
                w *= 1 - own * DECAY
            if self.muon and matrix and not router and not head:
                self.move_by_muon(name, gradients[name], own)
            else:
                self.move_by_adamw(name, gradients[name], own, number + 1)
        mu = MU * (1 - number / (STEPS - 1) * (1 - FINAL_MU))
        for bias, slots in zip(self.biases, load, strict=True):  # 4 routed experts, K = 3
            bias[:4] += mu * (TARGET / 3 / 4 - slots[:4] / slots.sum())

    def move_by_adamw(self, name, gradient, rate, count):
        first, second = self.first[name], self.second[name]
        first.mul_(BETA1).add_((1 - BETA1) * gradient)
        second.mul_(BETA2).add_((1 - BETA2) * gradient**2)
        root = (second / (1 - BETA2**count)).sqrt()
        self.weights[name] -= rate * first / (1 - BETA1**count) / (root + self.config.training.optimizer.epsilon)

    def move_by_muon(self, name, gradient, rate):
        momentum = self.first[name]
        momentum.mul_(MOMENTUM).add_((1 - MOMENTUM) * gradient)
        direction = (1 - MOMENTUM) * gradient + MOMENTUM * momentum
        matrices = direction if direction.dim() == 3 else direction[None]
        update = torch.stack([newton_schulz(matrix) for matrix in matrices])
        scale = 0.2 * math.sqrt(max(matrices.shape[1:]))
        self.weights[name] -= rate * scale * update.view_as(direction)


@pytest.mark.parametrize(("name", "extra"), [("adamw", []), ("muon", []), ("adamw", LAZY)])
def test_steps_are_those_done_by_hand(mesh, name, extra):
    config = load_config("smoke", None, [*SETTINGS, optimizer_settings(name), *extra])
    trainer = Trainer(config, mesh, choose("cpu"), "fp32")
    by_hand = ByHand(config, muon=name == "muon")
    begun = {name: w.clone() for name, w in by_hand.weights.items()}
    for number, batch in enumerate(batches()):
        result = trainer.step(number, batch)
        by_hand.step(number, batch)
        assert result.gradient_norm == pytest.approx(by_hand.norms[-1], rel=1e-3)
        for router, bias in zip(trainer.routers, by_hand.biases, strict=True):
            torch.testing.assert_close(router.e_score_correction_bias.double(), bias, atol=1e-6, rtol=1e-4)
    trainer.settle_weights()
    assert min(by_hand.norms) < LIMIT < max(by_hand.norms)
    off = {
        name: float((p.detach().double() - by_hand.weights[name]).norm() / (by_hand.weights[name] - begun[name]).norm())
        for name, p in trainer.model.named_parameters()
    }
    assert max(off.values()) < 3e-4, sorted(off.items(), key=lambda item: -item[1])[:5]
