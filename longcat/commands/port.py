"""`longcat port`: a repository from CUDA to Ascend: scanned, rewritten, and checked on the emulated Ascend."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from longcat.commands.answers import check_file, write_file
from longcat.commands.help import Command, Group
from longcat.commands.options import Json
from longcat.errors import UserError

app = typer.Typer(
    cls=Group,
    no_args_is_help=True,
    add_completion=False,
    help="Bring a program from CUDA to Ascend: scan it, rewrite it, and check what it computes.",
)
_Root = Annotated[Path, typer.Argument(metavar="DIR|FILE", help="Repository or file; it is only read.")]
_Python = Annotated[
    str | None,
    typer.Option(
        metavar="FILE", help="Python of an environment with torch_npu (default: as longcat emulate finds it)."
    ),
]
_Vendored = Annotated[bool, typer.Option("--vendored", help="Also read folders of others' code, as third_party.")]


@app.command(cls=Command)
def scan(
    root: _Root,
    html: Annotated[Path | None, typer.Option(metavar="FILE", help="Also write the result as an HTML page.")] = None,
    vendored: _Vendored = False,
    python: _Python = None,
    most: Annotated[int, typer.Option(min=1, help="Rows of the table; --json and --html have all.")] = 200,
    as_json: Json = False,
) -> None:
    """Find everything that belongs to CUDA: what it is on an Ascend, and what changing it costs."""
    from longcat.port.scanning import scan as scan_all
    from longcat.terminal import Display

    check_file("--html", html)
    with Display(quiet=False) as display:
        result = scan_all(root, python, vendored, display).as_json()
    if html is not None:
        from longcat.port.page import html as render

        write_file("--html", html, render(result))
    if as_json:
        print(json.dumps(result, indent=2, ensure_ascii=False))
    else:
        from longcat.port.printed import print_scan

        print_scan(result, most, html)


@app.command(cls=Command)
def rewrite(
    root: _Root,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR2", help="New folder for the rewritten repository; not inside DIR.")
    ] = None,
    diff: Annotated[bool, typer.Option("--diff", help="Print what changes; without --out nothing is written.")] = False,
    vendored: _Vendored = False,
    python: _Python = None,
    as_json: Json = False,
) -> None:
    """Write a copy of a repository that runs on an Ascend as far as its source tells; say which lines are left."""
    from longcat.port.rewriting import rewrite as rewrite_all
    from longcat.terminal import Display

    if out is None and not diff:
        raise UserError("--out DIR2 says where to write; --diff alone only shows what would change")
    with Display(quiet=False) as display:
        result = rewrite_all(root, out, python=python, vendored=vendored, with_diff=diff, report=display)
    if as_json:
        print(
            json.dumps(
                result.as_json() | ({"diff": "".join(result.diff)} if diff else {}), indent=2, ensure_ascii=False
            )
        )
        return
    from longcat.port.printed import print_rewrite

    if diff:
        sys.stdout.write("".join(result.diff))
    print_rewrite(result.as_json(), to_stderr=diff)


@app.command(cls=Command)
def check(
    folder: Annotated[Path, typer.Argument(metavar="DIR2", help="Folder that longcat port rewrite has made.")],
    command: Annotated[
        list[str], typer.Argument(metavar="PROGRAM [ARGUMENTS]...", help="Program to run in both, as python train.py.")
    ],
    original: Annotated[
        Path | None, typer.Option(metavar="DIR", help="The original (default: what DIR2 was made from).")
    ] = None,
    steps: Annotated[int, typer.Option(min=1, help="Steps of the optimizer after which both are stopped.")] = 5,
    tolerance: Annotated[
        float | None,
        typer.Option(
            min=0, help="Relative difference of losses that is the same (default: 1e-4; 0.03 in half precision)."
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of both before they begin.")] = 0,
    limit: Annotated[float, typer.Option(min=1, help="Seconds that each may take.")] = 600.0,
    python: _Python = None,
    as_json: Json = False,
) -> None:
    """Run the original on the CPU and the rewrite on the emulated Ascend, and set their losses side by side."""
    from longcat.port.checking import check as check_both

    result = check_both(
        folder, command, original=original, steps=steps, tolerance=tolerance, seed=seed, limit_s=limit, python=python,
        say=lambda text: print(text, file=sys.stderr, flush=True),
    )  # fmt: skip
    if as_json:
        print(json.dumps(result, indent=2, ensure_ascii=False))
    else:
        from longcat.port.printed import print_check

        print_check(result)
    if result["verdict"] != "same":
        raise typer.Exit(1)
