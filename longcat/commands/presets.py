"""`longcat presets`: the presets, and the size of the model that each one makes."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from longcat.commands.options import Json

if TYPE_CHECKING:
    from longcat.config import PipelineConfig


def presets(
    show: Annotated[
        str | None, typer.Option("--show", metavar="NAME", help="Print one preset with all its settings.")
    ] = None,
    as_json: Json = False,
) -> None:
    """List the presets, or show one."""
    from longcat.config import load_config, preset_names, target_ffn_experts
    from longcat.costs.flops import activated_parameters, parameters

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


def _count(number: float) -> str:
    """A large number for people: 2.7 M, 68.6 B."""
    size, unit = (1e9, "B") if number >= 1e9 else (1e6, "M")
    return f"{number / size:,.2f} {unit}"


def _show_preset(config: PipelineConfig, as_json: bool) -> None:
    """Everything a preset settles, and the size of its model."""
    import yaml

    from longcat.config import target_ffn_experts
    from longcat.costs.flops import activated_parameters, parameters

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
