"""`longcat mfu`: utilisation of any training run, compared with published A100 runs."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal, cast

import typer

from longcat.commands.options import Json, WorkspacePath
from longcat.errors import UserError


def mfu(
    device: Annotated[
        str, typer.Option(metavar="NAME", help="Device name, for example a100-80gb, NVIDIA H200 or Ascend910B2.")
    ],
    sequence_length: Annotated[int, typer.Option(help="Tokens that attention sees.")],
    model: Annotated[
        str | None, typer.Option(metavar="MODEL", help="A config.json, a folder with one, or a preset.")
    ] = None,
    parameters: Annotated[
        float | None, typer.Option(help="Instead of --model: activated parameters with embedding, such as 7e9.")
    ] = None,
    total_parameters: Annotated[
        float | None, typer.Option(help="With --parameters: all parameters of a mixture of experts.")
    ] = None,
    layers: Annotated[
        int | None, typer.Option(min=1, help="With --parameters and --hidden-size: layers, to count attention scores.")
    ] = None,
    hidden_size: Annotated[
        int | None, typer.Option(min=1, help="With --parameters: width of the residual stream.")
    ] = None,
    vocabulary: Annotated[
        int | None,
        typer.Option(min=1, help="With --parameters and --hidden-size: rows of the embedding, which is left out."),
    ] = None,
    devices: Annotated[int, typer.Option(help="Number of devices.")] = 1,
    layout: Annotated[
        str | None, typer.Option(help="Parallel degrees such as tp8,pp4; checked against --devices.")
    ] = None,
    tokens_per_second: Annotated[float | None, typer.Option(help="Speed, summed over all devices.")] = None,
    step_time: Annotated[float | None, typer.Option(help="Seconds per step; needs --batch-tokens.")] = None,
    batch_tokens: Annotated[int | None, typer.Option(help="Tokens per step, over all devices.")] = None,
    log: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Log of Megatron, MindSpeed, torchtitan or nanoGPT, a Trainer's trainer_state.json, or our metrics.jsonl.",
        ),
    ] = None,
    mlflow_run: Annotated[
        str | None, typer.Option(metavar="ID", help="MLflow run of longcat, a Trainer or llm-foundry.")
    ] = None,
    tracking_uri: Annotated[
        str | None,
        typer.Option(metavar="URI", envvar="MLFLOW_TRACKING_URI", help="Tracking server or store of that run."),
    ] = None,
    workspace: WorkspacePath = Path("workspace"),
    precision: Annotated[
        str, typer.Option(metavar="TYPE", help="Precision of the matrix products: bf16, fp16, fp32 or fp8.")
    ] = "bf16",
    peak_tflops: Annotated[
        float | None, typer.Option(help="Dense peak of one device in TFLOP/s; needed for devices outside the table.")
    ] = None,
    ffn_experts: Annotated[
        float | None, typer.Option(help="Mean routed experts per token, as measured (LongCat).")
    ] = None,
    mtp: Annotated[bool, typer.Option("--mtp", help="Also count num_nextn_predict_layers (DeepSeek).")] = False,
    recompute: Annotated[
        str,
        typer.Option(
            metavar="WHAT", help="Recomputation in the backward pass: none, selective (attention scores) or full."
        ),
    ] = "none",
    html: Annotated[Path | None, typer.Option(metavar="FILE", help="Also write the answer as an HTML page.")] = None,
    as_json: Json = False,
) -> None:
    """Compute the MFU of any training run and compare it with published A100 runs, without running anything."""
    from longcat.benchmark.logs import METRICS, TOKENS_SEEN, LogContext, Throughput, read_log, read_metrics
    from longcat.benchmark.mfu_answer import answer, check_layout, find_workload
    from longcat.costs.decoder import sized_workload

    _one_of("--recompute", recompute, ("none", "selective", "full"))
    _one_of("--precision", precision, ("bf16", "fp16", "fp32", "fp8"))
    sizes = {"--total-parameters": total_parameters, "--layers": layers, "--hidden-size": hidden_size}
    sizes["--vocabulary"] = vocabulary
    for name, given in (("--ffn-experts", ffn_experts is not None), ("--mtp", mtp)):
        if given and model is None:
            raise UserError(f"{name} can only be used with --model")
    if batch_tokens is not None and 0 < batch_tokens < sequence_length:
        raise UserError(
            f"--batch-tokens {batch_tokens} are fewer than one sequence of {sequence_length}: tokens, not sequences"
        )
    if (model is None) == (parameters is None):
        raise UserError("give exactly one of --model and --parameters")
    if unused := [name for name, given in sizes.items() if given is not None and model is not None]:
        raise UserError(f"{', '.join(unused)} can only be used with --parameters; --model already contains these sizes")
    if sum(given is not None for given in (tokens_per_second, step_time, log, mlflow_run)) != 1:
        raise UserError("give the speed by exactly one of --tokens-per-second, --step-time, --log and --mlflow-run")
    for name, number in (
        ("--step-time", step_time), ("--batch-tokens", batch_tokens), ("--ffn-experts", ffn_experts),
        ("--parameters", parameters), ("--total-parameters", total_parameters),
    ):  # fmt: skip
        if number is not None and not 0 < number < float("inf"):
            raise UserError(f"{name} must be above 0, found {number:g}")
    if layout is not None:
        check_layout(layout, devices)
    if parameters is not None:
        workload = sized_workload(
            parameters,
            layers=layers,
            hidden_size=hidden_size,
            vocabulary=vocabulary,
            total_parameters=total_parameters,
        )
    else:
        workload = find_workload(str(model), ffn_experts, mtp=mtp)
    logged: Throughput | None = None
    context = LogContext(devices, sequence_length, batch_tokens)
    if step_time is not None:
        if batch_tokens is None:
            raise UserError("--step-time needs --batch-tokens")
        tokens_per_second = batch_tokens / step_time
    elif log is not None:
        logged = read_log(log, context)
    elif mlflow_run is not None:
        from longcat.tracking import metric_histories

        uri = tracking_uri or f"sqlite:///{workspace.resolve() / 'mlflow.db'}"
        logged = read_metrics(metric_histories(uri, mlflow_run, [*METRICS, TOKENS_SEEN]), mlflow_run, context)
    if logged is not None:
        tokens_per_second = logged.tokens_per_second
    assert tokens_per_second is not None
    result = answer(
        workload,
        device=device,
        devices=devices,
        tokens_per_second=tokens_per_second,
        sequence_length=sequence_length,
        precision=cast(Literal["bf16", "fp16", "fp32", "fp8"], precision),
        peak_tflops=peak_tflops,
        recomputation=cast(Literal["none", "selective", "full"], recompute),
    )
    if logged is not None:
        result["log"] = asdict(logged)
    if html is not None:
        from longcat.benchmark.report import html as page

        try:
            html.write_text(page(result | {"device_name": device}), encoding="utf-8")
        except OSError as error:
            raise UserError(f"--html {html}: {error.strerror}") from None
    if as_json:
        print(json.dumps(result, indent=2, ensure_ascii=False))
    else:
        from longcat.terminal import print_mfu

        print_mfu(result)


def _one_of(option: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise UserError(f"{option} {value}: there are {', '.join(known[:-1])} and {known[-1]}")
