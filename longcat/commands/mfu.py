"""`longcat mfu`: utilisation of any training run, compared with published A100 runs."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from longcat.commands.answers import check_file, write_file
from longcat.commands.options import (
    Json,
    WorkspacePath,
    fine_tuning_option,
    tracking_uri_option,
    trainable_parameters_option,
)
from longcat.stores import sqlite_url

_MODEL, _RUN, _SPEED, _ANSWER = "The model", "The run", "Its speed, by one of these", "The answer"
_TUNING = "Fine-tuning"


def mfu(
    device: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="Device name, for example a100-80gb, NVIDIA H200 or Ascend910B2; on Atlas A3 a die.",
            rich_help_panel=_RUN,
        ),
    ],
    sequence_length: Annotated[int, typer.Option(help="Tokens that attention sees.", rich_help_panel=_RUN)],
    model: Annotated[
        str | None,
        typer.Option(metavar="MODEL", help="A config.json, a folder with one, or a preset.", rich_help_panel=_MODEL),
    ] = None,
    parameters: Annotated[
        float | None,
        typer.Option(
            help="Instead of --model: activated parameters with embedding, such as 7e9.", rich_help_panel=_MODEL
        ),
    ] = None,
    total_parameters: Annotated[
        float | None,
        typer.Option(help="With --parameters: all parameters of a mixture of experts.", rich_help_panel=_MODEL),
    ] = None,
    layers: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="With --parameters and --hidden-size: layers, to count attention scores.",
            rich_help_panel=_MODEL,
        ),
    ] = None,
    hidden_size: Annotated[
        int | None,
        typer.Option(min=1, help="With --parameters: width of the residual stream.", rich_help_panel=_MODEL),
    ] = None,
    attention_width: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="With --parameters and --layers: heads x head dimension, where that is not the hidden size.",
            rich_help_panel=_MODEL,
        ),
    ] = None,
    vocabulary: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="With --parameters and --hidden-size: rows of the embedding, which is left out.",
            rich_help_panel=_MODEL,
        ),
    ] = None,
    ffn_experts: Annotated[
        float | None,
        typer.Option(help="Mean routed experts per token, as measured (LongCat).", rich_help_panel=_MODEL),
    ] = None,
    mtp: Annotated[
        bool, typer.Option("--mtp", help="Also count num_nextn_predict_layers.", rich_help_panel=_MODEL)
    ] = False,
    devices: Annotated[int, typer.Option(help="Number of devices.", rich_help_panel=_RUN)] = 1,
    nodes: Annotated[
        int | None,
        typer.Option(min=1, help="Number of nodes; by default as many as are usual.", rich_help_panel=_RUN),
    ] = None,
    layout: Annotated[
        str | None,
        typer.Option(help="Parallel degrees such as tp8,pp4; checked against --devices.", rich_help_panel=_RUN),
    ] = None,
    precision: Annotated[
        str,
        typer.Option(
            metavar="TYPE",
            help="Precision of the matrix products: bf16, fp16, fp32 or fp8.",
            rich_help_panel=_RUN,
        ),
    ] = "bf16",
    peak_tflops: Annotated[
        float | None,
        typer.Option(
            help="Dense peak of one device in TFLOP/s; needed for devices outside the table.", rich_help_panel=_RUN
        ),
    ] = None,
    recompute: Annotated[
        str,
        typer.Option(
            metavar="WHAT",
            help="Recomputation in the backward pass: none, selective (attention scores) or full.",
            rich_help_panel=_RUN,
        ),
    ] = "none",
    routing: Annotated[
        str | None,
        typer.Option(
            metavar="WHAT",
            help="What a mixture does with a crowded expert's tokens: dropless, drops or forced-balance.",
            rich_help_panel=_RUN,
        ),
    ] = None,
    fine_tuning: Annotated[bool | None, fine_tuning_option(_TUNING)] = None,
    trainable_parameters: Annotated[float | None, trainable_parameters_option(_TUNING)] = None,
    tokens_per_second: Annotated[
        float | None, typer.Option(help="Speed, summed over all devices.", rich_help_panel=_SPEED)
    ] = None,
    step_time: Annotated[
        float | None, typer.Option(help="Seconds per step; needs --batch-tokens.", rich_help_panel=_SPEED)
    ] = None,
    batch_tokens: Annotated[
        int | None, typer.Option(help="Tokens per step, over all devices.", rich_help_panel=_SPEED)
    ] = None,
    log: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Log of Megatron, MindSpeed, torchtitan, a Trainer and other tools, listed in docs/benchmark.md.",
            rich_help_panel=_SPEED,
        ),
    ] = None,
    mlflow_run: Annotated[
        str | None,
        typer.Option(metavar="ID", help="MLflow run of longcat, a Trainer or llm-foundry.", rich_help_panel=_SPEED),
    ] = None,
    tracking_uri: Annotated[str | None, tracking_uri_option(_SPEED)] = None,
    workspace: WorkspacePath = Path("workspace"),
    html: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Also write the answer as an HTML page.", rich_help_panel=_ANSWER),
    ] = None,
    as_json: Json = False,
) -> None:
    """Compute the MFU of any training run and compare it with published A100 runs, without running anything."""
    from longcat.benchmark.mfu_question import answer_question
    from longcat.tracking.store import read_run

    check_file("--html", html)
    result = answer_question(
        device,
        sequence_length,
        model=model,
        parameters=parameters,
        total_parameters=total_parameters,
        layers=layers,
        hidden_size=hidden_size,
        attention_width=attention_width,
        vocabulary=vocabulary,
        ffn_experts=ffn_experts,
        mtp=mtp,
        devices=devices,
        nodes=nodes,
        layout=layout,
        precision=precision,
        peak_tflops=peak_tflops,
        recompute=recompute,
        routing=routing,
        fine_tuning=fine_tuning,
        trainable_parameters=trainable_parameters,
        tokens_per_second=tokens_per_second,
        step_time=step_time,
        batch_tokens=batch_tokens,
        log=log,
        mlflow_run=mlflow_run,
        read_run=partial(read_run, tracking_uri or sqlite_url(workspace.resolve() / "mlflow.db")),
    )
    if html is not None:
        from longcat.benchmark.report import html as render

        write_file("--html", html, render({**result, "device_name": result["device"]}))
    if as_json:
        print(json.dumps(result, indent=2, ensure_ascii=False))
    else:
        from longcat.tables import print_mfu

        print_mfu(result)
