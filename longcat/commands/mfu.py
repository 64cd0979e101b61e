"""`longcat mfu`: utilisation of any training run, compared with published A100 runs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from longcat.commands.options import Json, WorkspacePath
from longcat.errors import UserError
from longcat.stores import sqlite_url

if TYPE_CHECKING:
    from longcat.benchmark.logs.throughput import LogContext, Throughput
    from longcat.benchmark.matching import Routing
    from longcat.costs.hardware import Precision
    from longcat.costs.mfu import Recomputation

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
    fine_tuning: Annotated[
        bool | None,
        typer.Option(
            "--fine-tuning/--pre-training",
            help="Whether the run tunes a trained model; some logs show it.",
            show_default=False,
            rich_help_panel=_TUNING,
        ),
    ] = None,
    trainable_parameters: Annotated[
        float | None,
        typer.Option(
            metavar="NUMBER",
            help="Parameters with a gradient where the others are frozen, as with LoRA.",
            rich_help_panel=_TUNING,
        ),
    ] = None,
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
            help="Log of Megatron, MindSpeed, torchtitan, a Trainer and fifteen other tools; see docs/benchmark.md.",
            rich_help_panel=_SPEED,
        ),
    ] = None,
    mlflow_run: Annotated[
        str | None,
        typer.Option(metavar="ID", help="MLflow run of longcat, a Trainer or llm-foundry.", rich_help_panel=_SPEED),
    ] = None,
    tracking_uri: Annotated[
        str | None,
        typer.Option(
            metavar="URI",
            envvar="MLFLOW_TRACKING_URI",
            help="Tracking server or store of that run.",
            rich_help_panel=_SPEED,
        ),
    ] = None,
    workspace: WorkspacePath = Path("workspace"),
    html: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Also write the answer as an HTML page.", rich_help_panel=_ANSWER),
    ] = None,
    as_json: Json = False,
) -> None:
    """Compute the MFU of any training run and compare it with published A100 runs, without running anything."""
    from longcat.benchmark.logs.throughput import LogContext
    from longcat.benchmark.mfu_answer import Run, answer
    from longcat.benchmark.mfu_inputs import check_layout, find_workload
    from longcat.costs.decoder import sized_workload

    _one_of("--recompute", recompute, ("none", "selective", "full"))
    _one_of("--precision", precision, ("bf16", "fp16", "fp32", "fp8"))
    if routing is not None:
        _one_of("--routing", routing, ("dropless", "drops", "forced-balance"))
    sizes = {
        "--total-parameters": total_parameters,
        "--layers": layers,
        "--hidden-size": hidden_size,
        "--attention-width": attention_width,
        "--vocabulary": vocabulary,
    }
    _check_model(model, parameters, sizes, {"--ffn-experts": ffn_experts is not None, "--mtp": mtp})
    _check_speed(
        {
            "--tokens-per-second": tokens_per_second,
            "--step-time": step_time,
            "--log": log,
            "--mlflow-run": mlflow_run,
        },
        batch_tokens,
        sequence_length,
    )
    for name, number in (
        ("--step-time", step_time), ("--batch-tokens", batch_tokens), ("--ffn-experts", ffn_experts),
        ("--parameters", parameters), ("--total-parameters", total_parameters),
        ("--trainable-parameters", trainable_parameters),
    ):  # fmt: skip
        if number is not None and not 0 < number < float("inf"):
            raise UserError(f"{name} must be above 0, found {number:g}")
    if nodes is not None and not 0 < nodes <= devices:
        raise UserError(f"--nodes {nodes}: there are only --devices {devices}")
    if layout is not None:
        check_layout(layout, devices)
    if parameters is not None:
        workload = sized_workload(
            parameters,
            layers=layers,
            hidden_size=hidden_size,
            attention_width=attention_width,
            vocabulary=vocabulary,
            total_parameters=total_parameters,
        )
    else:
        workload = find_workload(str(model), ffn_experts, mtp=mtp)
    logged: Throughput | None = None
    if tokens_per_second is None and step_time is None:
        context = LogContext(
            devices,
            sequence_length,
            batch_tokens,
            non_embedding_parameters=workload.total_parameters - workload.embedding_parameters,
            trainable_parameters=trainable_parameters,
        )
        logged = _read(log, mlflow_run, tracking_uri or sqlite_url(workspace.resolve() / "mlflow.db"), context)
        tokens_per_second = logged.tokens_per_second
    elif tokens_per_second is None:
        assert step_time is not None
        assert batch_tokens is not None
        tokens_per_second = batch_tokens / step_time
    run = Run(
        device=device,
        devices=devices,
        sequence_length=sequence_length,
        precision=cast("Precision", precision),
        peak_tflops=peak_tflops,
        recomputation=cast("Recomputation", recompute),
        nodes=nodes,
        routing=cast("Routing", (routing or "").replace("-", " ")),
        fine_tuning=fine_tuning,
        trainable_parameters=trainable_parameters,
    )
    result = answer(workload, run, tokens_per_second, logged=logged)
    if html is not None:
        _write_page(html, result)
    if as_json:
        print(json.dumps(result, indent=2, ensure_ascii=False))
    else:
        from longcat.tables import print_mfu

        print_mfu(result)


def _one_of(option: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise UserError(f"{option} {value}: there are {', '.join(known[:-1])} and {known[-1]}")


def _check_model(
    model: str | None, parameters: float | None, sizes: Mapping[str, Any], of_model: Mapping[str, bool]
) -> None:
    """Refuse options that contradict one another on what is trained."""
    for name, given in of_model.items():
        if given and model is None:
            raise UserError(f"{name} can only be used with --model")
    if (model is None) == (parameters is None):
        raise UserError("give exactly one of --model and --parameters")
    if unused := [name for name, given in sizes.items() if given is not None and model is not None]:
        raise UserError(f"{', '.join(unused)} can only be used with --parameters; --model already contains these sizes")
    if sizes["--attention-width"] is not None and sizes["--layers"] is None:
        raise UserError("--attention-width needs --layers")


def _check_speed(speeds: Mapping[str, Any], batch_tokens: int | None, sequence_length: int) -> None:
    """Refuse more than one speed, and a batch that cannot be one."""
    if batch_tokens is not None and 0 < batch_tokens < sequence_length:
        raise UserError(
            f"--batch-tokens {batch_tokens} are fewer than one sequence of {sequence_length}: tokens, not sequences"
        )
    if sum(given is not None for given in speeds.values()) != 1:
        raise UserError("give the speed by exactly one of --tokens-per-second, --step-time, --log and --mlflow-run")
    if speeds["--step-time"] is not None and batch_tokens is None:
        raise UserError("--step-time needs --batch-tokens")


def _read(log: Path | None, mlflow_run: str | None, tracking_uri: str, context: LogContext) -> Throughput:
    """Read the throughput from a log or from a tracked run."""
    from longcat.benchmark.logs import METRICS, TOKENS_SEEN, read_log, read_metrics

    if log is not None:
        return read_log(log, context)
    from longcat.tracking.store import metric_histories

    assert mlflow_run is not None
    return read_metrics(metric_histories(tracking_uri, mlflow_run, [*METRICS, TOKENS_SEEN]), mlflow_run, context)


def _write_page(path: Path, result: Mapping[str, Any]) -> None:
    """Write the answer as an HTML page."""
    from longcat.benchmark.report import html

    try:
        path.write_text(html({**result, "device_name": result["device"]}), encoding="utf-8")
    except OSError as error:
        raise UserError(f"--html {path}: {error.strerror}") from None
