"""Command-line options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

_SETTINGS, _RESULTS = "Settings", "Results"
Preset = Annotated[
    str | None,
    typer.Option(
        "--preset", "-p", rich_help_panel=_SETTINGS, metavar="NAME", help="Preset to start from (default: tiny)."
    ),
]
ConfigFile = Annotated[
    Path | None,
    typer.Option(
        "--config",
        "-c",
        rich_help_panel=_SETTINGS,
        metavar="FILE.yaml",
        help="YAML file of settings that override the preset.",
    ),
]
Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set", "-s", rich_help_panel=_SETTINGS, metavar="a.b=c", help="Override one setting; may be repeated."
    ),
]
WorkspacePath = Annotated[
    Path,
    typer.Option(
        "--workspace",
        "-w",
        rich_help_panel=_RESULTS,
        metavar="DIR",
        envvar="LONGCAT_WORKSPACE",
        help="Folder for results.",
    ),
]
CHECKPOINT_HELP = (
    "Folder of a checkpoint or of a Hugging Face model, the first characters of a digest in the workspace, or DIGEST@STEP "
    "for the state of a run after so many steps."
)
Rehash = Annotated[
    bool,
    typer.Option(
        "--rehash",
        rich_help_panel=_RESULTS,
        help="Read every input and result again, also those whose hashes are remembered.",
    ),
]
_COMPUTING = "What it computes on"
AcceleratorName = Annotated[
    str, typer.Option("--accelerator", rich_help_panel=_COMPUTING, help="auto, npu, cuda or cpu.")
]
PrecisionName = Annotated[
    str,
    typer.Option(
        "--precision", rich_help_panel=_COMPUTING, help="auto, fp32 or bf16 (auto: bf16 on an accelerator that has it)."
    ),
]
Json = Annotated[bool, typer.Option("--json", rich_help_panel=_RESULTS, help="Print the result as JSON.")]


# ------------------------------------------------------ of a run that is asked about, each in a panel of the command's help


def tracking_uri_option(panel: str) -> Any:
    """Return the option for the server or store that a run of MLflow's is read from."""
    return typer.Option(
        metavar="URI", envvar="MLFLOW_TRACKING_URI", help="Tracking server or store of that run.", rich_help_panel=panel
    )


def fine_tuning_option(panel: str) -> Any:
    """Return the option for whether a run tunes a trained model."""
    return typer.Option(
        "--fine-tuning/--pre-training",
        help="Whether the run tunes a trained model; some logs show it.",
        show_default=False,
        rich_help_panel=panel,
    )


def trainable_parameters_option(panel: str) -> Any:
    """Return the option for how many parameters of a run have a gradient."""
    return typer.Option(
        metavar="NUMBER",
        help="Parameters with a gradient where the others are frozen, as with LoRA.",
        rich_help_panel=panel,
    )
