"""What a training has cost: time of its devices, floating-point operations, and money where a price is configured."""

from __future__ import annotations

from longcat.config import PipelineConfig
from longcat.costs.flops import training_flops_per_token
from longcat.interchange.checkpoint_facts import CheckpointFacts


def spent_by(config: PipelineConfig, facts: CheckpointFacts, seconds: float) -> dict[str, float]:
    """Return device-hours, tokens, FLOP and money by name.

    Device-hours are those of the last layout's processes over the whole time, an hour of a processor's process where there is
    no accelerator. FLOP are useful ones: forward and backward passes with causal attention, without recomputation.

    Args:
        config: model, length of sequences and price.
        facts: of the checkpoint.
        seconds: that its training took, pauses left out.
    """
    hours = facts.processes * seconds / 3600
    per_token = training_flops_per_token(
        config.model, config.corpus.sequence_length_tokens, facts.ffn_experts_per_token
    )
    figures = {
        "cost/device_hours": hours,
        "cost/tokens": float(facts.tokens),
        "cost/flops": facts.tokens * sum(per_token.values()),
    }
    if config.price_per_device_hour is not None:
        figures["cost/money"] = hours * config.price_per_device_hour
    return figures
