"""Learning-rate schedules: linear warm-up, then one of the courses of `training.optimizer.schedule`.

* `cosine`: half a cosine down to a fraction of the peak (arXiv 1608.03983, eq. 5, without restarts).
* `wsd`: warm-up, stable, decay: the peak, and a fall to that fraction over the last steps (MiniCPM, arXiv 2404.06395, section 4).
  Forms of the fall over x from 0 to 1: 1 - x, 1 - sqrt(x), (1 + cos(pi x)) / 2; the second one ended lowest in arXiv 2405.18392.
* `constant`: the peak to the end.
"""

from __future__ import annotations

import math

from longcat.config import OptimizerConfig


def learning_rate(step: int, steps: int, config: OptimizerConfig) -> float:
    """Return the learning rate of optimizer step `step` (0-based) of `steps`."""
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    if config.schedule == "constant":
        return config.learning_rate
    floor = config.final_learning_rate_fraction
    if config.schedule == "wsd":
        begin = decay_begin(steps, config)
        if step < begin:
            return config.learning_rate
        progress = min(1.0, (step + 1 - begin) / max(1, steps - begin))
        return config.learning_rate * (floor + (1 - floor) * _remaining(progress, config))
    progress = min(1.0, (step - config.warmup_steps) / max(1, steps - config.warmup_steps))
    return config.learning_rate * (floor + (1 - floor) * (1 + math.cos(math.pi * progress)) / 2)


def decay_begin(steps: int, config: OptimizerConfig) -> int:
    """Return the first step (0-based) below the peak with `wsd`: one decays at least, and never before the warm-up's end."""
    decaying = max(1, round(steps * config.decay_fraction))
    return max(config.warmup_steps, steps - decaying)


def _remaining(progress: float, config: OptimizerConfig) -> float:
    """Return what is left of the way from the peak to the final rate, from 1 to 0."""
    if config.decay_form == "linear":
        return 1 - progress
    if config.decay_form == "sqrt":
        return 1 - math.sqrt(progress)
    return (1 + math.cos(math.pi * progress)) / 2
