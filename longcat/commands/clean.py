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
    from longcat.disk import disk_errors, remove, remove_whole
    from longcat.errors import ConfigError

    if not workspace.expanduser().is_dir():
        raise ConfigError(f"--workspace {workspace}: there is no such folder")
    space = Workspace(workspace)
    with disk_errors(space.path):
        rows = [_describe(path) for path in space.half_made()]
        if yes and rows:
            with space.lease():
                for row in rows:
                    if row["local"] is not None:
                        remove(Path(row["local"]))
                    remove_whole(Path(row["path"]))  # last, as it knows where the other one lies
    size = sum(row["bytes"] for row in rows)
    if as_json:
        print(json.dumps({"half_made": rows, "bytes": size, "removed": yes}, indent=2, ensure_ascii=False))
        return
    for row in rows:
        also = f" and {row['local']}" if row["local"] else ""
        print(f"{row['path']}{also}: {row['bytes'] / 1e6:,.1f} MB, last written {row['written']}")
    if not rows:
        print("nothing to remove")
    else:
        print(f"removed {size / 1e6:,.1f} MB" if yes else f"{size / 1e6:,.1f} MB in all; --yes removes them")


def _describe(path: Path) -> dict[str, Any]:
    from longcat.inventory.entries import size_on_disk

    local = _local_folder(path)
    folders = [path] if local is None else [path, local]
    files = [file.stat() for of in folders for file in of.rglob("*") if file.is_file()] or [path.stat()]
    written = time.localtime(max(file.st_mtime for file in files))
    return {
        "path": str(path),
        "local": None if local is None else str(local),
        "bytes": sum(map(size_on_disk, folders)),
        "written": time.strftime("%Y-%m-%d %H:%M", written),
    }


def _local_folder(path: Path) -> Path | None:
    """Return the faster folder of the checkpoints of a half-made one on this machine, if it is there."""
    from longcat.training.job import JOB, Job

    try:
        folder = Job.read(path / JOB).local_folder
    except (
        OSError,
        ValueError,
        TypeError,
        KeyError,
    ):  # it is none of a training, or its job was never written as a whole
        return None
    # a folder that is not named by the run is none of ours
    return folder if folder is not None and folder.name == path.name.split(".")[1] and folder.is_dir() else None
