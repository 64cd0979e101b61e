"""What of a forward pass is kept for the backward pass, and what is computed a second time there."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Literal, TypeVar

import torch
from torch import nn
from torch.utils.checkpoint import (
    CheckpointPolicy,
    SelectiveCheckpointContext,
    checkpoint,
    create_selective_checkpoint_contexts,
)

Recomputation = Literal["none", "selective", "full"]
"""See `training.activation_checkpointing`."""

KEPT = frozenset(
    {
        "longcat::block_attention",
        "longcat::sparse_attention",
        "longcat::select_keys",
        "aten::_scaled_dot_product_flash_attention",
        "aten::_scaled_dot_product_efficient_attention",
        "aten::_scaled_dot_product_cudnn_attention",
        "npu::npu_fusion_attention",
        "npu::npu_sparse_flash_attention",
        "npu::npu_lightning_indexer",
    }
)
"""Operators whose results are kept in any case: attention and the choice of its keys, whose work grows with the square of the
length while their results do not."""

R = TypeVar("R")


class Recomputing(nn.Module):
    """A part of a model that keeps less of its forward pass if it is told to; see `use_recomputation`.

    Where it does not, functions are called directly: what stands between would be compiled anew for each of them.
    """

    recomputation: Recomputation = "none"

    def recomputes(self, recomputation: Recomputation) -> bool:
        """Say whether this is what is recomputed now."""
        return self.recomputation == recomputation and torch.is_grad_enabled()


def use_recomputation(model: nn.Module, recomputation: Recomputation) -> None:
    """Let every part of a model keep what this says."""
    for module in model.modules():
        if isinstance(module, Recomputing):
            module.recomputation = recomputation


@torch.compiler.disable(recursive=False)
def again(function: Callable[..., R], *args: Any) -> R:
    """Call a function and keep its arguments only; all else is computed again in the backward pass."""
    result: R = checkpoint(function, *args, use_reentrant=False, preserve_rng_state=False)
    return result


@torch.compiler.disable(recursive=False)
def selectively(function: Callable[..., R], *args: Any) -> R:
    """Call a function and keep its arguments, its result and what is `KEPT`; the rest is computed again in the backward pass."""
    contexts = partial(create_selective_checkpoint_contexts, _policy)
    result: R = checkpoint(function, *args, use_reentrant=False, preserve_rng_state=False, context_fn=contexts)
    return result


def _policy(_context: SelectiveCheckpointContext, operator: Any, *_: Any, **__: Any) -> CheckpointPolicy:
    name = operator.name().partition(".")[0]
    return CheckpointPolicy.MUST_SAVE if name in KEPT else CheckpointPolicy.PREFER_RECOMPUTE
