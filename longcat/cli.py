"""`longcat ...`: each command a thin door to a flow or a library call."""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import signal
import sys
import traceback
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

import typer

from longcat.errors import Cancelled, LongcatError, UserError

if TYPE_CHECKING:
    from longcat.config import PipelineConfig

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Pre-train LongCat models, from text to MFU.",
)

Preset = Annotated[
    str | None, typer.Option("--preset", "-p", metavar="NAME", help="Preset to start from (default: tiny).")
]
ConfigFile = Annotated[
    Path | None, typer.Option("--config", "-c", metavar="FILE.yaml", help="Settings laid over the preset.")
]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", "-s", metavar="a.b=c", help="One setting; may be repeated.")
]
WorkspacePath = Annotated[
    Path, typer.Option("--workspace", "-w", metavar="DIR", envvar="LONGCAT_WORKSPACE", help="Where results are kept.")
]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]

_ENVIRONMENT = {
    "DO_NOT_TRACK": "true",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_CONFIGURE_LOGGING": "false",  # its records go where ours go
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    "TOKENIZERS_PARALLELISM": "true",
    "TQDM_DISABLE": "1",
    "TORCH_DEVICE_BACKEND_AUTOLOAD": "0",  # a torch_npu without CANN would end every import of torch
}
"""Set before the libraries are imported, where the user has not set them: no telemetry, no bars but ours."""


@app.callback()
def _settle(context: typer.Context) -> None:
    if context.invoked_subcommand != "emulate":  # somebody else's program
        for name, value in _ENVIRONMENT.items():
            os.environ.setdefault(name, value)


def _run(
    flow: str, preset: str | None, config: Path | None, overrides: list[str] | None, workspace: Path, as_json: bool
) -> None:
    """Run a flow in this process and print its summary."""
    from longcat.artifact import Workspace
    from longcat.config import load_config

    settings = load_config(preset, config, overrides or ())  # mistakes are told before anything is started
    workspace = workspace.expanduser().resolve()
    space = Workspace(workspace)
    if not any(source.kind == "hub" for source in settings.corpus.sources):
        os.environ.setdefault("HF_HUB_OFFLINE", "1")
    with space.lease():
        from flows.server import prefect_api
        from longcat.progress import listening
        from longcat.terminal import Display, aside, print_summary

        with (
            Display(quiet=as_json) as display,
            aside(workspace / "logs" / "run.log", display.warn),
            listening(display),
            prefect_api(workspace),
        ):
            function: Callable[..., dict[str, Any]] = getattr(importlib.import_module(f"flows.{flow}"), flow)
            summary = function(
                preset=preset,
                config_file=None if config is None else str(config),
                overrides=overrides or [],
                workspace=str(workspace),
            )
    if as_json:
        print(json.dumps(summary, indent=2, ensure_ascii=False))
    else:
        print_summary(summary)


@app.command()
def run(
    preset: Preset = None,
    config: ConfigFile = None,
    set_: Overrides = None,
    workspace: WorkspacePath = Path("workspace"),
    as_json: Json = False,
) -> None:
    """The whole pipeline: preprocess, pretrain, benchmark, evaluate."""
    _run("pipeline", preset, config, set_, workspace, as_json)


@app.command()
def preprocess(
    preset: Preset = None,
    config: ConfigFile = None,
    set_: Overrides = None,
    workspace: WorkspacePath = Path("workspace"),
    as_json: Json = False,
) -> None:
    """Text to token shards."""
    _run("preprocess", preset, config, set_, workspace, as_json)


@app.command()
def pretrain(
    preset: Preset = None,
    config: ConfigFile = None,
    set_: Overrides = None,
    workspace: WorkspacePath = Path("workspace"),
    as_json: Json = False,
) -> None:
    """Token shards to a checkpoint; makes the shards if they are not there."""
    _run("pretrain", preset, config, set_, workspace, as_json)


@app.command()
def benchmark(
    preset: Preset = None,
    config: ConfigFile = None,
    set_: Overrides = None,
    workspace: WorkspacePath = Path("workspace"),
    as_json: Json = False,
) -> None:
    """MFU of the trained model among published A100 runs; makes the checkpoint if it is not there."""
    _run("benchmark", preset, config, set_, workspace, as_json)


@app.command()
def evaluate(
    preset: Preset = None,
    config: ConfigFile = None,
    set_: Overrides = None,
    workspace: WorkspacePath = Path("workspace"),
    as_json: Json = False,
) -> None:
    """Scores of the trained model; makes the checkpoint if it is not there."""
    _run("evaluate", preset, config, set_, workspace, as_json)


@app.command()
def presets(
    show: Annotated[
        str | None, typer.Option("--show", metavar="NAME", help="Print one preset with all its settings.")
    ] = None,
    as_json: Json = False,
) -> None:
    """List the presets, or show one."""
    from longcat.benchmark.flops import activated_parameters, parameters
    from longcat.config import load_config, preset_names, target_ffn_experts

    if show is not None:
        _show_preset(load_config(show), as_json)
        return
    rows: list[dict[str, Any]] = []
    for name in preset_names():
        config = load_config(name)
        wanted = target_ffn_experts(config.model, config.training.balance)
        rows.append(
            {
                "name": name,
                "total_parameters": sum(parameters(config.model).values()),
                "activated_parameters": round(activated_parameters(config.model, wanted)["mean"]),
                "sequence_length_tokens": config.corpus.sequence_length_tokens,
                "training_tokens": config.training.steps
                * config.training.global_batch_sequences
                * config.corpus.sequence_length_tokens,
            }
        )
    if as_json:
        print(json.dumps(rows, indent=2))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table()
    for column in ("preset", "parameters", "activated a token", "sequence", "training tokens"):
        table.add_column(column, justify="left" if column == "preset" else "right", no_wrap=column == "preset")
    for row in rows:
        table.add_row(
            row["name"],
            _count(row["total_parameters"]),
            _count(row["activated_parameters"]),
            str(row["sequence_length_tokens"]),
            _count(row["training_tokens"]),
        )
    Console().print(table)


@app.command()
def mfu(
    device: Annotated[str, typer.Option(metavar="NAME", help="For example a100-80gb, NVIDIA H200 or Ascend910B2.")],
    sequence_length: Annotated[int, typer.Option(help="Tokens that attention sees.")],
    model: Annotated[
        str | None, typer.Option(metavar="WHAT", help="A config.json, a folder with one, or a preset.")
    ] = None,
    parameters: Annotated[
        float | None, typer.Option(help="Instead of --model: activated parameters with embedding, such as 7e9.")
    ] = None,
    total_parameters: Annotated[
        float | None, typer.Option(help="With --parameters: of a mixture, all of them.")
    ] = None,
    layers: Annotated[int | None, typer.Option(min=1, help="With --parameters: counts attention scores.")] = None,
    hidden_size: Annotated[int | None, typer.Option(min=1, help="With --parameters, for the same.")] = None,
    vocabulary: Annotated[int | None, typer.Option(min=1, help="With --parameters: leaves out the embedding.")] = None,
    devices: Annotated[int, typer.Option(help="How many.")] = 1,
    layout: Annotated[str | None, typer.Option(help="Degrees such as tp8,pp4; checked against the devices.")] = None,
    tokens_per_second: Annotated[float | None, typer.Option(help="Of all devices together.")] = None,
    step_time: Annotated[float | None, typer.Option(help="Seconds of a step; with --batch-tokens.")] = None,
    batch_tokens: Annotated[int | None, typer.Option(help="Tokens of a step over all devices.")] = None,
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
        str | None, typer.Option(metavar="URI", envvar="MLFLOW_TRACKING_URI", help="Where that run is.")
    ] = None,
    workspace: WorkspacePath = Path("workspace"),
    precision: Annotated[str, typer.Option(metavar="WHAT", help="bf16, fp16, fp32 or fp8.")] = "bf16",
    peak_tflops: Annotated[
        float | None, typer.Option(help="Of one device; for one that the table does not have.")
    ] = None,
    ffn_experts: Annotated[
        float | None, typer.Option(help="Mean routed experts of a token, as measured (LongCat).")
    ] = None,
    mtp: Annotated[bool, typer.Option("--mtp", help="Count num_nextn_predict_layers, too (DeepSeek).")] = False,
    recompute: Annotated[str, typer.Option(metavar="WHAT", help="none, selective or full.")] = "none",
    html: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the answer as a page, too.")] = None,
    as_json: Json = False,
) -> None:
    """MFU of any training run, among published A100 runs; nothing is run and torch is not loaded."""
    from longcat.benchmark.answer import answer, check_layout, find_workload
    from longcat.benchmark.logs import METRICS, TOKENS_SEEN, Setting, Throughput, read_log, read_metrics
    from longcat.benchmark.workload import sized_workload

    _one_of("--recompute", recompute, ("none", "selective", "full"))
    _one_of("--precision", precision, ("bf16", "fp16", "fp32", "fp8"))
    sizes = {"--total-parameters": total_parameters, "--layers": layers, "--hidden-size": hidden_size}
    sizes["--vocabulary"] = vocabulary
    for name, given in (("--ffn-experts", ffn_experts is not None), ("--mtp", mtp)):
        if given and model is None:
            raise UserError(f"{name} belongs to --model")
    if batch_tokens is not None and 0 < batch_tokens < sequence_length:
        raise UserError(
            f"--batch-tokens {batch_tokens} are fewer than one sequence of {sequence_length}: tokens are meant"
        )
    if (model is None) == (parameters is None):
        raise UserError("one of --model and --parameters tells what is trained")
    if unused := [name for name, given in sizes.items() if given is not None and model is not None]:
        raise UserError(f"{', '.join(unused)} belong to --parameters; --model says it already")
    if sum(given is not None for given in (tokens_per_second, step_time, log, mlflow_run)) != 1:
        raise UserError("one of --tokens-per-second, --step-time, --log and --mlflow-run tells the speed")
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
    read: Throughput | None = None
    setting = Setting(devices, sequence_length, batch_tokens)
    if step_time is not None:
        if batch_tokens is None:
            raise UserError("--step-time needs --batch-tokens")
        tokens_per_second = batch_tokens / step_time
    elif log is not None:
        read = read_log(log, setting)
    elif mlflow_run is not None:
        from longcat.tracking import metric_histories

        uri = tracking_uri or f"sqlite:///{workspace.resolve() / 'mlflow.db'}"
        read = read_metrics(metric_histories(uri, mlflow_run, [*METRICS, TOKENS_SEEN]), mlflow_run, setting)
    if read is not None:
        tokens_per_second = read.tokens_per_second
    assert tokens_per_second is not None
    found = answer(
        workload,
        device=device,
        devices=devices,
        tokens_per_second=tokens_per_second,
        sequence_length=sequence_length,
        precision=cast(Literal["bf16", "fp16", "fp32", "fp8"], precision),
        peak_tflops=peak_tflops,
        recomputation=cast(Literal["none", "selective", "full"], recompute),
    )
    if read is not None:
        found["log"] = asdict(read)
    if html is not None:
        from longcat.benchmark.report import html as page

        try:
            html.write_text(page(found | {"device_name": device}), encoding="utf-8")
        except OSError as error:
            raise UserError(f"--html {html}: {error.strerror}") from None
    if as_json:
        print(json.dumps(found, indent=2, ensure_ascii=False))
    else:
        from longcat.terminal import print_mfu

        print_mfu(found)


def _one_of(option: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise UserError(f"{option} {value}: there are {', '.join(known[:-1])} and {known[-1]}")


def _count(number: float) -> str:
    """A large number for people: 2.7 M, 68.6 B."""
    size, unit = (1e9, "B") if number >= 1e9 else (1e6, "M")
    return f"{number / size:,.2f} {unit}"


def _show_preset(config: PipelineConfig, as_json: bool) -> None:
    """Everything a preset settles, and the size of its model."""
    import yaml

    from longcat.benchmark.flops import activated_parameters, parameters
    from longcat.config import target_ffn_experts

    wanted = target_ffn_experts(config.model, config.training.balance)
    counts, active = parameters(config.model), activated_parameters(config.model, wanted)
    tree = config.model_dump(mode="json")
    if as_json:
        sizes = {
            "total_parameters": sum(counts.values()),
            "ngram_parameters": counts.get("ngram_tables", 0),
            "activated_parameters": {name: round(value) for name, value in active.items()},
            "parameters": counts,
        }
        print(json.dumps({"name": config.preset, **sizes, **tree}, indent=2))
        return
    from longcat.terminal import print_pairs

    print(yaml.safe_dump(tree, sort_keys=False, allow_unicode=True).rstrip())
    pairs = {name.replace("_", " "): f"{count:,}" for name, count in counts.items()}
    pairs["total"] = f"{sum(counts.values()):,}"
    for name, experts in (("min", "no"), ("mean", f"{wanted:g}"), ("max", f"{config.model.moe_topk}")):
        pairs[f"activated, {name}"] = f"{round(active[name]):,} ({experts} routed experts a layer)"
    print_pairs("parameters", pairs)


@app.command()
def generate(
    checkpoint: Annotated[Path, typer.Option(metavar="DIR", help="Checkpoint artifact, or a Hugging Face folder.")],
    prompt: Annotated[str, typer.Option(help="Text to go on from; empty starts a document.")] = "",
    max_tokens: Annotated[int, typer.Option(min=1, help="Most tokens to add.")] = 128,
    temperature: Annotated[float, typer.Option(min=0, help="0 takes the likeliest token, more is more varied.")] = 0.0,
    top_k: Annotated[int | None, typer.Option(min=1, help="Sample from so many likeliest tokens only.")] = None,
    top_p: Annotated[float, typer.Option(min=0, max=1, help="Sample from the likeliest tokens up to this sum.")] = 1.0,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the sampling.")] = 0,
) -> None:
    """Let a trained model continue a text."""
    from longcat.corpus.tokenizer import END_OF_TEXT, open_tokenizer
    from longcat.errors import ConfigError
    from longcat.interchange import load_huggingface
    from longcat.interchange.convert import model_folder
    from longcat.model.generation import generate as continuation

    folder = model_folder(checkpoint)
    if not (folder / "tokenizer.json").is_file():
        raise ConfigError(f"--checkpoint {checkpoint}: no tokenizer.json in {folder}")
    model, tokenizer = load_huggingface(folder), open_tokenizer(folder / "tokenizer.json")
    first: list[int] = tokenizer.encode(prompt, add_special_tokens=False).ids or [END_OF_TEXT]
    chosen: list[int] = []
    shown = ""
    print(prompt, end="", flush=True)
    for token in continuation(
        model, first, max_tokens, temperature=temperature, top_k=top_k, top_p=top_p, seed=seed, stop=END_OF_TEXT
    ):
        chosen.append(token)
        text: str = tokenizer.decode(chosen)
        if not text.endswith("\ufffd"):  # a character whose last bytes are still to come
            print(text[len(shown) :], end="", flush=True)
            shown = text
    print(flush=True)


@app.command()
def export(
    checkpoint: Annotated[Path, typer.Option(metavar="DIR", help="Checkpoint artifact, or a Hugging Face folder.")],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="Folder to write; must not exist.")],
    format_: Annotated[str, typer.Option("--format", metavar="FORMAT", help="Only huggingface.")] = "huggingface",
    dtype: Annotated[
        str | None, typer.Option(metavar="TYPE", help="float32, bfloat16 or float16 (default: as it is).")
    ] = None,
    shard_gb: Annotated[float, typer.Option(min=0.001, help="Size of a file.")] = 4.0,
    routed_only: Annotated[
        bool, typer.Option("--routed-only", help="Routed experts only, as Meituan's folders; transformers wants more.")
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


@app.command("import")
def import_(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Hugging Face folder of a LongCat model.")],
    workspace: WorkspacePath = Path("workspace"),
    shard_gb: Annotated[float, typer.Option(min=0.001, help="Size of a file.")] = 4.0,
) -> None:
    """Make a checkpoint of somebody's Hugging Face folder; prints where it is."""
    from longcat.artifact import Workspace
    from longcat.interchange.convert import import_folder

    space = Workspace(workspace.expanduser().resolve())
    with space.lease():
        print(import_folder(folder.expanduser().resolve(), space, shard_bytes=int(shard_gb * 1e9)).path)


@app.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
def emulate(
    command: Annotated[list[str], typer.Argument(metavar="PROGRAM [ARGUMENTS]...", help="What to run.")],
    python: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Python of an environment with torch_npu (default: .venv-emulator's)."),
    ] = None,
) -> None:
    """Run a program, for example `python train.py`, with torch_npu on an Ascend emulated on the CPU."""
    from longcat.emulator.command import emulate as run_emulated

    run_emulated(command, python)


@app.command()
def doctor(workspace: WorkspacePath = Path("workspace"), as_json: Json = False) -> None:
    """Say what this machine can do, and what is missing."""
    from longcat.doctor import examine

    facts = examine(workspace.expanduser().resolve())
    if as_json:
        print(json.dumps(facts, indent=2, ensure_ascii=False))
    else:
        from longcat.terminal import print_pairs

        accelerator, versions, problems = (facts.pop(name) for name in ("accelerator", "versions", "problems"))
        print_pairs(
            "this machine",
            {name: "none" if value is None else value for name, value in facts.items()}
            | {f"accelerator {name}": value for name, value in (accelerator or {}).items()},
        )
        print_pairs("packages", {name: version or "not installed" for name, version in versions.items()})
        print("\n".join(f"problem: {text}" for text in problems) or "no problem found")
        facts["problems"] = problems
    if facts["problems"]:
        raise typer.Exit(2)


@app.command()
def sync(workspace: WorkspacePath = Path("workspace")) -> None:
    """Send MLflow what it missed while it could not be reached."""
    from longcat.artifact import Workspace
    from longcat.terminal import aside
    from longcat.tracking import sync as send

    space = Workspace(workspace)
    with aside(space.path / "logs" / "sync.log", lambda _: None):
        sent = send(space)
    print(f"sent {sent} run{'' if sent == 1 else 's'}" if sent else "nothing to send")


@app.command()
def ui(
    workspace: WorkspacePath = Path("workspace"),
    mlflow_port: Annotated[int, typer.Option(help="Loopback port of MLflow's pages.")] = 5010,
    prefect_port: Annotated[int, typer.Option(help="Loopback port of Prefect's pages.")] = 4210,
) -> None:
    """Show MLflow and Prefect for what was run in a workspace, until Ctrl-C."""
    from longcat.ui import serve

    with contextlib.suppress(KeyboardInterrupt, Cancelled):  # the ways to end it
        serve(workspace.expanduser().resolve(), mlflow_port, prefect_port)


_INTERRUPTED = 130


def _on_terminate(_signal: int, _frame: FrameType | None) -> None:
    raise Cancelled("stopped by SIGTERM; run the same command again to go on from the last checkpoint")


def main() -> None:
    """Entry point: turns errors into one line and an exit code."""
    signal.signal(signal.SIGTERM, _on_terminate)
    try:
        # the command's exit code where typer has caught its exit or an interrupt, else None
        code = app(standalone_mode=False) or 0
        if code == _INTERRUPTED:
            raise KeyboardInterrupt
    except LongcatError as error:
        print(f"error: {error}", file=sys.stderr)
        code = error.exit_code
    except (typer.Abort, KeyboardInterrupt):
        print("error: interrupted; run the same command again to go on from the last checkpoint", file=sys.stderr)
        code = _INTERRUPTED
    except Exception as error:
        if type(error).__module__.startswith(("click", "typer")) and hasattr(error, "exit_code"):
            context = getattr(error, "ctx", None)
            if context is None or type(error).__name__ == "NoArgsIsHelpError":
                error.show()  # type: ignore[attr-defined]
            else:
                text = " ".join(error.format_message().split()).rstrip(".")  # type: ignore[attr-defined]
                print(f"error: {text}; see {context.command_path} --help", file=sys.stderr)
            code = int(error.exit_code)
        else:
            if os.environ.get("LONGCAT_DEBUG"):
                traceback.print_exc()
            text = str(error).splitlines()[0] if str(error) else ""
            where = "; ".join(getattr(error, "__notes__", ())) or "LONGCAT_DEBUG=1 shows where"
            print(f"error: {type(error).__name__}: {text} ({where})", file=sys.stderr)
            code = 1
    sys.exit(code)


if __name__ == "__main__":
    main()
