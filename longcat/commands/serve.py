"""`longcat serve`: a checkpoint behind an OpenAI-compatible address."""

from __future__ import annotations

import ipaddress
import sys
from pathlib import Path
from typing import Annotated

import typer

from longcat.commands.options import CHECKPOINT_HELP, AcceleratorName, PrecisionName, WorkspacePath
from longcat.errors import ConfigError
from longcat.printable import printable
from longcat.training.named import open_named

_SHORTEST_KEY = 16
_ADDRESS, _LIMITS = "Where it listens, and for whom", "Limits"


def serve(
    checkpoint: Annotated[str, typer.Option(metavar="DIR|DIGEST", help=CHECKPOINT_HELP)],
    host: Annotated[
        str,
        typer.Option(rich_help_panel=_ADDRESS, help="Address to listen at; any but loopback lets in other machines."),
    ] = ("127.0.0.1"),
    port: Annotated[
        int, typer.Option(min=0, max=65535, rich_help_panel=_ADDRESS, help="Port to listen at; 0 takes a free one.")
    ] = 8000,
    name: Annotated[str | None, typer.Option(help="Name of the model for clients (default: the folder's).")] = None,
    api_key_file: Annotated[
        Path | None,
        typer.Option(metavar="FILE", rich_help_panel=_ADDRESS, help="File with the key that clients have to show."),
    ] = None,
    max_length: Annotated[
        int | None,
        typer.Option(
            min=2, rich_help_panel=_LIMITS, help="Most tokens of a prompt and its continuation (default: the model's)."
        ),
    ] = None,
    max_chat_tokens: Annotated[
        int,
        typer.Option(
            min=1, rich_help_panel=_LIMITS, help="Most tokens of a chat answer whose request names no number."
        ),
    ] = 512,
    max_texts: Annotated[
        int, typer.Option(min=1, rich_help_panel=_LIMITS, help="Most texts that are made at a time.")
    ] = 32,
    max_queue: Annotated[
        int,
        typer.Option(min=0, rich_help_panel=_LIMITS, help="Most texts that wait; a request beyond them gets a 429."),
    ] = 64,
    max_cached_tokens: Annotated[
        int,
        typer.Option(
            min=1,
            rich_help_panel=_LIMITS,
            help="Most tokens that the cache of all texts holds; never less than one text's.",
        ),
    ] = 65_536,
    max_body_bytes: Annotated[int, typer.Option(min=1, rich_help_panel=_LIMITS, help="Most bytes of a request.")] = 1
    << 20,
    max_dispatch_orders: Annotated[
        int,
        typer.Option(
            min=1, rich_help_panel=_LIMITS, help="Most orders of an hour that is dispatched, and most couriers."
        ),
    ] = 100,
    max_dispatch_s: Annotated[
        float, typer.Option(min=0.1, rich_help_panel=_LIMITS, help="Most seconds that a dispatch takes.")
    ] = 60.0,
    grace_s: Annotated[
        float,
        typer.Option(
            min=0, rich_help_panel=_LIMITS, help="Seconds that running requests have after SIGTERM or Ctrl-C."
        ),
    ] = 30.0,
    accelerator: AcceleratorName = "auto",
    precision: PrecisionName = "auto",
    workspace: WorkspacePath = Path("workspace"),
) -> None:
    """Serve a model to OpenAI's clients: /v1/completions, /v1/chat/completions, /v1/models, /health and /metrics; and dispatch at /v1/dispatch."""
    from longcat.serve.app import Settings, build
    from longcat.serve.engine import Engine
    from longcat.serve.server import listen
    from longcat.serve.server import serve as run

    key = None if api_key_file is None else _read_key(api_key_file)
    with listen(host, port) as listening:  # a port that is taken is known before the weights are read
        opened = open_named(checkpoint, workspace, accelerator, precision)
        window = opened.window if max_length is None else max_length
        if window > opened.window:
            raise ConfigError(f"--max-length {max_length}: the model has {opened.window} positions")
        settings = Settings(
            name or opened.path.name, window, max_chat_tokens, max_body_bytes, max_dispatch_orders, max_dispatch_s, key
        )
        engine = Engine(opened, texts=max_texts, cached_tokens=max_cached_tokens, queue=max_queue, window=window)
        if key is None and not _is_loopback(host):
            print(f"warning: whoever reaches {host} may use this model, there is no --api-key-file", file=sys.stderr)
        at = f"[{host}]" if ":" in host else host
        print(f"{printable(settings.name)} at http://{at}:{listening.getsockname()[1]}/v1", flush=True)
        run(build(opened, engine, settings), engine, listening, grace_s)


def _read_key(file: Path) -> str:
    try:
        key = file.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--api-key-file: cannot read {file}: {error}") from None
    if len(key) < _SHORTEST_KEY or len(key.split()) != 1:
        raise ConfigError(
            f"--api-key-file: {file} has to hold one key of {_SHORTEST_KEY} characters or more, without spaces"
        )
    return key


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
