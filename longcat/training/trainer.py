"""One optimizer step of LongCat pre-training, the same in every process. Knows nothing of files or orchestration."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.fsdp import FSDPModule

from longcat.accelerator import Accelerator
from longcat.config import PipelineConfig
from longcat.model.transformer import LongcatModel
from longcat.parallel.mesh import ProcessMesh
from longcat.parallel.parallelize import parallelize
from longcat.training.balance import move_bias
from longcat.training.optimizer import build_optimizers, set_learning_rate
from longcat.training.schedule import learning_rate


@dataclass(frozen=True)
class StepResult:
    """What one step showed, the same in every process."""

    loss: float
    """Mean negative log-likelihood in nats a token, over the whole batch."""
    gradient_norm: float
    """Global norm before clipping."""
    learning_rate: float
    load: Tensor
    """Slots given to each expert, `[layers, n_routed_experts + zero_expert_num]`, over the whole batch."""
    skipped: bool
    """Loss or gradients were not finite, and nothing was updated."""
    stop: bool
    """Some process was asked to stop."""


class Trainer:
    """Model, optimizer and the step that joins them."""

    def __init__(self, config: PipelineConfig, mesh: ProcessMesh, accelerator: Accelerator, precision: str) -> None:
        self.config, self.mesh = config, mesh
        model = LongcatModel(config.model)
        model.initialize(config.seed)
        compute = torch.bfloat16 if precision == "bf16" else torch.float32
        self.model = parallelize(model, mesh, compute, config.training.compile).train()
        self.optimizers = build_optimizers(self.model, config.training.optimizer)
        self.routers = [layer.mlp.router for layer in self.model.blocks]
        self.micro_batch = config.training.micro_batch_sequences
        self._parameters = [parameter for parameter in self.model.parameters() if parameter.requires_grad]

    def step(self, step: int, batch: np.ndarray, stop: bool = False) -> StepResult:
        """Learn from this process' share of a batch.

        Args:
            step: 0-based number of the step.
            batch: int64 `[sequences, sequence_length + 1]`.
            stop: this process was asked to stop; every process learns of it through the result.
        """
        tokens = torch.from_numpy(batch).to(self.mesh.device)
        global_tokens = (tokens.shape[1] - 1) * tokens.shape[0] * self.mesh.processes
        for router in self.routers:
            router.load.zero_()
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)
        loss_sum = torch.zeros((), device=self.mesh.device)
        parts = tokens.split(self.micro_batch or tokens.shape[0])
        for index, part in enumerate(parts):
            if isinstance(self.model, FSDPModule):  # gradients are exchanged once, after the last part
                self.model.set_requires_gradient_sync(index == len(parts) - 1)
            share = self.model(part[:, :-1], part[:, 1:]) / global_tokens
            share.backward()
            loss_sum += share.detach()

        loss, square, load, stop = self._agree(loss_sum, stop)
        norm = square**0.5
        rate = learning_rate(step, self.config.training.steps, self.config.training.optimizer)
        healthy = bool(np.isfinite(loss) and np.isfinite(norm))
        if healthy:
            self._clip(norm)
            set_learning_rate(self.optimizers, rate)
            for optimizer in self.optimizers:
                optimizer.step()
            for router, slots in zip(self.routers, load, strict=True):
                move_bias(router.e_score_correction_bias, slots, self.config.model, self.config.training.balance)
        return StepResult(loss, norm, rate, load, skipped=not healthy, stop=stop)

    def _agree(self, loss: Tensor, stop: bool) -> tuple[float, float, Tensor, bool]:
        """Sum loss, squared gradient norm, loads and the wish to stop over all processes, in one exchange.

        Every parameter is spread over all processes, experts included, so the local squares add up to the global one.
        """
        square = torch.zeros((), device=self.mesh.device)
        for parameter in self._parameters:
            square += _local(parameter.grad).float().square().sum()
        loads = torch.stack([router.load for router in self.routers])
        message = torch.cat([torch.stack([loss, square, torch.full_like(loss, float(stop))]), loads.flatten()])
        dist.all_reduce(message, group=self.mesh.world.get_group())
        return (
            float(message[0]),
            float(message[1]),
            message[3:].view_as(loads),
            bool(message[2] > 0),
        )

    @torch.no_grad()
    def _clip(self, norm: float) -> None:
        limit = self.config.training.optimizer.max_gradient_norm
        if norm > limit:
            for parameter in self._parameters:
                _local(parameter.grad).mul_(limit / norm)


def _local(gradient: Tensor | None) -> Tensor:
    """This process' part of a gradient; every parameter has one, an expert without tokens zeros."""
    assert gradient is not None
    to_local = getattr(gradient, "to_local", None)
    return to_local() if to_local is not None else gradient
