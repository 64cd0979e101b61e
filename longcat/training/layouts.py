"""The layouts that a run is trained in, one after the other, and what changing them means for its numbers."""

from __future__ import annotations

from collections.abc import Sequence

from longcat.config import PipelineConfig
from longcat.interchange.checkpoint_facts import LayoutSince
from longcat.training.layout import ParallelLayout


def layout_since(config: PipelineConfig, layout: ParallelLayout, device: str, step: int) -> LayoutSince:
    """Return the record of a layout that training goes on in after a step.

    Args:
        config: sections `training` and `parallel`.
        layout: as it was settled.
        device: name of the accelerator.
        step: steps before it.
    """
    degrees, training = layout.degrees, config.training
    rows = training.global_batch_sequences // degrees.batch_world
    return LayoutSince(
        from_step=step,
        processes=degrees.processes,
        parallel=degrees.by_axis,
        settings={
            name: value for name, value in config.parallel if name not in degrees.by_axis and name != "devices_per_node"
        },
        micro_batch_sequences=min(training.micro_batch_sequences or rows, rows),
        device=device,
    )


def going_on(history: Sequence[LayoutSince], now: LayoutSince) -> tuple[LayoutSince, ...]:
    """Return the layouts of a run that goes on in another one, or in the same one."""
    if history and history[-1].numbers == now.numbers:
        return tuple(history)
    return (*(one for one in history if one.from_step < now.from_step), now)


def change(before: LayoutSince, now: LayoutSince) -> str | None:
    """Say how the numbers of a run differ that goes on in another layout; None if it is the same one."""
    if before.numbers == now.numbers:
        return None
    told = f"trained on {before}; now on {now}"
    if before.device != now.device:
        told = f"trained on {before}, {before.device}; now on {now}, {now.device}"
    elif str(before) == str(now):
        names = sorted(name for name in now.settings if before.settings.get(name) != now.settings[name])
        named = ", ".join(f"parallel.{name}={now.settings[name]}" for name in names) or "other micro-batches"
        told = f"trained on {before}; now with {named}"
    told += ": numbers equal within rounding, not to the bit"
    if before.micro_batch_sequences != now.micro_batch_sequences:
        told += (
            f", but for the balance loss, which is a mean over micro-batches: of {before.micro_batch_sequences} rows then, of "
            f"{now.micro_batch_sequences} now (training.micro_batch_sequences sets it)"
        )
    return told
