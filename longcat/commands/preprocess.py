"""`longcat preprocess`: the flow, or the cleaned text of a corpus in a folder."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from longcat.commands.options import ConfigFile, Json, Overrides, Preset, Rehash, WorkspacePath
from longcat.commands.run import run_flow
from longcat.errors import ConfigError
from longcat.hash_memory import REHASH

_CLEANED = "Cleaned text"
WriteText = Annotated[
    Path | None,
    typer.Option(
        "--write-text",
        metavar="DIR",
        rich_help_panel=_CLEANED,
        help="Write the cleaned text into a new folder, and make no tokens of it.",
    ),
]
TextFormat = Annotated[
    str | None,
    typer.Option(
        "--format",
        metavar="FORMAT",
        rich_help_panel=_CLEANED,
        help="With --write-text: parquet (the default) or jsonl.",
    ),
]


def preprocess_command(title: str) -> Callable[..., None]:
    """Make the command, with this help text."""

    def command(
        preset: Preset = None,
        config: ConfigFile = None,
        set_: Overrides = None,
        workspace: WorkspacePath = Path("workspace"),
        as_json: Json = False,
        rehash: Rehash = False,
        write_text: WriteText = None,
        format: TextFormat = None,
    ) -> None:
        if write_text is not None:
            _write_text(preset, config, set_, workspace, as_json, rehash, write_text, format or "parquet")
        elif format is not None:
            raise ConfigError("--format belongs to --write-text")
        else:
            run_flow("preprocess", preset, config, set_, workspace, as_json, rehash=rehash)

    command.__doc__ = title
    return command


def _write_text(
    preset: str | None,
    config: Path | None,
    overrides: list[str] | None,
    workspace: Path,
    as_json: bool,
    rehash: bool,
    folder: Path,
    format: str,
) -> None:
    from longcat.artifact import Workspace
    from longcat.config import load_config
    from longcat.corpus.cleaned_text import FORMATS, check_folder, write_cleaned_text
    from longcat.disk import disk_errors
    from longcat.printable import counted, shown_warnings
    from longcat.terminal import Display

    if format not in FORMATS:
        raise ConfigError(f"--format={format} is none of {', '.join(FORMATS)}")
    folder = folder.expanduser().absolute()
    check_folder(folder)
    settings = load_config(preset, config, overrides or ())
    if settings.corpus.runner != "processes":
        raise ConfigError(f"--write-text works on this machine alone, not with corpus.runner={settings.corpus.runner}")
    if rehash:
        os.environ[REHASH] = "1"
    with (
        disk_errors(folder),
        Display(quiet=as_json) as display,
        shown_warnings(display.warn),
    ):
        about = write_cleaned_text(settings, folder, format, workspace=Workspace(workspace), report=display)
    if as_json:
        print(json.dumps({"folder": str(folder), **about}, indent=2, ensure_ascii=False))
    else:
        unreadable = f", {about['unreadable']:,} unreadable" if about["unreadable"] else ""
        print(f"{folder}: {counted(about['kept'], 'document')} kept, {about['dropped']:,} left out{unreadable}")
