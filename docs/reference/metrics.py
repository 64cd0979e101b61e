"""Every figure of a run: in metrics.jsonl, in MLflow, and of a server. A test compares the tables with a real run."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, cast

from docs.reference.markdown import code, prose, table
from longcat.artifact import Facts
from longcat.benchmark.stage import BenchmarkFacts
from longcat.corpus.facts import TokensFacts
from longcat.evaluation.stage import EvaluationFacts
from longcat.interchange.checkpoint_facts import CheckpointFacts
from longcat.serve.metrics import Metrics

_VARYING = {"TASK": "(?!(?:held_out|intrinsic|scores)/).+"}
"""What a word in capitals stands for; others stand for anything."""


@dataclass(frozen=True)
class Metric:
    """A figure, or several of one kind."""

    name: str
    """As it is logged; a word in capitals stands for what varies."""
    unit: str
    meaning: str
    when: str
    """When there is one."""
    always: bool = True
    """Whether every run has it, the smallest one included."""

    @property
    def pattern(self) -> re.Pattern[str]:
        """Return what its names look like."""
        return re.compile(re.sub("[A-Z]+", lambda word: _VARYING.get(word[0], ".+"), re.escape(self.name)))


STEP, RECORD, CHECKPOINT = "step", "record", "checkpoint"
RECORDS = (
    Metric("train/loss", "nats/target", "Mean loss of the next token over the global batch.", STEP),
    Metric(
        "train/balance_loss", "", "Balance loss of the experts, unweighted (`training.losses.balance_weight`).", STEP
    ),
    Metric(
        "train/importance_loss",
        "",
        "Importance loss of the routers, unweighted (`training.losses.importance_weight`).",
        STEP,
    ),
    Metric("train/hidden_z_loss", "", "Hidden z-loss, unweighted (`training.losses.hidden_z_weight`).", STEP),
    Metric(
        "train/mtp_loss", "nats/target", "Loss of multi-token prediction, a mean over depths, unweighted.",
        "step, with `model.mtp_num_layers`", always=False,
    ),
    Metric(
        "train/indexer_loss", "nats", "Divergence of the indexers from attention, unweighted.",
        "step, with `model.sparse_attention`", always=False,
    ),
    Metric("train/gradient_norm", "", "Norm of all gradients together, before they are clipped.", STEP),
    Metric("train/learning_rate", "", "Learning rate of the step.", STEP),
    Metric("train/skipped", "0 or 1", "Whether the step moved nothing, as loss or gradients were not finite.", STEP),
    Metric("train/skipped_steps", "steps", "Steps skipped so far.", STEP),
    Metric("train/passed_over_batches", "batches", "Batches that training has passed over after it went back.", STEP),
    Metric("train/tokens", "tokens", "Trained on so far.", STEP),
    Metric("train/epoch", "epochs", "Passes over the training rows so far, from 0.", STEP),
    Metric("held_out/loss", "nats/target", "Loss on the first held-out sequences.", "`training.held_out_every_steps`, and the end"),
    Metric("moe/ffn_experts_per_token", "experts", "Mean routed experts of a token; the rest of its slots are zero-computation experts.", STEP),
    Metric("moe/max_load", "ratio", "Load of the busiest routed expert over the mean of its layer, in the worst layer.", STEP),
    Metric("moe/min_load", "ratio", "Load of the least used routed expert over the mean of its layer, in the worst layer.", STEP),
    Metric("moe/layer_N/max_load", "ratio", "The same of one layer.", RECORD),
    Metric("moe/layer_N/min_load", "ratio", "The same of one layer.", RECORD),
    Metric(
        "moe/layer_N/zero_expert_max", "fraction",
        "Tokens that use the busiest zero-computation expert; at 1 all spend a slot on the same one.",
        "record, with `model.zero_expert_num`",
    ),
    Metric("moe/layer_N/router_entropy", "nats", "Mean entropy of the router's probabilities over tokens.", RECORD),
    Metric("moe/layer_N/router_top_probability", "probability", "Mean of a token's largest probability.", RECORD),
    Metric("perf/tokens_per_second", "tokens/s", "Speed of all processes together since the record before, pauses left out.", RECORD),
    Metric("perf/step_seconds", "s", "Time of a step at this speed.", RECORD),
    Metric("perf/tflops_per_device", "TFLOP/s", "Useful FLOP of the model a second and process, with causal attention.", RECORD),
    Metric("perf/mfu", "fraction", "Model FLOPs utilisation: useful FLOP/s over the peak of the devices.", "record, where the peak is known", always=False),
    Metric("perf/peak_memory_gb", "GB", "Peak memory of the process that has needed most.", RECORD),
    Metric("perf/own_step_seconds", "s", "Median over ranks of a step's time without waiting for others.", "record, with several processes", always=False),
    Metric("perf/slowest_rank", "rank", "The rank whose own time is longest.", "record, with several processes", always=False),
    Metric("perf/slowest_rank_seconds", "s", "Its own time of a step.", "record, with several processes", always=False),
    Metric("perf/data_wait_seconds", "s", "Time that the step waited for its batch.", STEP),
    Metric("perf/checkpoint_stall_seconds", "s", "Time that training waited for the checkpoint before.", "step after a checkpoint"),
)  # fmt: skip
"""What a record of metrics.jsonl has besides `step`, `time` (Unix seconds) and `attempt` (starts so far)."""

LIFE = (
    Metric("life/availability_percent", "%", "Share of the run's time that went into steps that count.", "end"),
    Metric("life/seconds", "s", "Length of the run, pauses left out.", "end"),
    Metric("life/lost_seconds", "s", "Time that went into nothing that counts: restarts, and steps done again.", "end"),
    Metric("life/KIND_events", "events", "How often each thing happened: `start`, `save`, `skip`, `spike`, `rewind`, ...", "end"),
)  # fmt: skip
MACHINE = (
    Metric("system/cpu_utilization_percentage", "%", "Use of all cores.", "look"),
    Metric("system/system_memory_usage_megabytes", "MB", "Memory in use.", "look"),
    Metric("system/system_memory_usage_percentage", "%", "The same as a share.", "look"),
    Metric("system/disk_usage_percentage", "%", "Of the workspace's disk.", "look"),
    Metric("system/disk_usage_megabytes", "MB", "Of the workspace's disk.", "look"),
    Metric("system/disk_available_megabytes", "MB", "Left on it.", "look"),
    Metric("system/network_receive_megabytes", "MB", "Received since the stage began.", "look", always=False),
    Metric("system/network_transmit_megabytes", "MB", "Sent since the stage began.", "look", always=False),
    Metric("system/gpu_N_utilization_percentage", "%", "Use of an accelerator.", "look, with a driver's tool", always=False),
    Metric("system/gpu_N_memory_usage_megabytes", "MB", "Its memory in use.", "look, with a driver's tool", always=False),
    Metric("system/gpu_N_memory_usage_percentage", "%", "The same as a share.", "look, with a driver's tool", always=False),
    Metric("system/gpu_N_power_usage_watts", "W", "Its power.", "look, with nvidia-smi", always=False),
)  # fmt: skip
"""What every stage's run has of the machine: see `longcat.tracking.machine`."""
COST = (
    Metric("cost/device_hours", "h", "Devices times time, pauses left out.", "end"),
    Metric("cost/tokens", "tokens", "Trained on.", "end"),
    Metric("cost/flops", "FLOP", "Useful ones: causal attention, without recomputation.", "end"),
    Metric("cost/money", "as the price", "Device-hours times `price_per_device_hour`.", "end, with a price", always=False),
)  # fmt: skip
SCORES = (
    Metric("held_out/bits_per_byte", "bits/byte", "Cross-entropy of held-out text over its bytes; comparable across tokenizers.", "suite `held_out`"),
    Metric("held_out/unigram_bits_per_byte", "bits/byte", "The same of a unigram model of the training text.", "suite `held_out`"),
    Metric("held_out/ngram_bits_per_byte", "bits/byte", "The same of an n-gram model (`evaluation.ngram_order`).", "suite `held_out`"),
    Metric("held_out/sequences", "sequences", "Scored.", "suite `held_out`"),
    Metric("held_out/held_out_documents", "documents", "Scored.", "suite `held_out`"),
    Metric("held_out/bytes", "bytes", "Of the scored text.", "suite `held_out`"),
    Metric("held_out/baseline_tokens", "tokens", "Training tokens that the n-grams were counted in.", "suite `held_out`"),
    Metric("TASK/METRIC", "as the metric", "A task's score: `acc`, `acc_norm`, `exact_match`, ...; `METRIC.FILTER` after a filter.", "suite `tasks`"),
    Metric("SUBJECT/METRIC_stderr", "as the metric", "Standard error of the score beside it, where there is one.", "any suite"),
    Metric("TASK/METRIC_chance", "as the metric", "What guessing gets.", "suite `tasks`"),
    Metric("TASK/documents", "documents", "Scored.", "suite `tasks`"),
    Metric("TASK/few_shot", "examples", "Before each question.", "suite `tasks`"),
    Metric("TASK/truncated", "documents", "Whose beginning was cut to fit the model.", "suite `tasks`"),
    Metric("intrinsic/ece", "fraction", "Expected calibration error of the next token's probability.", "suite `intrinsic`", always=False),
    Metric("intrinsic/zero_expert_fraction", "fraction", "Slots that went to zero-computation experts.", "suite `intrinsic`", always=False),
    Metric("intrinsic/bits_per_byte.GROUP.NAME", "bits/byte", "Of a source, a language or a kind of token.", "suite `intrinsic`", always=False),
)  # fmt: skip
FACTS: dict[str, type[Facts]] = {"preprocess": TokensFacts, "pretrain": CheckpointFacts, "benchmark": BenchmarkFacts}
"""Stages, and the figures of their results that are logged once; those of `evaluate` are the scores."""

HEAD = """# Metrics

Who reads curves, or sets an alarm on one, finds here every figure that a run records, its unit and when it is there.
A run has one MLflow run for the pipeline, and one inside it for each stage; `longcat ui` shows them. The same records lie in
the checkpoint, one JSON object a line, for programs without MLflow:

    {"step": 12, "time": 1795900000.0, "attempt": 1, "train/loss": 6.08, "train/skipped": 0.0}

A number that is not finite is `null` there. *When* says how often: at every **step**; at every **record**, which is
[`training.log_every_steps`](settings.md#training.log_every_steps) steps; or once.
"""


def documented(stage: str) -> tuple[Metric, ...]:
    """Return the figures of a stage's MLflow run."""
    if stage == "evaluate":
        return MACHINE + tuple(one for one in SCORES if not EvaluationFacts.SETTINGS.intersection(one.name.split("/")))
    return MACHINE + facts(FACTS[stage]) + (RECORDS + LIFE + COST if stage == "pretrain" else ())


def facts(kind: type[Facts]) -> tuple[Metric, ...]:
    """Return the figures of a result that are numbers, or tables of numbers, with what the code says of them."""
    found = []
    for name, field in kind.model_fields.items():
        said = str(field.annotation)
        if name in kind.SETTINGS or "list" in said or "tuple" in said or not re.search(r"\b(int|float)\b", said):
            continue
        several = "dict" in said
        found.append(
            Metric(
                f"{name}/NAME" if several else name,
                "",
                field.description or "",
                "end",
                always=field.is_required() and not several and "None" not in said,
            )
        )
    return tuple(found)


def server() -> list[Any]:
    """Return the families of metrics that a server has at `/metrics`, from its registry."""
    engine = cast("Any", type("Engine", (), {"running": 0, "unfinished": 0}))
    return list(Metrics(engine)._registry.collect())


def page() -> str:
    """Return the page."""
    served = [(code(family.name), family.type, prose(family.documentation)) for family in server()]
    parts = [
        HEAD,
        "## Training: metrics.jsonl { #training }",
        "In the MLflow run `pretrain` as curves over steps.",
        _table(RECORDS),
        "## The life of a run { #life }",
        "Logged once in the run `pretrain`, from `events.jsonl`; see [how a run is kept alive](../health.md).",
        _table(LIFE),
        "## Scores { #scores }",
        "In the run `evaluate`, and in the run of the pipeline. They can be gates ([evaluation](../evaluate.md)). Counts behind "
        "them are no curves: they are parameters of the run, `facts.scores.SUBJECT.NAME`.",
        _table(SCORES),
        "## The machine and the cost { #machine }",
        "Of the machine in every stage's run, where MLflow's page *System metrics* shows it; the cost in the run `pretrain`.",
        _table(MACHINE + COST),
        "## Results { #results }",
        "Each stage logs the figures of its result once; the most telling ones stand in the run of the pipeline, too.",
    ]
    for stage, kind in FACTS.items():
        rows = [(code(one.name), prose(one.meaning)) for one in facts(kind)]
        parts += [f"### `{stage}` {{ #{stage} }}", table(("name", "meaning"), rows)]
    parts += [
        "## A server { #server }",
        "`longcat serve` answers `/metrics` in Prometheus' form; a counter has `_total` behind its name there.",
        table(("name", "kind", "meaning"), served),
    ]
    return "\n\n".join(parts) + "\n"


def _table(metrics: Iterable[Metric]) -> str:
    rows = [(code(one.name), one.unit, prose(one.meaning), prose(one.when)) for one in metrics]
    return table(("name", "unit", "meaning", "when"), rows)
