"""The layout that a configuration asks for, and how one spreads what takes memory. No torch."""

from __future__ import annotations

from dataclasses import fields

from longcat.config import PipelineConfig
from longcat.costs.memory import Spread
from longcat.parallel.axes import Degrees, Wish


def wish_of(config: PipelineConfig, processes: int) -> Wish:
    """Return the layout that a configuration asks for, with as many processes."""
    training, asked = config.training, {field.name for field in fields(Wish)}
    return Wish(
        processes,
        **{name: value for name, value in config.parallel if name in asked},
        batch_sequences=training.global_batch_sequences,
        micro_batch_sequences=training.micro_batch_sequences,
        routed_experts=config.model.n_routed_experts,
        layers=config.model.num_layers,
        sequence_length=config.corpus.sequence_length_tokens,
        vocabulary=config.model.vocab_size or 0,
        widths=(
            ("model.num_attention_heads", config.model.num_attention_heads),
            ("model.ffn_hidden_size", config.model.ffn_hidden_size),
        ),
    )


def spread_of(degrees: Degrees) -> Spread:
    """Return how a layout spreads what takes memory."""
    return Spread(
        processes=degrees.processes,
        stages=degrees.pipeline,
        dense=degrees.dense_shard,
        holders=degrees.expert,
        expert=degrees.expert * degrees.expert_shard,
        tables=degrees.embedding,
        tokens=degrees.context * degrees.tensor,
        heads=degrees.tensor,
        batch=degrees.batch_world,
    )
