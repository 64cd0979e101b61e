"""Top-k softmax router over routed and zero-computation experts, with bias-controlled selection."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from longcat.config import ModelConfig


class Router(nn.Module):
    """Choose `moe_topk` of the `n_routed_experts + zero_expert_num` experts for each token (arXiv 2509.01322, section 2.1).

    p = softmax(W h) in fp32; the experts with the largest p + b are chosen; their weight is p times
    `routed_scaling_factor`, without b and without renormalisation. b is moved by `longcat.training.balance`.
    """

    e_score_correction_bias: Tensor
    load: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        experts = config.n_routed_experts + config.zero_expert_num
        self.top_k, self.scale = config.moe_topk, config.routed_scaling_factor
        self.classifier = nn.Linear(config.hidden_size, experts, bias=False)
        self.register_buffer("e_score_correction_bias", torch.zeros(experts))
        # slots given to each expert since the trainer last looked; a statistic, not part of a checkpoint
        self.register_buffer("load", torch.zeros(experts), persistent=False)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """`[tokens, hidden]` to routing weights (fp32) and expert numbers (int64), both `[tokens, moe_topk]`."""
        scores = F.linear(x.float(), self.classifier.weight.float()).softmax(dim=-1)
        experts = (scores.detach() + self.e_score_correction_bias).topk(self.top_k, dim=-1, sorted=False).indices
        if self.training:
            self.load += torch.bincount(experts.flatten(), minlength=self.load.numel())
        return scores.gather(1, experts) * self.scale, experts
