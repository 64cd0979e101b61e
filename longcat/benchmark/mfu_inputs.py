"""Inputs of `longcat mfu` that need more than a look: the model and the parallel layout."""

from __future__ import annotations

import math
import re
from pathlib import Path

from longcat.config import load_config, preset_names, target_ffn_experts
from longcat.costs.families import read_workload
from longcat.costs.workload import Workload, longcat_workload
from longcat.errors import ConfigError

_OWN_DEVICES = ("dp", "dp_shard", "dp_replicate", "fsdp", "tp", "sp", "cp", "pp")
_SAME_DEVICES = ("ep", "etp", "vpp")
"""Degrees that take no devices of their own: experts and virtual stages use the devices of other axes."""


def find_workload(model: str, ffn_experts: float | None = None, *, mtp: bool = False) -> Workload:
    """Read the workload of a preset, a config.json or a folder with one.

    Args:
        model: name of a preset, or a path.
        ffn_experts: mean routed experts per token, as measured; for models with zero-computation experts.
        mtp: count DeepSeek's layers of multi-token prediction as well.

    Raises:
        ConfigError: the model is not found or its configuration cannot be used.
    """
    if model in preset_names():
        if mtp:
            raise ConfigError(
                f"preset {model} already sets its multi-token prediction; --mtp is for DeepSeek's config.json"
            )
        config = load_config(model)
        target = target_ffn_experts(config.model, config.training.balance) if ffn_experts is None else ffn_experts
        return longcat_workload(config.model, target)
    path = Path(model).expanduser()
    if not path.exists():
        raise ConfigError(f"{model} is neither a file nor a preset; the presets are {', '.join(preset_names())}")
    return read_workload(path, ffn_experts, mtp=mtp)


def check_layout(layout: str, devices: int) -> None:
    """Check that degrees such as `tp8,pp4` or `dp=4,tp=2` fit the number of devices.

    Raises:
        ConfigError: they do not fit, or cannot be parsed.
    """
    degrees: dict[str, int] = {}
    for part in layout.replace(" ", "").split(","):
        match = re.fullmatch(r"([a-z_]+)[=:]?([1-9][0-9]{0,8})", part.lower())
        if not match:
            raise ConfigError(f"--layout {layout}: {part!r} is not a degree such as tp8 or pp=4")
        if match[1] not in (*_OWN_DEVICES, *_SAME_DEVICES):
            raise ConfigError(
                f"--layout {layout}: unknown degree {match[1]}; there are: {', '.join([*_OWN_DEVICES, *_SAME_DEVICES])}"
            )
        if match[1] in degrees:
            raise ConfigError(f"--layout {layout} has the degree {match[1]} twice")
        degrees[match[1]] = int(match[2])
    needed = math.prod(degree for name, degree in degrees.items() if name in _OWN_DEVICES)
    if devices % needed or ("dp" in degrees and devices != needed):
        raise ConfigError(
            f"--layout {layout} takes {needed} devices{'' if 'dp' in degrees else ' or a multiple'}, not --devices {devices}"
        )
    experts = math.prod(degrees.get(name, 1) for name in ("pp", "ep", "etp"))
    if devices % experts:
        raise ConfigError(f"--layout {layout}: experts take {experts} devices or a multiple, not --devices {devices}")
