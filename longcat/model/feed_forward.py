"""The dense sublayer."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from longcat.model.places import WHOLE, Places, local


class FeedForward(nn.Module):
    """SwiGLU: down(silu(gate(x)) * up(x)) (arXiv 2002.05202)."""

    def __init__(self, hidden: int, inner: int) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(hidden, inner, bias=False)
        self.up_proj = nn.Linear(hidden, inner, bias=False)
        self.down_proj = nn.Linear(inner, hidden, bias=False)

    def forward(self, x: Tensor, places: Places = WHOLE) -> Tensor:
        """Transform `[batch, own, hidden]`; the result has the same shape. The inner width may be divided over processes."""
        x = places.to_heads(x)
        gate, up = (F.linear(x, local(projection.weight)) for projection in (self.gate_proj, self.up_proj))
        return places.project(F.silu(gate) * up, local(self.down_proj.weight))
