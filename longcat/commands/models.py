"""`longcat generate`, `export` and `import`: use and conversion of checkpoints."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from longcat.commands.options import WorkspacePath
from longcat.printable import printable


def generate(
    checkpoint: Annotated[Path, typer.Option(metavar="DIR", help="Checkpoint artifact, or a Hugging Face folder.")],
    prompt: Annotated[str, typer.Option(help="Text to continue; empty starts a document.")] = "",
    max_tokens: Annotated[int, typer.Option(min=1, help="Maximum number of tokens to generate.")] = 128,
    temperature: Annotated[
        float, typer.Option(min=0, help="0 takes the most likely token; higher values give more varied text.")
    ] = 0.0,
    top_k: Annotated[int | None, typer.Option(min=1, help="Sample only from the K most likely tokens.")] = None,
    top_p: Annotated[
        float, typer.Option(min=0, max=1, help="Sample only from the most likely tokens up to this total probability.")
    ] = 1.0,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the sampling.")] = 0,
) -> None:
    """Let a trained model continue a text."""
    from longcat.corpus.tokenizer import open_tokenizer
    from longcat.interchange.checkpoint_folder import model_folder, tokenizer_of
    from longcat.interchange.folder import load_huggingface
    from longcat.model.generation import generate as continuation

    tokenizer = open_tokenizer(tokenizer_of(checkpoint))
    model = load_huggingface(model_folder(checkpoint))
    end = model.config.end_of_text
    first: list[int] = tokenizer.encode(prompt, add_special_tokens=False).ids or [end]
    chosen: list[int] = []
    shown = ""
    tokens = continuation(
        model, first, max_tokens, temperature=temperature, top_k=top_k, top_p=top_p, seed=seed, stop=end
    )
    plain = printable if sys.stdout.isatty() else str  # a file gets what the model says, a terminal what can be seen
    print(plain(prompt), end="", flush=True)
    for token in tokens:
        chosen.append(token)
        text: str = tokenizer.decode(chosen)
        if not text.endswith("\ufffd"):  # a character whose last bytes are still to come
            print(plain(text[len(shown) :]), end="", flush=True)
            shown = text
    print(flush=True)


def export(
    checkpoint: Annotated[Path, typer.Option(metavar="DIR", help="Checkpoint artifact, or a Hugging Face folder.")],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="Folder to create; must not exist.")],
    format_: Annotated[
        str, typer.Option("--format", metavar="FORMAT", help="Output format; only huggingface.")
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
) -> None:
    """Write a checkpoint as a folder that transformers opens."""
    from longcat.errors import ConfigError
    from longcat.interchange.convert import export as write

    if format_ != "huggingface":
        raise ConfigError(f"--format {format_!r}: only huggingface is supported")
    output = output.expanduser().resolve()
    write(checkpoint, output, dtype=dtype, routed_only=routed_only, shard_bytes=int(shard_gb * 1e9))
    print(output)


def import_(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Hugging Face folder of a LongCat model.")],
    workspace: WorkspacePath = Path("workspace"),
    shard_gb: Annotated[float, typer.Option(min=0.001, help="Maximum size of a weight file, in GB.")] = 4.0,
) -> None:
    """Import a Hugging Face folder of a LongCat model as a checkpoint, and print the checkpoint's path."""
    from longcat.artifact import Workspace
    from longcat.interchange.convert import import_folder

    space = Workspace(workspace.expanduser().resolve())
    with space.lease():
        checkpoint = import_folder(folder.expanduser().resolve(), space, shard_bytes=int(shard_gb * 1e9))
    for note in checkpoint.facts.notes:
        print(printable(note), file=sys.stderr)
    print(checkpoint.path)
