"""longcat as a library: what `import longcat` offers. Every function calls what the command of its name calls.

Nothing here is imported before one of its names is used (`longcat.__getattr__`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from longcat.artifact import Artifact
from longcat.config import PipelineConfig, preset_names
from longcat.config import load_config as _load_config
from longcat.errors import ConfigError
from longcat.flows.dag import PIPELINE
from longcat.progress import Reporter, no_progress, progress_listener

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from longcat.benchmark.stage import BenchmarkFacts
    from longcat.corpus.facts import TokensFacts
    from longcat.evaluation.stage import EvaluationFacts
    from longcat.inference.opening import OpenCheckpoint
    from longcat.inference.requests import Generated, Likelihood
    from longcat.inference.runner import Runner
    from longcat.interchange.checkpoint_facts import CheckpointFacts
    from longcat.training.cost import Cost

StrPath = str | Path
Overrides = Mapping[str, Any] | Sequence[str]
"""Settings by their dotted key, `{"training.steps": 500}`, or as the command line has them, `["training.steps=500"]`."""


def load_config(preset: str | None = None, config: StrPath | None = None, overrides: Overrides = ()) -> PipelineConfig:
    """Build a configuration: preset, then file, then overrides, each over the one before.

    Args:
        preset: to start from; `tiny` when neither this nor a file is given.
        config: YAML file of settings.
        overrides: settings by their dotted key.

    Raises:
        ConfigError: names the field, with the nearest right key for an unknown one.
    """
    return _load_config(preset, _path(config), _settings(overrides))


# ---------------------------------------------------------------------------------------------------- a model


def load(
    checkpoint: StrPath, *, workspace: StrPath = "workspace", accelerator: str = "auto", precision: str = "auto"
) -> Model:
    """Open a checkpoint: one that was trained here, or a Hugging Face folder of a LongCat model.

    Args:
        checkpoint: a folder, the first characters of a digest in the workspace, or `DIGEST@STEP`.
        workspace: where digests are looked for.
        accelerator: `auto`, `npu`, `cuda` or `cpu`.
        precision: `auto`, `fp32` or `bf16`.

    Raises:
        ConfigError: there is no such checkpoint, device or precision.
        DataError: weights or tokenizer are unreadable.
    """
    from longcat.training.named import open_named

    return Model(open_named(str(checkpoint), Path(workspace).expanduser(), accelerator, precision))


@dataclass(frozen=True)
class Model:
    """An open checkpoint: a model on its accelerator, with its tokenizer."""

    opened: OpenCheckpoint
    """What the other parts of longcat work with; `opened.model` is the torch module."""

    @property
    def tokenizer(self) -> Tokenizer:
        """Return the tokenizer."""
        return self.opened.tokenizer

    def encode(self, text: str) -> list[int]:
        """Return the tokens of a text; nothing is added to them."""
        return self.opened.encode(text)

    def decode(self, tokens: Sequence[int]) -> str:
        """Return the text of tokens, special ones included."""
        text: str = self.tokenizer.decode(list(tokens), skip_special_tokens=False)
        return text

    @overload
    def generate(  # type: ignore[overload-overlap]  # a string is a sequence of strings as well
        self,
        prompts: str = ...,
        *,
        max_tokens: int = ...,
        temperature: float = ...,
        top_k: int | None = ...,
        top_p: float = ...,
        seed: int = ...,
        stop: Sequence[str] = ...,
    ) -> Generated: ...
    @overload
    def generate(
        self,
        prompts: Sequence[str],
        *,
        max_tokens: int = ...,
        temperature: float = ...,
        top_k: int | None = ...,
        top_p: float = ...,
        seed: int = ...,
        stop: Sequence[str] = ...,
    ) -> list[Generated]: ...
    def generate(
        self,
        prompts: str | Sequence[str] = "",
        *,
        max_tokens: int = 128,
        temperature: float = 0.0,
        top_k: int | None = None,
        top_p: float = 1.0,
        seed: int = 0,
        stop: Sequence[str] = (),
    ) -> Generated | list[Generated]:
        """Continue one text, or several side by side; what is returned has the new text in `.text`.

        Args:
            prompts: what comes before; an empty one begins a document.
            max_tokens: most tokens to make.
            temperature: 0 takes the likeliest token, higher values give more varied text.
            top_k: sample from this many likeliest tokens only.
            top_p: sample from the likeliest tokens up to this total probability.
            seed: of the sampling; each text has its own random numbers.
            stop: strings that end a text.

        Raises:
            ConfigError: a value is out of its range, or `max_tokens` leaves no room for a prompt.
        """
        from longcat.inference.requests import Prompt
        from longcat.inference.sampling import Sampling

        sampling = Sampling(max_tokens, temperature, top_k, top_p, seed)
        texts = [prompts] if isinstance(prompts, str) else prompts
        made = self._runner.generate([Prompt(self.encode(text), sampling, tuple(stop)) for text in texts])
        return made[0] if isinstance(prompts, str) else made

    @overload
    def loglikelihood(self, context: str, text: str) -> Likelihood: ...
    @overload
    def loglikelihood(self, context: Sequence[tuple[str, str]]) -> list[Likelihood]: ...
    def loglikelihood(
        self, context: str | Sequence[tuple[str, str]], text: str | None = None
    ) -> Likelihood | list[Likelihood]:
        """Return how likely a text is after a context, in `.nats`; or the same of several pairs of context and text.

        Raises:
            ConfigError: a text alone is longer than the model reads.
            DataError: a text adds no token to its context.
        """
        pairs = [(context, text or "")] if isinstance(context, str) else context
        found = self._runner.likelihoods([self.opened.continuation(*pair) for pair in pairs])
        return found[0] if isinstance(context, str) else found

    @cached_property
    def _runner(self) -> Runner:
        from longcat.inference.runner import Runner

        return Runner(self.opened)


# ---------------------------------------------------------------------------------------------------- a run


@dataclass(frozen=True)
class Run:
    """What a run has made."""

    artifacts: Mapping[str, Artifact[Any]]
    """By stage: each with its `path`, its `digest`, its `facts`, and whether it was `cached`."""
    summary: Mapping[str, Any]
    """What the command prints with `--json`."""

    def __getitem__(self, stage: str) -> Artifact[Any]:
        """Return the artifact of a stage."""
        return self.artifacts[stage]

    @property
    def tokens(self) -> Artifact[TokensFacts]:
        """Return the tokens; KeyError if the run made none."""
        return self.artifacts["preprocess"]

    @property
    def checkpoint(self) -> Artifact[CheckpointFacts]:
        """Return the checkpoint; KeyError if the run made none."""
        return self.artifacts["pretrain"]

    @property
    def benchmark(self) -> Artifact[BenchmarkFacts]:
        """Return the MFU and its report; KeyError if the run made none."""
        return self.artifacts["benchmark"]

    @property
    def evaluation(self) -> Artifact[EvaluationFacts]:
        """Return the scores; KeyError if the run made none."""
        return self.artifacts["evaluate"]


def run(
    stage: str = PIPELINE,
    preset: str | None = None,
    *,
    config: StrPath | None = None,
    overrides: Overrides = (),
    workspace: StrPath = "workspace",
    checkpoint: StrPath | None = None,
    tracked: bool = True,
    report: Reporter = no_progress,
) -> Run:
    """Run a stage with all that it needs, or the whole pipeline; finished artifacts are reused.

    Args:
        stage: `pipeline`, `preprocess`, `pretrain`, `benchmark`, `evaluate`, or one of your own (docs/extending.md).
        preset: to start from; `tiny` when neither this nor a file is given.
        config: YAML file of settings.
        overrides: settings by their dotted key.
        workspace: folder for results.
        checkpoint: a checkpoint to take instead of one that is trained, as for `load`.
        tracked: with Prefect and MLflow, as the command runs it. Otherwise stages are called as plain functions.
        report: hears of progress.

    Raises:
        UserError: a mistake that is found before the first stage starts, or in the data.
        LongcatError: from the first stage that failed; finished artifacts stay.
    """
    settings, file, folder = _settings(overrides), _path(config), Path(workspace).expanduser().resolve()
    given = None if checkpoint is None else str(checkpoint)
    from longcat.flows.session import ready, run_here, run_plainly

    made: dict[str, Artifact[Any]] = {}
    with progress_listener(report), ready(stage, preset, file, settings, folder, given):
        work = run_here if tracked else run_plainly
        return Run(made, work(stage, preset, file, settings, folder, given, made))


def tokenise(
    *sources: StrPath,
    preset: str | None = None,
    config: StrPath | None = None,
    overrides: Overrides = (),
    workspace: StrPath = "workspace",
    report: Reporter = no_progress,
) -> Artifact[TokensFacts]:
    """Turn text into token shards, without Prefect and MLflow; `longcat.corpus.shards.TokenCorpus` opens them.

    Args:
        sources: files, folders, patterns or addresses, `hub:NAME`, `own:NAME`; by default those of the configuration.
        preset: to start from; `tiny` when neither this nor a file is given.
        config: YAML file of settings.
        overrides: settings by their dotted key.
        workspace: folder for results.
        report: hears of progress.

    Raises:
        DataError: a source is missing or damaged, or there is too little text.
        ConfigError: of a setting.
    """
    named = [f"corpus.sources={json.dumps([str(source) for source in sources])}"] if sources else []
    settings = [*_settings(overrides), *named]
    return run(
        "preprocess", preset, config=config, overrides=settings, workspace=workspace, tracked=False, report=report
    ).tokens


# ---------------------------------------------------------------------------------------------------- figures


def cost(model: PipelineConfig | StrPath, *, devices: int | None = None, sequence_length: int | None = None) -> Cost:
    """Return what a model costs: parameters, FLOPs of a token, and the memory of a device that trains it. Nothing runs.

    Args:
        model: a configuration or a preset; or a config.json of any known family, or a folder with one.
        devices: that training is divided over; by default as many as the configuration says, or one.
        sequence_length: tokens of a row; needed for a config.json, and the configuration's by default.

    Raises:
        ConfigError: the model is not known, or its layout does not fit so many devices.
    """
    from longcat.benchmark.mfu_inputs import find_workload
    from longcat.training.cost import Cost, cost_of

    if isinstance(model, str) and model in preset_names():
        model = load_config(model)
    if isinstance(model, PipelineConfig):
        if sequence_length is not None:
            tree = model.model_dump()
            tree["corpus"]["sequence_length_tokens"] = sequence_length
            model = PipelineConfig.model_validate(tree)
        return cost_of(model, devices)
    if sequence_length is None:
        raise ConfigError("a config.json says nothing of training: give sequence_length")
    return Cost.of_workload(find_workload(str(model)), sequence_length)


def mfu(
    device: str,
    sequence_length: int,
    *,
    tracking_uri: str | None = None,
    workspace: StrPath = "workspace",
    **options: Any,
) -> dict[str, Any]:
    """Compute the MFU of any training run and compare it with published A100 runs: the answer of `longcat mfu --json`.

    Args:
        device: for example `a100-80gb` or `Ascend910B2`.
        sequence_length: tokens that attention sees.
        tracking_uri: store of an `mlflow_run`; by default that of the workspace.
        workspace: where that store is.
        options: the options of the command with underscores, of which the model (`model` or `parameters`) and one speed
            (`tokens_per_second`, `step_time` with `batch_tokens`, `log` or `mlflow_run`) have to be given; see
            `longcat.benchmark.mfu_question.answer_question`.

    Raises:
        UserError: options contradict one another or are out of range; the message has the command's names of them.
        DataError: the MFU is above 100 %, or a log cannot be read.
    """
    from longcat.benchmark.mfu_question import answer_question
    from longcat.stores import sqlite_url

    if options.get("mlflow_run") is not None:
        from longcat.tracking.store import read_run

        uri = tracking_uri or sqlite_url(Path(workspace).expanduser().resolve() / "mlflow.db")
        options["read_run"] = partial(read_run, uri)
    for name in ("model", "log"):
        if options.get(name) is not None:
            options[name] = (str if name == "model" else Path)(options[name])
    return answer_question(device, sequence_length, **options)


def _path(path: StrPath | None) -> Path | None:
    return None if path is None else Path(path).expanduser()


def _settings(overrides: Overrides) -> list[str]:
    if isinstance(overrides, Mapping):
        return [f"{key}={json.dumps(value, ensure_ascii=False)}" for key, value in overrides.items()]
    if isinstance(overrides, str):
        raise ConfigError(f"overrides={overrides!r}: expected a list or a dict of settings")
    return list(overrides)
