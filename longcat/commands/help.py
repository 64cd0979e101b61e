"""Help of the commands: flags without a type, and an example or two of each command."""

from __future__ import annotations

import shutil
from typing import Any

from rich.markup import escape
from typer.core import TyperCommand, TyperGroup, TyperOption

NARROW = 80
"""Columns of a terminal from which on boxes have room for the names of all options."""
EXAMPLES: dict[str, tuple[str, ...]] = {
    "assess": (
        "longcat assess --config docs/examples/longcat-2.0.yaml",
        "longcat assess --code src --model config.json --to ascend-910b2:128",
    ),
    "run": (
        "longcat run --set 'corpus.sources=[my.jsonl]'",
        "longcat run --config mine.yaml --set training.steps=500 --json",
    ),
    "preprocess": ("longcat preprocess --preset tiny", "longcat preprocess --preset tiny --write-text cleaned"),
    "pretrain": (
        "longcat pretrain --config mine.yaml --set training.steps=500",
        "longcat pretrain --preset tiny --dry-run --world-size 2",
    ),
    "benchmark": ("longcat benchmark --preset tiny", "longcat benchmark --preset tiny --checkpoint DIGEST"),
    "evaluate": ("longcat evaluate --checkpoint DIGEST", "longcat evaluate --compare 3c80 a059"),
    "sweep": ("longcat sweep -p smoke --set training.optimizer.learning_rate=1e-3,2e-3",),
    "compare": ("longcat compare 9315756b 4451e23f --html compared.html",),
    "reproduce": (
        "longcat reproduce 9315756b --check",
        "longcat reproduce 9315756b --output again",
    ),
    "presets": ("longcat presets --show tiny",),
    "plan": (
        "longcat plan --model longcat-flash --device ascend-910b2 --devices 2048",
        "longcat plan --model config.json --device a100-80gb --devices 64 \\",
        "    --layout tensor=2,pipeline=2 --micro-batch 1",
    ),
    "mfu": (
        "longcat mfu --model tiny --device h200 --sequence-length 4096 --log t.log",
        "longcat mfu --parameters 7e9 --device a100-80gb --sequence-length 2048 \\",
        "    --devices 8 --tokens-per-second 24000",
    ),
    "generate": ("longcat generate --checkpoint DIGEST --prompt 'def main('",),
    "dispatch": ("longcat dispatch --example > orders.json", "longcat dispatch orders.json --checkpoint DIGEST"),
    "export": (
        "longcat export --checkpoint DIGEST --output my-model --dtype bfloat16",
        "longcat export --checkpoint DIGEST --output my-model --format mindspore",
    ),
    "import": ("longcat import LongCat-Flash-Chat --workspace workspace",),
    "serve": ("longcat serve --checkpoint DIGEST --port 8000",),
    "emulate": ("longcat emulate -- python train.py", "longcat emulate --explain npu_rms_norm"),
    "port": (
        "longcat port scan my-repository --html scan.html",
        "longcat port rewrite my-repository --out ported --diff",
        "longcat port check ported -- python train.py --lr 1e-3",
    ),
    "join": ("longcat join login-node:29500 --workspace /shared/workspace",),
    "doctor": ("longcat doctor --json",),
    "sync": ("longcat sync --workspace workspace",),
    "ls": ("longcat ls", "longcat ls --json"),
    "show": ("longcat show DIGEST",),
    "pin": ("longcat pin DIGEST",),
    "unpin": ("longcat unpin DIGEST",),
    "rm": ("longcat rm DIGEST",),
    "gc": ("longcat gc", "longcat gc --yes"),
    "clean": ("longcat clean --yes",),
    "verify": ("longcat verify --workspace workspace",),
    "ui": ("longcat ui --workspace workspace",),
}
"""Lines that a shell takes as they are; the help has room for 76 characters."""


class _Help:
    """Help with flags that take no value, and without boxes where there is no room for them."""

    epilog: Any
    rich_markup_mode: Any

    def get_params(self, context: Any) -> list[Any]:
        """Return the parameters, flags without a type."""
        parameters: list[Any] = super().get_params(context)  # type: ignore[misc]
        for parameter in parameters:
            if isinstance(parameter, TyperOption) and parameter.is_flag:
                parameter.metavar = parameter.metavar or ""
        return parameters

    def format_help(self, context: Any, formatter: Any) -> None:
        """Write the help, for a width of less than `NARROW` in plain lines."""
        columns = shutil.get_terminal_size().columns
        boxes = columns >= NARROW
        if examples := EXAMPLES.get(str(context.info_name)):
            lines = "\n".join(("For example:", *examples))
            self.epilog = escape(lines) if boxes else f"\b\n{lines}"  # \b keeps lines as they are
        if not boxes:
            self.rich_markup_mode = None
            formatter.width = columns
        super().format_help(context, formatter)  # type: ignore[misc]


class Command(_Help, TyperCommand):
    """Command of the command line."""


class Group(_Help, TyperGroup):
    """The command line."""
