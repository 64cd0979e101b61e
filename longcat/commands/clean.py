"""`longcat clean`: what interrupted runs have left in a workspace."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from longcat.commands.options import Json, WorkspacePath


def clean(
    workspace: WorkspacePath = Path("workspace"),
    yes: Annotated[bool, typer.Option("--yes", help="Remove them; without it they are only listed.")] = False,
    as_json: Json = False,
) -> None:
    """List or remove what interrupted runs have left to go on from; finished results are never touched."""
    from longcat.artifact import Workspace
    from longcat.disk import disk_errors, remove
    from longcat.errors import ConfigError

    if not workspace.expanduser().is_dir():
        raise ConfigError(f"--workspace {workspace}: there is no such folder")
    space = Workspace(workspace)
    with disk_errors(space.path):
        rows = [_describe(path) for path in space.half_made()]
        if yes and rows:
            with space.lease():
                for row in rows:
                    remove(Path(row["path"]))
    size = sum(row["bytes"] for row in rows)
    if as_json:
        print(json.dumps({"half_made": rows, "bytes": size, "removed": yes}, indent=2, ensure_ascii=False))
        return
    for row in rows:
        print(f"{row['path']}: {row['bytes'] / 1e6:,.1f} MB, last written {row['written']}")
    if not rows:
        print("nothing to remove")
    else:
        print(f"removed {size / 1e6:,.1f} MB" if yes else f"{size / 1e6:,.1f} MB in all; --yes removes them")


def _describe(path: Path) -> dict[str, Any]:
    files = [file.stat() for file in path.rglob("*") if file.is_file()] or [path.stat()]
    written = time.localtime(max(file.st_mtime for file in files))
    return {
        "path": str(path),
        "bytes": sum(file.st_blocks * 512 for file in files),
        "written": time.strftime("%Y-%m-%d %H:%M", written),
    }
