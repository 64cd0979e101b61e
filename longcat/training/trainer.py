"""One optimizer step of LongCat pre-training, the same in every process. Knows nothing of files or orchestration."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils import get_total_norm

from longcat.accelerator import Accelerator
from longcat.config import PipelineConfig, TrainingConfig
from longcat.corpus.shards import Batch
from longcat.model.context import Phase
from longcat.model.transformer import LongcatModel
from longcat.ops.registry import OperatorSettings
from longcat.padding import IGNORE, is_padding
from longcat.parallel.mesh import ProcessMesh
from longcat.parallel.parallelize import parallelize
from longcat.training.balance import bias_update_rate, update_router_bias
from longcat.training.losses import Counts, losses, weighted_total
from longcat.training.optimizer import build_optimizers, set_learning_rate
from longcat.training.regions import OPTIMIZER
from longcat.training.schedule import learning_rate


@dataclass(frozen=True)
class StepResult:
    """What one step showed, the same in every process."""

    loss: float
    """Mean negative log-likelihood in nats a target, over the whole batch."""
    auxiliary: dict[str, float]
    """What else is learnt, unweighted means over the batch, by the names in `longcat.training.losses.AUXILIARY`."""
    gradient_norm: float
    """Global norm before clipping."""
    learning_rate: float
    expert_load: Tensor
    """Slots given to each expert, `[layers, n_routed_experts + zero_expert_num]`, over the whole batch."""
    skipped: bool
    """Loss or gradients were not finite, and nothing was updated."""
    stop: bool
    """Some process was asked to stop."""


class Trainer:
    """Model, optimizer and the step that joins them."""

    def __init__(self, config: PipelineConfig, mesh: ProcessMesh, accelerator: Accelerator, precision: str) -> None:
        self.config, self.mesh = config, mesh
        model = LongcatModel(config.model, OperatorSettings(config.training.reference_operators))
        model.initialize(config.seed)
        self.compute = compute = torch.bfloat16 if precision == "bf16" else torch.float32
        self.model = model.train()
        model.model.activation_checkpointing = config.training.activation_checkpointing == "full"
        self.parallel = parallelize(model, mesh, compute, config.training.compile)
        self.weights = self.parallel.weights
        """The fp32 weights: what optimizers move and checkpoints hold, under the model's names."""
        self.optimizers = build_optimizers(self.weights, config.training.optimizer, compute)
        self.routers = [layer.mlp.router for layer in self.model.blocks]
        self.micro_batch = config.training.micro_batch_sequences
        self.micro_batches = 0
        """Of the last step."""
        self._parameters = [parameter for parameter in self.weights.parameters() if parameter.requires_grad]

    def step(self, step: int, batch: Batch, stop: bool = False) -> StepResult:
        """Learn from this process' share of a batch.

        Args:
            step: 0-based number of the step.
            batch: what to learn from.
            stop: this process was asked to stop; every process learns of it through the result.
        """
        whole = [torch.from_numpy(of).to(self.mesh.device) for of in (batch.tokens, batch.targets, batch.documents)]
        counts = global_counts(whole[1], whole[2], self.mesh)
        phase = phase_of(step, self.config.training)
        self.parallel.zero_grad()
        means: dict[str, Tensor] = {}
        load: Tensor | None = None
        parts = list(zip(*(tensor.split(self.micro_batch or len(tensor)) for tensor in whole), strict=True))
        self.micro_batches = len(parts)
        for index, (tokens, targets, documents) in enumerate(parts):
            apart = documents if self.config.training.mask_documents else None
            sums = self.parallel.sums(tokens, targets, phase, apart, padding=is_padding(documents))
            parts_of_loss = losses(sums, counts, self.config)
            self.parallel.backward(weighted_total(parts_of_loss, self.config), last=index == len(parts) - 1)
            for name, value in parts_of_loss.items():
                means[name] = means[name] + value.detach() if name in means else value.detach()
            load = sums.router_load if load is None else load + sums.router_load
        assert load is not None

        for parameter in self._parameters:
            if parameter.grad is None:  # an indexer at rest
                parameter.grad = torch.zeros_like(parameter)
        agreed, square, load, stop = self._agree(means, load, stop)
        norm = square**0.5
        loss = agreed.pop("language_model")
        training = self.config.training
        rate = learning_rate(step, training.steps, training.optimizer)
        healthy = bool(np.isfinite([loss, norm, *agreed.values()]).all())
        if healthy:
            with torch.profiler.record_function(OPTIMIZER):
                self._clip(norm)
                set_learning_rate(self.optimizers, rate, only_indexer=phase == "warmup")
                for optimizer in self.optimizers:
                    optimizer.step()
                self.parallel.write_weights()
                mu = bias_update_rate(step, training.steps, training.balance)
                for router, slots in zip(self.routers, load, strict=True):
                    update_router_bias(router.e_score_correction_bias, slots, self.config.model, training.balance, mu)
        return StepResult(loss, agreed, norm, rate, load, skipped=not healthy, stop=stop)

    def _agree(
        self, means: dict[str, Tensor], load: Tensor, stop: bool
    ) -> tuple[dict[str, float], float, Tensor, bool]:
        """Sum losses, squared gradient norm, expert loads and requests to stop over the processes that have parts of them."""
        square = get_total_norm([_local(parameter.grad) for parameter in self._parameters]).square()
        summed = self.mesh.sum(
            {
                "losses": torch.stack(list(means.values())),
                "gradient_square": square,
                "stop": torch.full_like(square, float(stop)),
                "expert_load": load,
            }
        )
        numbers = torch.cat([summed["losses"], summed["gradient_square"].view(1), summed["stop"].view(1)])
        *values, total, stops = numbers.tolist()  # the host waits for the device once
        return dict(zip(means, values, strict=True)), total, summed["expert_load"], stops > 0

    @torch.no_grad()
    def _clip(self, norm: float) -> None:
        limit = self.config.training.optimizer.max_gradient_norm
        if norm > limit:
            for parameter in self._parameters:
                _local(parameter.grad).mul_(limit / norm)


def global_counts(targets: Tensor, documents: Tensor, mesh: ProcessMesh) -> Counts:
    """Count the tokens and targets of the whole batch, from this process' rows of it. Collective.

    Processes have different amounts of padding, so their counts are summed before the first loss is divided. The sums
    stay on the device, so that the host does not wait for them.
    """
    counts = torch.stack([(~is_padding(documents)).sum(), (targets != IGNORE).sum()])
    return Counts(*mesh.sum({"counts": counts})["counts"].clamp_min(1))


def phase_of(step: int, training: TrainingConfig) -> Phase:
    """How attention is trained in a step, if it is sparse: dense first, then the indexer alone, then sparse."""
    if step < training.dense_attention_steps:
        return "dense"
    return "warmup" if step < training.dense_attention_steps + training.indexer_warmup_steps else "sparse"


def _local(gradient: Tensor | None) -> Tensor:
    """This process' part of a gradient; every parameter has one, an expert without tokens zeros."""
    assert gradient is not None
    to_local = getattr(gradient, "to_local", None)
    return to_local() if to_local is not None else gradient
