"""One optimizer step of LongCat pre-training, the same in every process. Knows nothing of files or orchestration."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from longcat.accelerator import Accelerator
from longcat.config import ModelConfig, Phase, PipelineConfig, TrainingConfig
from longcat.corpus.shards import Batch
from longcat.model.plan import to_host
from longcat.model.recomputation import use_recomputation
from longcat.model.transformer import LongcatModel, LossSums
from longcat.ops.registry import OperatorSettings
from longcat.padding import IGNORE, is_padding
from longcat.parallel.accumulate import MicroBatch
from longcat.parallel.context import statistics_of_rows
from longcat.parallel.data import reshard
from longcat.parallel.gradients import LocalGradient, clip, holders, local_gradients, squared_norms, sum_parts
from longcat.parallel.mesh import ProcessMesh
from longcat.parallel.parallelize import parallelize
from longcat.training.balance import bias_update_rate, update_router_bias
from longcat.training.lazy_adamw import LazyAdamW
from longcat.training.losses import Counts, losses, weighted_total
from longcat.training.offload import OffloadedStates
from longcat.training.optimizer import build_optimizers, set_learning_rate
from longcat.training.regions import COMPUTE, OPTIMIZER
from longcat.training.schedule import learning_rate


@dataclass(frozen=True)
class StepResult:
    """Result of one optimizer step, the same in every process."""

    loss: float
    """Mean negative log-likelihood in nats per target, over the global batch."""
    auxiliary: dict[str, float]
    """Unweighted auxiliary losses, by the names in `longcat.training.losses.AUXILIARY`."""
    gradient_norm: float
    """Global norm before clipping."""
    learning_rate: float
    expert_load: Tensor
    """Slots given to each expert, `[layers, n_routed_experts + zero_expert_num]`, over the global batch."""
    router_entropy: Tensor
    """Mean entropy of the router's probabilities per token, in nats, `[layers]`."""
    router_top_probability: Tensor
    """Mean of the largest probability per token, `[layers]`."""
    skipped: bool
    """Whether loss or gradients were not finite, so that nothing was updated."""
    stop: bool
    """Whether some process was asked to stop."""


class Trainer:
    """Model, optimizers and the training step."""

    def __init__(self, config: PipelineConfig, mesh: ProcessMesh, accelerator: Accelerator, precision: str) -> None:
        self.config, self.mesh = config, mesh
        with torch.device("meta"):  # no process ever holds more of a spread model than its part
            model = LongcatModel(config.model, OperatorSettings(config.training.reference_operators))
        self.compute = compute = torch.bfloat16 if precision == "bf16" else torch.float32
        model.train()
        use_recomputation(model, config.training.activation_checkpointing)
        training = config.training
        self.parallel = parallelize(
            model,
            mesh,
            compute,
            training.compile,
            settings=config.parallel,
            rows_alone=training.optimizer.lazy_ngram_moments,
            seed=config.seed,
            memory_bytes=accelerator.memory_bytes,
        )
        self.model = self.parallel.parts[0]
        """The model, or the first part of it that this process computes."""
        self.weights = self.parallel.weights
        """The fp32 weights: what optimizers move and checkpoints hold, under the model's names."""
        self.optimizers = build_optimizers(
            self.weights,
            training.optimizer,
            compute,
            self.parallel.tables,
            training.steps,
            partial(mesh.share, "matrices of Muon"),
            partial(holders, mesh=mesh),
        )
        self.offloaded = OffloadedStates(self.optimizers) if training.optimizer.offload else None
        self.routers = [layer.mlp.router for part in self.parallel.parts for layer in part.blocks]
        self.layers = [number for part in self.parallel.parts for number in part.part.layers]
        """Numbers of the layers that this process computes."""
        self.micro_batch = config.training.micro_batch_sequences
        self.micro_batches = 0
        """Micro-batches of the last step."""
        self.gradients: list[LocalGradient] = []
        """This process' parts of the gradients of all that has learnt in the last step."""
        self._indexers_alone: bool | None = None
        """Whether nothing but indexers learnt in the last step; None before the first one."""
        self.region: Callable[[str], AbstractContextManager[object]] = torch.profiler.record_function
        """Opens a region of `longcat.training.regions`."""

    def step(self, step: int, batch: Batch, stop: bool = False) -> StepResult:
        """Train on a batch. Collective.

        Args:
            step: 0-based number of the step.
            batch: this process' rows of the global batch.
            stop: whether this process was asked to stop; the result tells every process whether any was.
        """
        whole = [torch.from_numpy(of).to(self.mesh.device) for of in (batch.tokens, batch.targets, batch.documents)]
        counts = global_counts(whole[1], whole[2], self.mesh)
        phase = self._begin(step)
        self.gradients = []  # of the step before
        if self.offloaded is not None:
            self.offloaded.release()  # a checkpoint may have been written
        batch_parts = self._micro_batches(whole, self.micro_batch or len(whole[0]))
        self.micro_batches = len(batch_parts)
        seen = _Seen(self.config.model, self.mesh.device)

        def learn(number: int, sums: LossSums, layers: range) -> Tensor:
            parts = losses(statistics_of_rows(sums, self.mesh), counts, self.config, self.mesh.row_processes)
            seen.note((number, layers.start), parts, sums, layers)
            return weighted_total(parts, self.config, phase)

        with self.region(COMPUTE):
            self.parallel.accumulate(batch_parts, phase, learn)
        means, routing = seen.means(), seen.routing()
        sum_parts(self.weights.parameters(), self.mesh)
        self.gradients = local_gradients(self.weights.parameters(), self.parallel.tables, self.parallel.copies)
        agreed, square, routing, stop = self._agree(means, routing, stop)
        load, entropy, top_probability = routing[:, :-2], routing[:, -2], routing[:, -1]
        routed_tokens = (load.sum(1) / self.config.model.moe_topk).clamp_min(1)
        norm = square**0.5
        loss = agreed.pop("language_model")
        training = self.config.training
        rate = learning_rate(step, training.steps, training.optimizer)
        healthy = bool(np.isfinite([loss, norm, *agreed.values()]).all())
        if healthy:
            with self.region(OPTIMIZER):
                clip(self.gradients, norm, training.optimizer.max_gradient_norm)
                set_learning_rate(self.optimizers, rate)
                for optimizer in self.optimizers:
                    if self.offloaded is None:
                        optimizer.step()
                    else:
                        self.offloaded.step(optimizer)
                self.parallel.write_weights()
                if phase != "warmup":
                    self._update_biases(step, load)
        return StepResult(
            loss,
            agreed,
            norm,
            rate,
            load,
            entropy / routed_tokens,
            top_probability / routed_tokens,
            skipped=not healthy,
            stop=stop,
        )

    def try_out(self, step: int, batch: Batch, see: Callable[[str, Sequence[Tensor]], None]) -> None:
        """Compute the gradients of the first micro-batch of a step, of all of them in a pipeline, and move nothing. Collective.

        Args:
            step: 0-based number of the step.
            batch: rows as for `step`.
            see: gets the sums of loss terms that this process has computed, by a name.
        """
        whole = [torch.from_numpy(of).to(self.mesh.device) for of in (batch.tokens, batch.targets, batch.documents)]
        size = self.micro_batch or len(whole[0])
        if self.mesh.degrees.pipeline == 1:
            whole = [of[:size] for of in whole]
        counts = global_counts(whole[1], whole[2], self.mesh)
        phase = self._begin(step)

        def learn(number: int, sums: LossSums, layers: range) -> Tensor:
            see(f"the sums of micro-batch {number} from layer {layers.start} on", sums)
            parts = losses(statistics_of_rows(sums, self.mesh), counts, self.config, self.mesh.row_processes)
            return weighted_total(parts, self.config, phase)

        self.parallel.accumulate(self._micro_batches(whole, size), phase, learn)

    def _begin(self, step: int) -> Phase:
        """Drop the gradients, and let those parameters have new ones that learn in a step. Collective where these are others."""
        phase = phase_of(step, self.config.training)
        alone, before = phase == "warmup", self._indexers_alone
        for part in self.parallel.parts:
            for name, parameter in part.named_parameters():  # what rests is not even differentiated
                parameter.requires_grad_(not alone or ".indexer." in name)
        if before is not None and alone != before:
            self.parallel.gather()  # when FSDP gathers it notes the types of gradients, but only of what learns by then
            for part in self.parallel.parts:
                reshard(part)
        self._indexers_alone = alone
        self.parallel.zero_grad()
        return phase

    @torch.no_grad()
    def held_out_loss(self, step: int, batch: Batch) -> float:
        """Return the mean negative log-likelihood of a batch in nats per target, as training computes it. Collective.

        Args:
            step: number of the step whose attention is used: dense before the indexers have been trained.
            batch: this process' rows of the held-out ones, equally many in every process.
        """
        phase: Phase = "sparse" if phase_of(step, self.config.training) == "sparse" else "dense"
        rows = [torch.from_numpy(of).to(self.mesh.device) for of in (batch.tokens, batch.targets, batch.documents)]
        counts = global_counts(rows[1], rows[2], self.mesh)
        size = self.micro_batch or max(1, self.config.training.global_batch_sequences // self.mesh.batch_world)
        found: dict[tuple[int, int], Tensor] = {}

        def note(number: int, sums: LossSums, layers: range) -> Tensor:
            found[number, layers.start] = sums.language_model
            return sums.language_model

        with torch.compiler.set_stance("force_eager"):
            self.parallel.evaluate(self._micro_batches(rows, size), phase, note)
        total = sum(found.values(), torch.zeros((), device=self.mesh.device))
        for part in self.parallel.parts:
            reshard(part)
        return float(self.mesh.sum({"losses": total / counts.targets})["losses"])

    def sample(self, prompt: list[int], count: int) -> list[int]:
        """Continue a prompt by `count` tokens, the likeliest one each time. Collective: every process does the same.

        The end of text does not end it: processes may differ in the last bit, and have to make the same number of tokens.
        """
        self.parallel.gather()
        for part in self.parallel.parts:
            part.eval()
        with torch.compiler.set_stance("force_eager"):
            tokens = self.parallel.sample(prompt, count)
        for part in self.parallel.parts:
            part.train()
            reshard(part)
        return tokens

    def settle_weights(self) -> None:
        """Make up for what optimizers have put off, so that the weights can be read as they are."""
        for optimizer in self.optimizers:
            if isinstance(optimizer, LazyAdamW):
                optimizer.settle()

    def _micro_batches(self, whole: Sequence[Tensor], size: int) -> list[MicroBatch]:
        """Cut tokens, targets and documents `[rows, seq]` into micro-batches of so many rows."""
        apart = self.config.training.mask_documents
        return [
            MicroBatch(tokens, targets, is_padding(documents), documents if apart else None)
            for tokens, targets, documents in zip(*(of.split(size) for of in whole), strict=True)
        ]

    def _update_biases(self, step: int, load: Tensor) -> None:
        training = self.config.training
        mu = bias_update_rate(step, training.steps, training.balance)
        for router, number in zip(self.routers, self.layers, strict=True):
            update_router_bias(router.e_score_correction_bias, load[number], self.config.model, training.balance, mu)

    def _agree(
        self, means: dict[str, Tensor], load: Tensor, stop: bool
    ) -> tuple[dict[str, float], float, Tensor, bool]:
        """Sum losses, squared gradient norm, expert loads and requests to stop over the processes that have parts of them."""
        squares = squared_norms(self.gradients, self.mesh)
        losses = torch.stack(list(means.values()))
        summed = self.mesh.sum(
            {"losses": losses, **squares, "stop": torch.full_like(losses[0], float(stop)), "expert_load": load}
        )
        square = torch.stack([summed[name] for name in squares]).sum()
        numbers = torch.cat([summed["losses"], square.view(1), summed["stop"].view(1)])
        # the host waits for the device once
        *values, total, stops = to_host(numbers, lambda: [0.0] * len(numbers))
        return dict(zip(means, values, strict=True)), total, summed["expert_load"], stops > 0


class _Seen:
    """What a step's micro-batches have shown, by their number and the first layer of the part of the model."""

    def __init__(self, model: ModelConfig, device: torch.device) -> None:
        self._shape = model.num_layers, model.n_routed_experts + model.zero_expert_num + 2
        self._device = device
        self._losses: dict[tuple[int, int], dict[str, Tensor]] = {}
        self._routing: dict[tuple[int, int], Tensor] = {}
        self._layers: dict[tuple[int, int], range] = {}

    def note(self, key: tuple[int, int], parts: dict[str, Tensor], sums: LossSums, layers: range) -> None:
        """Keep what a part of the model has made of a micro-batch; what was noted of the same before is replaced."""
        self._losses[key] = {name: value.detach() for name, value in parts.items()}
        columns = sums.router_load, sums.router_entropy[:, None], sums.router_top_probability[:, None]
        self._routing[key], self._layers[key] = torch.cat(columns, dim=1), layers

    def means(self) -> dict[str, Tensor]:
        """Return this process' part of each loss."""
        first, *others = self._losses.values()
        total = dict(first)
        for parts in others:
            total = {name: total[name] + value for name, value in parts.items()}
        return total

    def routing(self) -> Tensor:
        """Return this process' part of the routers' statistics, fp32 `[layers, experts + 2]`; other layers' are 0."""
        total = torch.zeros(self._shape, device=self._device)
        for key, statistics in self._routing.items():
            total[self._layers[key].start : self._layers[key].stop] += statistics
        return total


def global_counts(targets: Tensor, documents: Tensor, mesh: ProcessMesh) -> Counts:
    """Count the tokens and targets of the whole batch, from this process' rows of it. Collective.

    Processes have different amounts of padding, so their counts are summed before the first loss is divided. The sums
    stay on the device, so that the host does not wait for them.
    """
    counts = torch.stack([(~is_padding(documents)).sum(), (targets != IGNORE).sum()])
    return Counts(*mesh.sum({"counts": counts})["counts"].clamp_min(1))


def phase_of(step: int, training: TrainingConfig) -> Phase:
    """Return how sparse attention is trained in a step: dense first, then the indexers alone, then sparse."""
    if step < training.dense_attention_steps:
        return "dense"
    return "warmup" if step < training.dense_attention_steps + training.indexer_warmup_steps else "sparse"
