"""`longcat generate`, `export` and `import`: use and conversion of checkpoints."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from longcat.commands.options import CHECKPOINT_HELP, AcceleratorName, Json, PrecisionName, WorkspacePath
from longcat.printable import printable
from longcat.training.named import folder_named, open_named

_SAMPLING = "How tokens are chosen"


def generate(
    checkpoint: Annotated[str, typer.Option(metavar="DIR|DIGEST", help=CHECKPOINT_HELP)],
    prompt: Annotated[
        list[str] | None,
        typer.Option(help="Text to continue; may be repeated. Without any, or after an empty one, a document begins."),
    ] = None,
    prompts: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="File of texts to continue: one a line, or in a .jsonl a JSON string a line."
        ),
    ] = None,
    max_tokens: Annotated[
        int, typer.Option(min=1, rich_help_panel=_SAMPLING, help="Maximum number of tokens to generate.")
    ] = 128,
    temperature: Annotated[
        float,
        typer.Option(
            min=0, rich_help_panel=_SAMPLING, help="0 takes the most likely token; higher values give more varied text."
        ),
    ] = 0.0,
    top_k: Annotated[
        int | None, typer.Option(min=1, rich_help_panel=_SAMPLING, help="Sample only from the K most likely tokens.")
    ] = None,
    top_p: Annotated[
        float,
        typer.Option(
            min=0,
            max=1,
            rich_help_panel=_SAMPLING,
            help="Sample only from the most likely tokens up to this total probability.",
        ),
    ] = 1.0,
    seed: Annotated[
        int,
        typer.Option(
            min=0, rich_help_panel=_SAMPLING, help="Seed of the sampling; each text has its own random numbers."
        ),
    ] = 0,
    stop: Annotated[list[str] | None, typer.Option(help="End a text before this string; may be repeated.")] = None,
    accelerator: AcceleratorName = "auto",
    precision: PrecisionName = "auto",
    workspace: WorkspacePath = Path("workspace"),
    as_json: Json = False,
) -> None:
    """Let a trained model continue one text, as it is made, or several side by side."""
    from longcat.inference.prompts import read_prompts
    from longcat.inference.requests import Prompt
    from longcat.inference.runner import Runner
    from longcat.inference.sampling import Sampling

    sampling = Sampling(max_tokens, temperature, top_k, top_p, seed)
    texts = [*(prompt or []), *(read_prompts(prompts) if prompts else [])] or [""]
    opened = open_named(checkpoint, workspace, accelerator, precision)
    plain = printable if sys.stdout.isatty() else str  # a file gets what the model says, a terminal what can be seen
    asked = [Prompt(opened.encode(text), sampling, tuple(stop or ())) for text in texts]
    runner = Runner(opened)
    if len(texts) == 1 and not as_json:
        pieces = runner.stream(asked[0])
        print(plain(texts[0]), end="", flush=True)
        for text in pieces:
            print(plain(text), end="", flush=True)
        print(flush=True)
        return
    for text, made in zip(texts, runner.generate(asked), strict=True):
        if as_json:
            found = {"prompt": text, "text": made.text, "tokens": len(made.tokens), "reason": made.reason}
            print(json.dumps(found | {"dropped_tokens": made.dropped}, ensure_ascii=not sys.stdout.isatty()))
        else:
            print(plain(text + made.text) + "\n")


def export(
    checkpoint: Annotated[str, typer.Option(metavar="DIR|DIGEST", help=CHECKPOINT_HELP)],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="Folder to create; must not exist.")],
    format_: Annotated[
        str, typer.Option("--format", metavar="FORMAT", help="Kind of folder: huggingface or mindspore.")
    ] = "huggingface",
    dtype: Annotated[
        str | None, typer.Option(metavar="TYPE", help="float32, bfloat16 or float16 (default: the stored type).")
    ] = None,
    shard_gb: Annotated[float, typer.Option(min=0.001, help="Maximum size of a weight file, in GB.")] = 4.0,
    routed_only: Annotated[
        bool,
        typer.Option(
            "--routed-only",
            help="Omit the matrices of zero-computation experts, as Meituan does; transformers asks for them.",
        ),
    ] = False,
    workspace: WorkspacePath = Path("workspace"),
) -> None:
    """Write a checkpoint as a folder that transformers opens, or MindSpore."""
    from longcat.interchange.convert import export as write

    output = output.expanduser().resolve()
    found = folder_named(checkpoint, workspace)
    write(found, output, format_=format_, dtype=dtype, routed_only=routed_only, shard_bytes=int(shard_gb * 1e9))
    print(output)


def import_(
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="Hugging Face folder of a LongCat model, or one for MindSpore.")
    ],
    workspace: WorkspacePath = Path("workspace"),
    shard_gb: Annotated[float, typer.Option(min=0.001, help="Maximum size of a weight file, in GB.")] = 4.0,
) -> None:
    """Import a Hugging Face folder of a LongCat model, or one for MindSpore, as a checkpoint, and print the checkpoint's path."""
    from longcat.artifact import Workspace
    from longcat.interchange.convert import import_folder

    space = Workspace(workspace.expanduser().resolve())
    with space.lease():
        checkpoint = import_folder(folder.expanduser().resolve(), space, shard_bytes=int(shard_gb * 1e9))
    for note in checkpoint.facts.notes:
        print(printable(note), file=sys.stderr)
    print(checkpoint.path)
