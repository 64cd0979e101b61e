"""Muon: momentum with an orthogonalised direction, for matrices and stacks of matrices.

Keller Jordan et al., "Muon: an optimizer for hidden layers in neural networks" (2024); the update's scale,
0.2 sqrt(max(rows, columns)), is Moonlight's (arXiv 2502.16982, eq. 4), so that AdamW's learning rate fits both.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
_ITERATIONS = 5


def orthogonalise(matrices: Tensor, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    """Replace the singular values of each matrix by values near 1, by five Newton-Schulz steps.

    Args:
        matrices: `[..., rows, columns]`.
        dtype: type of the products; bf16 is exact enough.

    Returns:
        `[..., rows, columns]` of that type. A matrix of zeros stays zero.
    """
    a, b, c = _COEFFICIENTS
    x = matrices.to(dtype)
    wide = x.shape[-2] <= x.shape[-1]
    x = x if wide else x.mT
    x = x / (x.float().norm(dim=(-2, -1), keepdim=True) + 1e-7).to(dtype)
    for _ in range(_ITERATIONS):
        square = x @ x.mT
        x = a * x + (b * square + c * square @ square) @ x
    return x if wide else x.mT


class Muon(torch.optim.Optimizer):
    """Muon for parameters of two dimensions, or of three where the first one stacks matrices (experts).

    Parameters may be sharded along their first dimension. Momentum stays sharded. A sharded matrix is gathered for its
    orthogonalisation; a sharded stack is not, since each process holds whole matrices of it. `dtype` is the type of the
    matrix products: bf16 without hardware support costs several times the rest of the step.
    """

    def __init__(
        self,
        parameters: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float,
        momentum: float,
        weight_decay: float,
        dtype: torch.dtype = torch.bfloat16,
    ) -> None:
        self.dtype = dtype
        super().__init__(parameters, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})
        for group in self.param_groups:
            for parameter in group["params"]:
                self.state[parameter]["momentum"] = torch.zeros_like(parameter)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Update every parameter that has a gradient."""
        assert closure is None
        for group in self.param_groups:
            by_shape: dict[tuple[int, ...], list[Tensor]] = {}
            for parameter in group["params"]:
                if parameter.grad is not None:
                    by_shape.setdefault(tuple(parameter.shape), []).append(parameter)
            for parameters in by_shape.values():
                self._update(parameters, group)

    def _update(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        """Update parameters of one shape, orthogonalising their matrices in one batch."""
        directions = []
        for parameter in parameters:
            gradient, momentum = _local(parameter.grad), _local(self.state[parameter]["momentum"])
            momentum.lerp_(gradient, 1 - group["momentum"])
            nesterov = gradient.lerp(momentum, group["momentum"])
            directions.append(nesterov if parameter.dim() == 3 else _gathered(nesterov.to(self.dtype), parameter))
        updates = orthogonalise(torch.stack(directions), self.dtype)
        rows, columns = parameters[0].shape[-2:]
        step = -group["lr"] * 0.2 * max(rows, columns) ** 0.5
        for parameter, update in zip(parameters, updates, strict=True):
            weights = _local(parameter)
            weights.mul_(1 - group["lr"] * group["weight_decay"])
            weights.add_(update if parameter.dim() == 3 else _local_shard(update, parameter), alpha=step)


def _local(tensor: Any) -> Tensor:
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def _gathered(local: Tensor, like: Tensor) -> Tensor:
    """Gather the matrix whose shards are laid out as `like`."""
    if not isinstance(like, DTensor):
        return local
    spread = DTensor.from_local(
        local, like.device_mesh, like.placements, run_check=False, shape=like.shape, stride=like.stride()
    )
    return spread.full_tensor()


def _local_shard(whole: Tensor, like: Tensor) -> Tensor:
    """Return this process' shard of a matrix, laid out as `like`."""
    if not isinstance(like, DTensor):
        return whole
    return distribute_tensor(whole.contiguous(), like.device_mesh, like.placements, src_data_rank=None).to_local()
