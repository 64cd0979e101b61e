"""Memory of one layout by component: LongCat's by the formulas that its dry run agrees with, others' by products' shapes."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from longcat.config import ParallelConfig, TrainingConfig
from longcat.costs.decoder_memory import DecoderMemory, Divided, Habits, Sizes, decoder_memory, held_parameters
from longcat.costs.memory import TrainingMemory, training_memory
from longcat.parallel.asked import spread_of
from longcat.plan.layout import Layout
from longcat.plan.model import Model
from longcat.plan.stacks import Kernels, Stack


@dataclass(frozen=True)
class Needed:
    """Memory of the process that needs most."""

    peak_bytes: float
    parts: dict[str, float]

    def fits(self, memory_bytes: float, reserve_bytes: float) -> bool:
        """Say whether a device has it, beside what the driver takes."""
        return self.peak_bytes + reserve_bytes <= memory_bytes


def needed(model: Model, layout: Layout, stack: Stack, kernels: Kernels, memory_bytes: float) -> Needed:
    """Return the memory that a layout needs in the process that needs most."""
    if model.own is not None:
        own = own_memory(model, layout, memory_bytes)
        return Needed(own.peak, own.parts())
    stages = [other_memory(model, layout, stack, kernels, place) for place in {0, layout.degrees.pipeline - 1}]
    worst = max(stages, key=lambda one: one.peak)
    return Needed(worst.peak, worst.parts())


def configured(model: Model, layout: Layout) -> tuple[TrainingConfig, ParallelConfig]:
    """Return the sections of LongCat's configuration that stand for a layout."""
    assert model.own is not None
    training = model.own.training.model_copy(
        update={
            "global_batch_sequences": layout.batch.sequences,
            "micro_batch_sequences": layout.micro_batch,
            "activation_checkpointing": layout.recompute,
            "processes": layout.degrees.processes,
        }
    )
    degrees = layout.degrees
    parallel = model.own.parallel.model_copy(
        update={
            "pipeline": degrees.pipeline, "replicate": degrees.replicate, "shard": degrees.shard, "context": degrees.context,
            "tensor": degrees.tensor, "expert": degrees.expert, "schedule": layout.schedule,
        }
    )  # fmt: skip
    return training, parallel


def own_memory(model: Model, layout: Layout, memory_bytes: float) -> TrainingMemory:
    """Return LongCat's memory, which the tests compare with a dry run."""
    assert model.own is not None
    training, parallel = configured(model, layout)
    return training_memory(
        model.own.model, training, spread_of(layout.degrees), "bf16", parallel, layout.batch.sequence_length, memory_bytes, "npu"
    )  # fmt: skip


@lru_cache(maxsize=64)
def sizes_of(model: Model) -> Sizes:
    """Return the sizes that memory depends on."""
    words = model.hidden * model.workload.vocabulary
    return Sizes(
        model.products,
        model.hidden,
        model.workload.vocabulary,
        model.layers,
        model.sublayers,
        model.workload.total_parameters,
        sum(one.layers * one.heads for one in model.attentions),
        tied=model.workload.embedding_parameters < words / 2,
    )


def divided(layout: Layout, place: int) -> Divided:
    """Return how a stage of a layout is divided."""
    degrees = layout.degrees
    waiting = {"1f1b": degrees.pipeline - place, "interleaved": degrees.pipeline - place + (degrees.pipeline - 1) / 2}
    in_flight = waiting.get(layout.schedule, degrees.pipeline) if degrees.pipeline > 1 else 1.0
    return Divided(
        tensor=degrees.tensor,
        expert=degrees.expert,
        data=layout.data * degrees.context,
        expert_data=degrees.expert_shard * degrees.expert_replicate,
        pipeline=degrees.pipeline,
        place=place,
        in_flight=min(in_flight, layout.micro_batches),
        tokens=layout.tokens,
        sequence_length=layout.batch.sequence_length,
        recompute=layout.recompute,
    )


def other_memory(model: Model, layout: Layout, stack: Stack, kernels: Kernels, place: int) -> DecoderMemory:
    """Return the memory of a process of another family's model, at a place of the pipeline."""
    habits = Habits(
        stack.tokens_divided,
        stack.gradient_bytes,
        stack.copies,
        kernels.norm_copies if not stack.tokens_divided or stack.name == "scaling" else 0.0,
        kernels.score_bytes,
        stack.logits_divided_bytes,
        stack.logits_whole_bytes,
        stack.layer_bytes,
        stack.recompute_copies,
    )
    return decoder_memory(sizes_of(model), divided(layout, place), habits)


def other_parameters(model: Model, layout: Layout) -> tuple[float, float]:
    """Return the parameters that a process of the first stage holds: all but routed experts, and these."""
    return held_parameters(sizes_of(model), divided(layout, 0))
