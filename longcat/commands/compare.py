"""`longcat compare`: what two runs differ in, and what that has changed."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated

import typer

from longcat.commands.answers import check_file, write_file
from longcat.commands.options import Json, WorkspacePath

_NAMED = (
    "Id or name of a run, first characters of a digest, or folder of a result or of a workspace, which stands for its last "
    "run."
)


def compare(
    first: Annotated[str, typer.Argument(metavar="A", help=_NAMED)],
    second: Annotated[str, typer.Argument(metavar="B", help="The other one.")],
    workspace: WorkspacePath = Path("workspace"),
    html: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Also write the comparison as an HTML page.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Compare two runs: settings, curves, MFU, scores, cost, and which files are the same to the last byte.

    Nothing is computed but what they have recorded. To score two checkpoints, and test which one is better, there is
    longcat evaluate --compare A B.
    """
    from longcat.artifact import Workspace
    from longcat.comparing.differences import differences
    from longcat.comparing.sides import find_side

    check_file("--html", html)
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    space = Workspace(workspace) if workspace.expanduser().is_dir() else None
    result = differences(find_side(first, space), find_side(second, space))
    if html is not None:
        from longcat.comparing.page import html as render

        write_file("--html", html, render(result))
    if as_json:
        print(json.dumps(result, indent=2, ensure_ascii=False))
    else:
        from longcat.comparing.printed import print_differences

        print_differences(result, None if html is None else str(html))
