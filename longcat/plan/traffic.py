"""What a process sends in a step, by axis: of LongCat as its own code does, of other families as Megatron's layouts do."""

from __future__ import annotations

from dataclasses import dataclass

from longcat.config import ModelConfig
from longcat.costs.flops import expected_ffn_experts
from longcat.costs.traffic import Step, bus_factor, place_traffic
from longcat.plan.efficiency import NUMBER_BYTES
from longcat.plan.layout import Layout
from longcat.plan.model import Model
from longcat.plan.stacks import Stack

EXPOSED = {
    "dense_shard": 0.3, "expert_shard": 0.3, "expert": 0.5, "hidden states": 0.5, "embedding": 0.3, "replicate": 0.5,
    "expert_replicate": 0.5,
}  # fmt: skip
"""Share of an axis' time that nothing hides, where the code sends beside its work; 1 for other axes. Estimates: `longcat
benchmark` measures them (`--calibration`)."""


@dataclass(frozen=True)
class Sent:
    """What leaves a process along an axis in a step."""

    axis: str
    link_bytes: float
    messages: float
    exposed: float
    """Share of the time that nothing hides."""


def traffic_of(
    model: ModelConfig, layout: Layout, memory_bytes: float, spread_tables: bool
) -> tuple[dict[str, int], Step]:
    """Return degrees and work of a process, as `longcat.costs.traffic` takes them."""
    degrees = layout.degrees
    names = (
        "pipeline", "replicate", "context", "tensor", "expert", "dense_shard", "expert_shard", "expert_replicate", "embedding",
    )  # fmt: skip
    tokens = layout.batch.tokens / (layout.data * degrees.context * degrees.tensor)
    step = Step(
        tokens=round(tokens),
        micro_batches=layout.micro_batches,
        element_bytes=NUMBER_BYTES,
        ffn_experts=expected_ffn_experts(model),
        recomputed=layout.recompute == "full",
        spread_tables=spread_tables,
        table_rows=tokens * model.ngram.branches if model.ngram is not None and spread_tables else None,
        memory_bytes=memory_bytes,
        schedule=layout.schedule,
    )
    return {name: getattr(degrees, name) for name in names}, step


def own_sent(model: ModelConfig, layout: Layout, place: int, memory_bytes: float, spread_tables: bool) -> list[Sent]:
    """Return what the real code sends, by the formulas that its tests compare with a dry run."""
    degrees, step = traffic_of(model, layout, memory_bytes, spread_tables)
    sublayers = 2 * model.num_layers / degrees["pipeline"] * layout.micro_batches
    return [
        Sent(
            axis,
            size,
            4 * sublayers if axis in ("tensor", "context", "expert") else layout.micro_batches,
            EXPOSED.get(axis, 1.0),
        )
        for axis, size in place_traffic(model, degrees, step, place).items()
    ]


def other_sent(model: Model, layout: Layout, stack: Stack, parameters: float, expert_parameters: float) -> list[Sent]:
    """Return what a layout of another family sends in a stage.

    Args:
        model: the model.
        layout: the layout; parameters are whole in each process but for heads and experts, the optimizer's state is sharded.
        stack: the software.
        parameters: that a process holds, without routed experts.
        expert_parameters: of its routed experts.
    """
    degrees, count = layout.degrees, layout.micro_batches
    state = layout.tokens * model.hidden * NUMBER_BYTES
    layers = model.layers / degrees.pipeline
    ends = sum(one.layers for one in model.products if one.divided == "inputs") / degrees.pipeline
    passes = 3 if layout.recompute == "full" else 2
    found = []
    if degrees.tensor > 1:
        gathers = passes + (0.5 if stack.tokens_divided else 0.0)
        size = ends * gathers * state * bus_factor("all_reduce", degrees.tensor)
        found.append(Sent("tensor", count * size, count * ends * passes, 1.0))
    if degrees.context > 1:
        keys = layout.tokens * model.key_numbers * NUMBER_BYTES / degrees.tensor
        size = layers * (passes + 1) * keys * (degrees.context - 1)
        found.append(Sent("context", count * size, count * layers * passes * (degrees.context - 1), 0.5))
    if degrees.expert > 1 and model.experts > 1:
        routed = [one for one in model.products if one.routed and one.kept]
        rows = sum(one.layers * one.chosen * one.inputs for one in routed) / degrees.pipeline
        size = 2 * passes * rows * layout.tokens / degrees.tensor * NUMBER_BYTES
        messages = 2 * passes * sum(one.layers for one in routed) / degrees.pipeline
        found.append(Sent("expert", count * size * bus_factor("all_to_all", degrees.expert), count * messages, 1.0))
    if degrees.pipeline > 1:
        sent = state / degrees.tensor if stack.tokens_divided else state
        found.append(Sent("hidden states", 2 * count * sent, 2 * count, 1.0))
    of = stack.gradient_sent_bytes + NUMBER_BYTES
    if layout.data * degrees.context > 1:
        shards = layout.data * degrees.context
        found.append(Sent("dense_shard", of * parameters * bus_factor("all_gather", shards), 2, 1.0))
    if degrees.expert_shard * degrees.expert_replicate > 1 and expert_parameters:
        shards = degrees.expert_shard * degrees.expert_replicate
        found.append(Sent("expert_shard", of * expert_parameters * bus_factor("all_gather", shards), 2, 1.0))
    return found
