"""Top-k softmax router over routed and zero-computation experts, with bias-controlled selection."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from longcat.config import ModelConfig
from longcat.model.module import Module
from longcat.model.scaling import routed_scale
from longcat.ops.gating import topk_gating


class Router(Module):
    """Chooses `moe_topk` of the `n_routed_experts + zero_expert_num` experts for each token (arXiv 2509.01322, section 2.1).

    p = softmax(W h) in fp32; the experts with the largest p + b are chosen; their weight is p times
    `routed_scaling_factor`, without b and without renormalisation. b is moved by `longcat.training.balance`.
    """

    e_score_correction_bias: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        experts = config.n_routed_experts + config.zero_expert_num
        self.top_k, self.scale = config.moe_topk, routed_scale(config)
        self.classifier = nn.Linear(config.hidden_size, experts, bias=False)
        self.register_buffer("e_score_correction_bias", torch.zeros(experts))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Route tokens.

        Args:
            x: `[tokens, hidden]`.

        Returns:
            Weights (fp32) and numbers (int64) of the chosen experts, both `[tokens, moe_topk]`, and all experts'
            probabilities, fp32 `[tokens, experts]`.
        """
        logits = F.linear(x.float(), self.classifier.weight.float())
        return self.operators.run(topk_gating, logits, self.e_score_correction_bias, self.top_k, self.scale)
