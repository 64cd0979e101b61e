"""Published measurements that `longcat plan` is fitted on and held against, as layouts of the planner.

The A100 sweep (Hagemann et al. 2023, the run tables of its authors) names no licence, so that its rows are no part of the
repository: `--rows FOLDER` reads the two tables, as CSV, from a folder. The B200 rows are data/reference/plan/b200.csv.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from longcat.costs.families import from_config
from longcat.errors import DataError
from longcat.plan.layout import Batch, Layout, read_layout, settle
from longcat.plan.model import Model
from longcat.plan.stacks import TABLES

SWEEP, OUT_OF_MEMORY = "aleph_alpha_a100_layout_sweep.csv", "aleph_alpha_a100_layout_oom.csv"
FITTED = {"13B", "65B"}
"""Models of the A100 sweep that the numbers of `ampere` are fitted on; 30B is held out."""
FITTED_B200 = {"llama3-70b", "deepseekv2"}
"""The same of the B200 rows, for `blackwell`; llama3-405b and deepseekv3 are held out."""
_LLAMA = {"13B": (5120, 40, 40, 13824), "30B": (6656, 60, 52, 17920), "65B": (8192, 80, 64, 22016)}
_DIVIDED = (range(0, 131800), range(132500, 132596), range(132900, 132925), (132947, 132948, 132978, 132985, 132862))
"""Trials of the files on sequence parallelism that had it: of two runs of one layout the faster one, and those beside it."""


@dataclass(frozen=True)
class Row:
    """One published run."""

    name: str
    group: str
    """Model, and length where there are several."""
    model: Model
    layout: Layout
    kernels: str
    tokens_divided: bool
    seconds: float | None
    """None where it ran out of memory."""
    peak_bytes: float | None = None
    fitted: bool = False


def llama(
    hidden: int, layers: int, heads: int, ffn: int, vocabulary: int, kv_heads: int | None = None
) -> dict[str, Any]:
    return {
        "model_type": "llama", "hidden_size": hidden, "num_hidden_layers": layers, "num_attention_heads": heads,
        "intermediate_size": ffn, "vocab_size": vocabulary, "num_key_value_heads": kv_heads or heads,
        "tie_word_embeddings": False,
    }  # fmt: skip


def a100_rows(folder: Path) -> list[Row]:
    """Read the sweep of an A100 cluster; rows without a kernel or with another error than memory are left out.

    Raises:
        DataError: a table is not there, or is another one.
    """
    models = {name: Model(name, from_config(llama(*sizes, 128_000)), None) for name, sizes in _LLAMA.items()}
    found = []
    for file in (SWEEP, OUT_OF_MEMORY):
        try:
            with (folder / file).open(encoding="utf-8", newline="") as stream:
                reader = csv.DictReader(stream)
                for row in reader:
                    if row["Average Step Time"] not in ("Kernel not available", "Other Error"):
                        found.append(_a100(row, models[row["model"]]))
        except OSError as error:
            raise DataError(
                f"--rows {folder}: {file}: {error.strerror}; it has to hold {SWEEP} and {OUT_OF_MEMORY}"
            ) from None
        except (KeyError, ValueError, TypeError) as error:
            raise DataError(
                f"--rows {folder}: {file}, line {reader.line_num}: {error} is not what the sweep has there"
            ) from None
    return found


def _a100(row: dict[str, str], model: Model) -> Row:
    length = int(row["seq"])
    kernel = {"flash_attention2 + RMS kernel": "flash2+norm", "flash_attention2": "flash2", "flash_attention": "flash1"}
    trial = int(row["Trial ID"])
    layout = settle(
        model,
        int(row["World Size"]),
        Batch(2048 if length == 2048 else 512, length),
        read_layout(f"tensor={row['model_parallel_size']},pipeline={row['pipe_parallel_size']}"),
        int(row["micro_batch_size"]),
        "full" if row["activation_checkpointing_type"] == "every_layer" else "none",
    )
    failed = row["Average Step Time"] == "OOM Error"
    return Row(
        f"{row['model']} {trial}",
        f"{row['model']}, {length}",
        model,
        layout,
        kernel.get(row["kernel"], "flash1" if "v1" in row["kernel"] else row["kernel"]),
        "sequence_parallelism" in row["file"] and any(trial in those for those in _DIVIDED),
        None if failed else float(row["Average Step Time"]),
        fitted=row["model"] in FITTED,
    )


def _b200_config(name: str, layers: int) -> dict[str, Any]:
    if name.startswith("llama3"):
        sizes = (8192, layers, 64, 28672) if name.endswith("70b") else (16384, layers, 128, 53248)
        return llama(*sizes, 128_256, 8)
    third = name == "deepseekv3"
    return {
        "model_type": "deepseek_v3" if third else "deepseek_v2", "hidden_size": 7168 if third else 5120,
        "num_hidden_layers": layers, "num_attention_heads": 128, "intermediate_size": 18432 if third else 12288,
        "moe_intermediate_size": 2048 if third else 1536, "n_routed_experts": 256 if third else 160,
        "n_shared_experts": 1 if third else 2, "num_experts_per_tok": 8 if third else 6, "first_k_dense_replace": 1,
        "q_lora_rank": 1536, "kv_lora_rank": 512, "qk_rope_head_dim": 64, "qk_nope_head_dim": 128, "v_head_dim": 128,
        "vocab_size": 129_280 if third else 102_400, "tie_word_embeddings": False,
    }  # fmt: skip


def b200_rows() -> list[Row]:
    """Read the rows of eight B200."""
    found = []
    with (TABLES / "b200.csv").open(encoding="utf-8", newline="") as stream:
        for row in csv.DictReader(stream):
            model = Model(row["model"], from_config(_b200_config(row["model"], int(row["layers"]))), None)
            axes = ",".join(f"{name}={row[name]}" for name in ("tensor", "pipeline", "expert", "context"))
            sequences = int(row["micro_batches"]) * int(row["data"])
            layout = settle(model, 8, Batch(sequences, int(row["sequence_length"])), read_layout(axes), 1, "none")
            found.append(
                Row(
                    row["case"], row["model"], model, layout, "flash2+norm", True, float(row["step_seconds"]),
                    float(row["peak_gib"]) * 2**30, row["model"] in FITTED_B200,
                )
            )  # fmt: skip
    return found
