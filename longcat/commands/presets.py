"""`longcat presets`: the presets and the sizes of their models."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from longcat.commands.options import Json
from longcat.printable import large_count

if TYPE_CHECKING:
    from longcat.config import PipelineConfig


def presets(
    show: Annotated[
        str | None, typer.Option("--show", metavar="NAME", help="Print one preset with all its settings.")
    ] = None,
    as_json: Json = False,
) -> None:
    """List the presets, or show one in full."""
    from longcat.config import load_config

    if show is not None:
        _show_preset(load_config(show), as_json)
        return
    rows = preset_rows()
    if as_json:
        print(json.dumps(rows, indent=2))
        return
    from rich.console import Console
    from rich.table import Table

    from longcat.tables import show as show_table

    table = Table()
    for column in ("preset", "parameters", "activated per token", "sequence", "training tokens"):
        table.add_column(column, justify="left" if column == "preset" else "right", no_wrap=column == "preset")
    for row in rows:
        table.add_row(
            row["name"],
            large_count(row["total_parameters"]),
            large_count(row["activated_parameters"]),
            str(row["sequence_length_tokens"]),
            large_count(row["training_tokens"]),
        )
    show_table(Console(), table)


def preset_rows() -> list[dict[str, Any]]:
    """Return name and sizes of each preset, as `longcat presets --json` prints them."""
    from longcat.config import load_config, preset_names, target_ffn_experts
    from longcat.costs.workload import longcat_workload

    rows: list[dict[str, Any]] = []
    for name in preset_names():
        config = load_config(name)
        workload = longcat_workload(config.model, target_ffn_experts(config.model, config.training.balance))
        rows.append(
            {
                "name": name,
                "total_parameters": workload.total_parameters,
                "activated_parameters": round(workload.activated_parameters),
                "formula_parameters": round(workload.formula_parameters),
                "sequence_length_tokens": config.corpus.sequence_length_tokens,
                "training_tokens": config.training.steps
                * config.training.global_batch_sequences
                * config.corpus.sequence_length_tokens,
            }
        )
    return rows


def _show_preset(config: PipelineConfig, as_json: bool) -> None:
    """Print all settings of a preset, and the parameter counts of its model."""
    import yaml

    from longcat.config import target_ffn_experts
    from longcat.costs.flops import activated_parameters, parameters
    from longcat.costs.workload import longcat_workload

    model = config.model
    workload = longcat_workload(model, target_ffn_experts(model, config.training.balance))
    counts, most = parameters(model), min(model.moe_topk, model.n_routed_experts)
    tree = config.model_dump(mode="json")
    if as_json:
        sizes = {
            "total_parameters": workload.total_parameters,
            "activated_parameters": round(workload.activated_parameters),
            "activated_parameters_range": [round(activated_parameters(model, experts)) for experts in (0, most)],
            "formula_parameters": round(workload.formula_parameters),
            "ngram_parameters": counts.get("ngram_tables", 0),
            "parameters": counts,
        }
        print(json.dumps({"name": config.preset, **sizes, **tree}, indent=2))
        return
    from longcat.tables import print_pairs

    print(yaml.safe_dump(tree, sort_keys=False, allow_unicode=True).rstrip())
    pairs = {name.replace("_", " "): f"{count:,}" for name, count in counts.items()}
    pairs["total"] = f"{workload.total_parameters:,}"
    for experts, name in ((0, "least"), (workload.ffn_experts, "mean"), (most, "most")):
        count = round(activated_parameters(model, experts))
        pairs[f"activated, {name}"] = f"{count:,} ({experts:g} routed experts per layer)"
    pairs["N of published formulas"] = f"{round(workload.formula_parameters):,} (with embedding, without n-gram tables)"
    print_pairs("parameters", pairs)
