"""`longcat pretrain`: the flow, or a dry run of one step under any layout."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, cast

import typer

from longcat.commands.options import ConfigFile, Json, Overrides, Preset, Rehash, WorkspacePath
from longcat.commands.run import run_flow
from longcat.errors import ConfigError

_DRY_RUN = "A dry run"
Dry = Annotated[
    bool,
    typer.Option(
        "--dry-run",
        help="Run nothing: tell memory, work and traffic of a step for the worst rank.",
        rich_help_panel=_DRY_RUN,
    ),
]
WorldSize = Annotated[
    int | None,
    typer.Option("--world-size", metavar="N", rich_help_panel=_DRY_RUN, help="Training processes, one per device."),
]
DEVICE = "Ascend910B2"
"""Device of a dry run that names none."""
Device = Annotated[
    str | None,
    typer.Option(
        "--device",
        metavar="NAME",
        rich_help_panel=_DRY_RUN,
        help=f"The device, by its name in hardware.csv (default: {DEVICE}).",
    ),
]
MemoryGb = Annotated[
    float | None,
    typer.Option("--memory-gb", metavar="GB", rich_help_panel=_DRY_RUN, help="Memory of a device (1e9 bytes)."),
]
PHASES = ("dense", "warmup", "sparse")
Phase = Annotated[
    str | None,
    typer.Option(
        "--phase",
        metavar="PHASE",
        rich_help_panel=_DRY_RUN,
        help=f"Of sparse attention, {', '.join(PHASES)} (default: the one that training begins with).",
    ),
]


def pretrain_command(title: str) -> Callable[..., None]:
    """Make the command, with this help text."""

    def command(
        preset: Preset = None,
        config: ConfigFile = None,
        set_: Overrides = None,
        workspace: WorkspacePath = Path("workspace"),
        as_json: Json = False,
        rehash: Rehash = False,
        dry: Dry = False,
        world_size: WorldSize = None,
        device: Device = None,
        memory_gb: MemoryGb = None,
        phase: Phase = None,
    ) -> None:
        if dry:
            _dry_run(preset, config, set_, as_json, world_size, device or DEVICE, memory_gb, phase)
        elif any(option is not None for option in (world_size, device, memory_gb, phase)):
            raise ConfigError(
                "--world-size, --device, --memory-gb and --phase belong to --dry-run; training has training.processes and accelerator"
            )
        else:
            run_flow("pretrain", preset, config, set_, workspace, as_json, rehash=rehash)

    command.__doc__ = title
    return command


def _dry_run(
    preset: str | None,
    config: Path | None,
    overrides: list[str] | None,
    as_json: bool,
    world_size: int | None,
    device: str,
    memory_gb: float | None,
    phase: str | None,
) -> None:
    from longcat.config import load_config
    from longcat.costs.hardware import require_hardware
    from longcat.tables import print_dry_run
    from longcat.training.dry_run import dry_run

    row = require_hardware(device, "--device wants one of the table, and --memory-gb may tell another memory")
    memory = row.memory_gb if memory_gb is None else memory_gb
    if memory is not None and not 0 < memory < math.inf:
        raise ConfigError(f"--memory-gb={memory:g} is not the memory of a device")
    if phase is not None and phase not in PHASES:
        raise ConfigError(f"--phase={phase} is none of {', '.join(PHASES)}")
    if world_size is not None and world_size < 1:
        raise ConfigError(f"--world-size={world_size} is below 1")
    if memory is None:
        raise ConfigError(f"the memory of {row.name} is not in the table of hardware; --memory-gb tells it")
    settings = list(overrides or ())
    if world_size is not None:
        settings.append(f"training.processes={world_size}")
    loaded = load_config(preset, config, settings)
    if not loaded.training.processes:
        raise ConfigError("a dry run needs --world-size or training.processes")
    if loaded.parallel.two_level and not loaded.parallel.devices_per_node and row.devices_per_node:
        settings.append(f"parallel.devices_per_node={row.devices_per_node}")
        loaded = load_config(preset, config, settings)
    answer = {
        "device": row.name,
        **dry_run(loaded, round(memory * 1e9), "npu" if row.vendor == "Huawei" else "cuda", cast(Any, phase)).as_dict(),
    }
    if as_json:
        print(json.dumps(answer, indent=2))
    else:
        print_dry_run(answer)
