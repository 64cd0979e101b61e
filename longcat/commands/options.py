"""Options that several commands have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Preset = Annotated[
    str | None, typer.Option("--preset", "-p", metavar="NAME", help="Preset to start from (default: tiny).")
]
ConfigFile = Annotated[
    Path | None, typer.Option("--config", "-c", metavar="FILE.yaml", help="Settings laid over the preset.")
]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", "-s", metavar="a.b=c", help="One setting; may be repeated.")
]
WorkspacePath = Annotated[
    Path, typer.Option("--workspace", "-w", metavar="DIR", envvar="LONGCAT_WORKSPACE", help="Where results are kept.")
]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
