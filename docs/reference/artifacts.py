"""Every kind of artifact: its files, its facts, and what its digest is of. A test compares the files with a real workspace."""

from __future__ import annotations

from dataclasses import dataclass, field

from docs.reference.markdown import code, prose, table
from longcat.artifact import Facts
from longcat.benchmark.measurement import MeasurementFacts
from longcat.benchmark.stage import BenchmarkFacts
from longcat.corpus.facts import DocumentsFacts, TokensFacts
from longcat.evaluation.comparison import ComparisonFacts
from longcat.evaluation.stage import EvaluationFacts
from longcat.interchange.checkpoint_facts import CheckpointFacts
from longcat.training.sweep import SweepFacts


@dataclass(frozen=True)
class Kind:
    """A kind of artifact."""

    name: str
    about: str
    facts: type[Facts]
    made_by: str
    digest_of: str
    """What its digest is of, besides the kind, the version of the stage and its parents."""
    parents: tuple[str, ...] = ()
    files: dict[str, str] = field(default_factory=dict)
    """Patterns of files that every artifact of the kind has, and what they hold."""
    may_have: dict[str, str] = field(default_factory=dict)
    """The same of files that some have."""


KINDS = (
    Kind(
        "documents",
        "The cleaned corpus as tokens, one entry per document.",
        DocumentsFacts,
        made_by="`longcat preprocess`",
        digest_of="section `corpus` without the mixture; pins of the sources (hashes of files, commits, versions); hashes of a "
        "`corpus.tokenizer`, of evaluation sets that text is cleaned of, and of modules with filters or a quality of your own",
        files={
            "documents.npy": "table of the documents: source, language, length, place",
            "*/*/*.tokens.npy": "their tokens, block by block",
            "blocks.json": "the blocks of input, and what each was pinned to",
            "samples.json": "texts kept and dropped, for the data card",
            "tokenizer.json": "the tokenizer",
            "token_bytes.npy": "bytes of each token",
        },
        may_have={"tokenizer_config.json": "what a tokenizer of your own came with"},
    ),
    Kind(
        "tokens",
        "A mixture of the documents, packed into rows of one length: what training reads.",
        TokensFacts,
        made_by="`longcat preprocess`",
        digest_of="digest of the documents; the mixture: `corpus.sequence_length_tokens`, `shard_sequences`, `max_padding`, "
        "`mixture_tokens`, `max_repeats`, `long_documents`, weights and `max_tokens` of the sources",
        files={
            "index.json": "shards, sequence length, end of text",
            "train-*.npy": "rows to train on, `[rows, sequence + 1]`",
            "held_out-*.npy": "rows that are never trained on",
            "*.spans.npy": "where documents begin in the rows of the shard beside it",
            "tokenizer.json": "the tokenizer",
            "token_bytes.npy": "bytes of each token",
            "card.html": "the data card",
            "card.md": "the data card as text",
        },
        may_have={"tokenizer_config.json": "what a tokenizer of your own came with"},
    ),
    Kind(
        "checkpoint",
        "A trained or imported model, with its tokenizer and the record of its run.",
        CheckpointFacts,
        made_by="`longcat pretrain`, `longcat sweep`; `longcat import`, of a Hugging Face folder",
        digest_of="`seed`, sections `model` and `training`, kind of accelerator and precision; for an imported one the hashes of its "
        "files",
        parents=("tokens", "checkpoint that it begins or goes on from"),
        files={
            "huggingface/config.json": "the model, as transformers reads it",
            "huggingface/model*.safetensors": "the weights",
            "huggingface/tokenizer.json": "the tokenizer",
            "huggingface/tokenizer_config.json": "special tokens",
            "huggingface/generation_config.json": "where generation ends",
            "state/*": "weights and optimizer, from which training goes on: a torch distributed checkpoint",
            "metrics.jsonl": "a record for each step, see [metrics](metrics.md#training)",
            "expert-load.jsonl": "slots given to each expert in each layer, at most 200 records",
            "expert-load.png": "picture of it",
            "events.jsonl": "what happened besides training: starts, saves, skipped steps, lost nodes",
            "life.png": "picture of it",
            "logs/start-*/*.log": "what processes printed: a folder for each start, a file for each rank",
            "samples/*.txt": "how the model continued `training.sample_prompt` at each checkpoint",
        },
        may_have={
            "huggingface/model.safetensors.index.json": "files of the weights, where there are several",
            "huggingface/*": "other files of a tokenizer",
            "checkpoints/*": "states after multiples of `training.keep_every_steps`",
        },
    ),
    Kind(
        "measurement",
        "Times of training steps from a checkpoint on this machine.",
        MeasurementFacts,
        made_by="`longcat benchmark`",
        digest_of="section `benchmark` without what concerns the report, section `training`, the layout, precision, the device's name and number, torch's "
        "version",
        parents=("tokens", "checkpoint"),
        files={"measurement.json": "times of the steps, collectives and operators, memory by use"},
        may_have={"trace.json.gz": "steps under the profiler, for Perfetto (ui.perfetto.dev)"},
    ),
    Kind(
        "benchmark",
        "The MFU report of a measurement, set among published runs.",
        BenchmarkFacts,
        made_by="`longcat benchmark`",
        digest_of="hashes of the reference tables, `benchmark.reference_rows`",
        parents=("measurement",),
        files={
            "report.html": "the MFU report",
            "report.md": "the report as text",
            "mfu.png": "MFU among published runs",
            "result.json": "every figure of it",
        },
        may_have={"trace.json.gz": "steps under the profiler"},
    ),
    Kind(
        "evaluation",
        "Scores of a checkpoint.",
        EvaluationFacts,
        made_by="`longcat evaluate`",
        digest_of="section `evaluation`, kind of accelerator and precision, what each suite depends on: hashes of tasks and their data",
        parents=("tokens", "checkpoint"),
        files={
            "report.html": "the scores",
            "report.md": "the scores as text",
            "result.json": "figures of each suite",
        },
        may_have={
            "held_out.jsonl": "bits and bytes of each held-out sequence",
            "results.json": "results as lm-evaluation-harness writes them",
            "samples/*.jsonl": "each document of a task with the model's answer",
            "intrinsic.json": "bits by position, calibration, use of the experts",
        },
    ),
    Kind(
        "comparison",
        "Two evaluations side by side, with what chance explains left out.",
        ComparisonFacts,
        made_by="`longcat evaluate --compare`",
        digest_of="number of resamples, level of significance",
        parents=("two or more evaluations",),
        files={
            "report.html": "scores side by side, with intervals",
            "report.md": "the same as text",
            "result.json": "every figure of it",
        },
    ),
    Kind(
        "sweep",
        "Scores of trainings with combinations of settings.",
        SweepFacts,
        made_by="`longcat sweep`",
        digest_of="the score, and every point's settings and result",
        parents=("a checkpoint for each point that was trained",),
        files={"result.json": "points and scores"},
        may_have={"best.yaml": "configuration of the best point", "sweep.png": "picture of the scores"},
    ),
)

HEAD = """# Artifacts

Who looks into a [workspace](../workspace.md), or reads results with programs of their own, finds here what each kind of
result holds. A finished result lies in `KIND/DIGEST/`, is never changed, and has a `manifest.json` beside its files:

    longcat ls                     # what there is
    longcat show DIGEST            # what one was made from, and what was made from it

The digest is 128 bits of SHA-256 over the kind, the stage's version, the identity and the parents' digests, so the same
input has the same address on every machine. The manifest holds all of them, the facts below, each file's size and SHA-256,
the time it took, versions and the commit.
"""


def page() -> str:
    """Return the page: a heading for each kind."""
    return "\n\n".join([HEAD, *map(_shown, KINDS)]) + "\n"


def _shown(kind: Kind) -> str:
    rows = [(code(name), text) for name, text in kind.files.items()]
    rows += [(code(name), f"{text} (not always there)") for name, text in kind.may_have.items()]
    facts = [(code(name), prose(of.description or "")) for name, of in kind.facts.model_fields.items()]
    parts = [
        f"## `{kind.name}` {{ #{kind.name} }}",
        f"{kind.about} Made by {kind.made_by}" + (f" from: {', '.join(kind.parents)}." if kind.parents else "."),
        f"**In its digest:** {kind.digest_of}.",
        table(("file", "what it holds"), rows),
        '??? note "Facts in `manifest.json`"\n\n    ' + table(("fact", "what it is"), facts).replace("\n", "\n    "),
    ]
    return "\n\n".join(parts)
