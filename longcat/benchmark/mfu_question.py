"""The question of `longcat mfu`, in its options: what contradicts is refused, and the speed is read from wherever it is."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from longcat.benchmark.logs import METRICS, TOKENS_SEEN, read_log, read_metrics
from longcat.benchmark.logs.throughput import LogContext, Recorded, Throughput
from longcat.benchmark.mfu_answer import Run, answer
from longcat.benchmark.mfu_inputs import check_layout, find_workload
from longcat.costs.decoder import sized_workload
from longcat.errors import UserError

if TYPE_CHECKING:
    from longcat.benchmark.matching import Routing
    from longcat.costs.hardware import Precision
    from longcat.costs.mfu import Recomputation

ReadRun = Callable[[str, Sequence[str]], Recorded]
"""Reads metrics of an MLflow run: its id, and their names."""


def answer_question(
    device: str,
    sequence_length: int,
    *,
    model: str | None = None,
    parameters: float | None = None,
    total_parameters: float | None = None,
    layers: int | None = None,
    hidden_size: int | None = None,
    attention_width: int | None = None,
    vocabulary: int | None = None,
    ffn_experts: float | None = None,
    mtp: bool = False,
    devices: int = 1,
    nodes: int | None = None,
    layout: str | None = None,
    precision: str = "bf16",
    peak_tflops: float | None = None,
    recompute: str = "none",
    routing: str | None = None,
    fine_tuning: bool | None = None,
    trainable_parameters: float | None = None,
    tokens_per_second: float | None = None,
    step_time: float | None = None,
    batch_tokens: int | None = None,
    log: Path | None = None,
    mlflow_run: str | None = None,
    read_run: ReadRun | None = None,
) -> dict[str, Any]:
    """Answer what `longcat mfu` is asked; the arguments are its options (docs/benchmark.md).

    Args:
        device: name in the table of hardware, or any with `peak_tflops`.
        sequence_length: tokens that attention sees.
        model: a preset, a config.json or a folder with one; or else `parameters`.
        parameters: activated parameters with embedding.
        total_parameters: with `parameters`: all of a mixture.
        layers: with `parameters` and `hidden_size`: to count attention scores.
        hidden_size: with `parameters`: width of the residual stream.
        attention_width: with `parameters` and `layers`: heads x head dimension.
        vocabulary: with `parameters` and `hidden_size`: rows of the embedding.
        ffn_experts: mean routed experts per token, as measured.
        mtp: count DeepSeek's multi-token prediction.
        devices: their number.
        nodes: their number; None takes the usual one.
        layout: parallel degrees such as `tp8,pp4`.
        precision: bf16, fp16, fp32 or fp8.
        peak_tflops: dense peak of a device, in TFLOP/s.
        recompute: none, selective or full.
        routing: dropless, drops or forced-balance.
        fine_tuning: whether a trained model is tuned.
        trainable_parameters: parameters with a gradient, if others are frozen.
        tokens_per_second: speed, summed over all devices; or another source of it below.
        step_time: seconds per step, with `batch_tokens`.
        batch_tokens: tokens per step.
        log: a log file to read the speed from.
        mlflow_run: id of an MLflow run to read the speed from.
        read_run: reads that run.

    Returns:
        The answer of `longcat.benchmark.mfu_answer.answer`, as JSON values.

    Raises:
        UserError: the arguments contradict one another or are out of range.
        DataError: the log or the run cannot be read, or the MFU is above 100 %.
    """
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
            total_parameters=workload.total_parameters,
            non_embedding_parameters=workload.total_parameters - workload.embedding_parameters,
            trainable_parameters=trainable_parameters,
        )
        logged = _read(log, mlflow_run, read_run, context)
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
    return answer(workload, run, tokens_per_second, logged=logged)


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


def _read(log: Path | None, mlflow_run: str | None, read_run: ReadRun | None, context: LogContext) -> Throughput:
    """Read the throughput from a log or from a tracked run."""
    if log is not None:
        return read_log(log, context)
    assert mlflow_run is not None
    if read_run is None:
        raise UserError("--mlflow-run needs a store")
    return read_metrics(read_run(mlflow_run, [*METRICS, TOKENS_SEEN]), mlflow_run, context)
