"""What each rank of a layout holds: layers, rows, tokens, heads, experts, and shards. Pure arithmetic."""

from __future__ import annotations

from dataclasses import dataclass

from longcat.config import ModelConfig
from longcat.parallel.axes import BATCH, DENSE, EXPERT, ROW, TABLES, TOKENS, Degrees, Grid

Span = tuple[float, float]
"""From where to where, as fractions of the whole."""


@dataclass(frozen=True)
class Whole:
    """What a layout divides."""

    layers: int
    rows: int
    """Of a batch."""
    tokens: int
    """Of a row."""
    heads: int
    experts: int
    """Routed ones of a layer."""
    table_rows: int = 0
    """Of n-gram tables that are spread; 0 without any."""


@dataclass(frozen=True)
class Holding:
    """A rank's part of one thing."""

    thing: str
    axes: tuple[str, ...]
    """That divide it, those with one process left out."""
    parts: int
    """That the thing is in."""
    spans: tuple[Span, ...]
    """Which part this is; none where the rank holds nothing of it."""
    text: str


def whole_of(model: ModelConfig, rows: int, tokens: int, spread_tables: bool) -> Whole:
    """Return what a layout of this model divides."""
    tables = sum(model.ngram.rows(model.vocabulary)) if model.ngram is not None and spread_tables else 0
    return Whole(model.num_layers, rows, tokens, model.num_attention_heads, model.n_routed_experts, tables)


def holdings(degrees: Degrees, rank: int, whole: Whole) -> list[Holding]:
    """Return what a rank holds of everything that the layout divides, in the order of the axes."""
    work, dense, experts, tables = (degrees.grid(view) for view in (TOKENS, DENSE, EXPERT, TABLES))
    context, tensor = work.place(rank, "context"), work.place(rank, "tensor")
    stage = work.place(rank, "pipeline")
    found = [
        _even("layers", work, ("pipeline",), rank, whole.layers),
        _even("rows", work, BATCH, rank, whole.rows),
        _tokens(degrees, context, tensor, whole.tokens),
        _even("heads", work, ("tensor",), rank, whole.heads),
        _even("weights", dense, ("dense_shard",), rank, None),
        _even("experts", experts, ("expert",), rank, whole.experts),
        _even("their shard", experts, ("expert_shard",), rank, None),
    ]
    if whole.table_rows:
        own = _even("tables", tables, ("embedding",), rank, None)
        found.append(own if stage == 0 else Holding(own.thing, own.axes, own.parts, (), "none"))
    return [one for one in found if one.parts > 1]


def _even(thing: str, grid: Grid, axes: tuple[str, ...], rank: int, number: int | None) -> Holding:
    """Return a rank's part of what is divided evenly, or in parts that differ by one, along axes of a grid.

    A number is the thing's; None stands for shards, which have no numbers worth reading.
    """
    parts, place = grid.degree(*axes), grid.place(rank, *axes)
    divided = tuple(axis for axis in axes if grid.degree(axis) > 1)
    if number is None:
        return Holding(thing, divided, parts, ((place / parts, (place + 1) / parts),), f"{place + 1:,} of {parts:,}")
    begin, end = (-(-number * edge // parts) for edge in (place, place + 1))
    return Holding(thing, divided, parts, ((begin / number, end / number),), _range(begin, end))


def _tokens(degrees: Degrees, context: int, tensor: int, length: int) -> Holding:
    """Return a rank's tokens of each row: its part along `tensor` of the chunks that a place along `context` has."""
    number = 2 * degrees.context if degrees.context > 1 else 1
    chunks = [context, number - 1 - context] if number > 1 else [0]
    size = length // number // degrees.tensor
    own = [chunk * (length // number) + tensor * size for chunk in chunks]
    return Holding(
        "tokens",
        tuple(axis for axis in ROW if getattr(degrees, axis) > 1),
        degrees.context * degrees.tensor,
        tuple((begin / length, (begin + size) / length) for begin in own),
        ", ".join(_range(begin, begin + size) for begin in own),
    )


def _range(begin: int, end: int) -> str:
    if end <= begin:
        return "none"
    return _grouped(begin) if end == begin + 1 else f"{_grouped(begin)}–{_grouped(end - 1)}"


def _grouped(number: int) -> str:
    return f"{number:,}" if number >= 10_000 else str(number)
