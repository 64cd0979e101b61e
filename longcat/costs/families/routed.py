"""Grouped queries, mostly with routed experts: one description for many families, and what can set them apart."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

from longcat.costs.attention import Attention
from longcat.costs.families.fields import Defaults, Family, Fields
from longcat.costs.families.layers import (
    Layers,
    Mixture,
    Norms,
    after_first,
    decoder,
    depths_of,
    every_other_than,
    feed_forward,
    grouped_queries,
    mixture,
    read_mixture,
    sparse_layers,
)
from longcat.costs.workload import Workload


class Heads(NamedTuple):
    """Attention layers of one shape."""

    layers: int
    queries: int
    keys: int
    sliding: bool = False


def _no_window(f: Fields, layers: int) -> int:
    return 0


def _all_sparse(f: Fields, layers: int) -> int:
    return layers


def listed(f: Fields, layers: int, default: int, kind: str = "sliding_attention") -> int:
    """Return how many layers have a window: those of `layer_types`, else the default."""
    kinds = f.each("layer_types", str, layers)
    return default if kinds is None else kinds.count(kind)


@dataclass(frozen=True)
class Kind:
    """What sets a family of grouped queries and routed experts apart."""

    bias: str | bool = "attention_bias"
    """Whether the projections of attention have biases, or the field that says so."""
    bias_default: bool = False
    output_bias: str | bool | None = None
    """The same for the projection of the output, if another."""
    norms: int = 2
    """Vectors of the hidden size in the norms of a layer."""
    sparse_norms: Callable[[Fields], int] = lambda f: 0
    """More of them in a layer with experts."""
    final_norms: int = 1
    query_norms: Norms = "none"
    query_norms_if: str | None = None
    """Field that says whether they are there, if one does."""
    gate: Callable[[Fields, Heads, int], int] = lambda f, heads, dim: 0
    """Columns of the projection that gates the output of attention."""
    sinks: Literal["none", "sliding", "all"] = "none"
    sliding: Callable[[Fields, int], int] = _no_window
    """How many of the layers have a window."""
    sliding_heads: Callable[[Fields, Heads], Heads] = lambda f, heads: heads
    """Heads of the layers with a window, if others."""
    window: tuple[str, ...] = ("sliding_window",)
    attention: type[Attention] = Attention
    """Of the layers with a window."""
    index: Callable[[Fields, int], Layers] = lambda f, layers: Layers()
    """What the layers with a window hold to choose their keys."""
    per_layer: str | None = None
    """Field that lists the query heads of each layer."""
    value_dim: str | None = None
    """Field of the dimensions of a value, if others than of a key."""
    sparse: Callable[[Fields, int], int] = _all_sparse
    """How many of the layers have experts."""
    dense_width: tuple[str, ...] = ("intermediate_size",)
    expert_width: tuple[str, ...] = ("moe_intermediate_size",)
    expert_number: tuple[str, ...] = ()
    shared: Callable[[Fields, int], int] = lambda f, width: 0
    """Width of all shared experts together, by that of a routed one."""
    shared_gate: bool = False
    """Whether the shared experts have a gate."""
    ffn_bias: str | bool = False
    """Whether dense networks and shared experts have biases, or the field that says so."""
    expert_bias: bool = False
    correction: bool = False
    head_bias: str | bool = False
    mtp: Literal["routed", "dense"] | None = None
    """Layer in each depth of multi-token prediction, whose module is otherwise DeepSeek-V3's; None where not known."""
    mtp_norms: int = 3


def _workload(f: Fields, family: str, kind: Kind) -> Workload:
    h, layers, depths = f.size("hidden_size"), f.size("num_hidden_layers"), depths_of(f)
    sparse = kind.sparse(f, layers)
    experts = _experts(f, kind) if sparse else None
    parts = [_attention(f, kind, one) for one in _heads(f, layers, kind)]
    parts += [_dense(f, kind, layers - sparse), _routed(f, kind, experts, sparse)]
    heads = f.size("num_attention_heads")
    last = Heads(depths, heads, f.size("num_key_value_heads", default=heads))
    depth = None
    if kind.mtp:
        ffn = _dense(f, kind, depths) if kind.mtp == "dense" else _routed(f, kind, experts, depths)
        depth = [_attention(f, kind, last), ffn]
    return decoder(
        f,
        family,
        h,
        layers,
        parts,
        experts=experts,
        norms=kind.norms,
        final_norms=kind.final_norms,
        head_bias=_said(f, kind.head_bias),
        depth=depth,
        depth_norms=kind.mtp_norms,
    )


def _heads(f: Fields, layers: int, kind: Kind) -> list[Heads]:
    """Return the attention layers by shape."""
    queries = f.size("num_attention_heads")
    keys = f.size("num_key_value_heads", default=queries)
    each = f.each(kind.per_layer, int, layers) if kind.per_layer else None
    if each is not None:
        kinds = f.each("layer_types", str, layers) or ["full_attention"] * layers
        shapes = Counter(zip(each, (one == "sliding_attention" for one in kinds), strict=True))
        return [Heads(count, number, keys, sliding) for (number, sliding), count in shapes.items()]
    sliding = kind.sliding(f, layers)
    if not sliding:
        return [Heads(layers, queries, keys)]
    full = [Heads(layers - sliding, queries, keys)] if sliding < layers else []
    return [*full, kind.sliding_heads(f, Heads(sliding, queries, keys, sliding=True))]


def _attention(f: Fields, kind: Kind, heads: Heads) -> Layers:
    h = f.size("hidden_size")
    f.divided(heads.queries, heads.keys, "the heads of queries,", "num_key_value_heads")
    dim = f.size("head_dim", default=0) or f.divided(h, f.size("num_attention_heads"), "the hidden size")
    value = f.size(kind.value_dim, default=dim) if kind.value_dim else dim
    normed = kind.query_norms_if is None or f.flag(kind.query_norms_if, False)
    bias = _said(f, kind.bias, kind.bias_default)
    output = bias if kind.output_bias is None else _said(f, kind.output_bias)
    windowed = heads.sliding and any(f.values.get(name) is not None for name in kind.window)
    shape = kind.attention if windowed else Attention
    grouped = grouped_queries(
        h,
        shape(heads.layers, heads.queries, dim, value, f.size(*kind.window) if windowed else None),
        heads.keys,
        qkv_bias=bias,
        output_bias=output,
        norms=kind.query_norms if normed else "none",
        gate=kind.gate(f, heads, dim),
        sinks=kind.sinks == "all" or (kind.sinks == "sliding" and heads.sliding),
    )
    return grouped + kind.index(f, heads.layers) if heads.sliding else grouped


def _said(f: Fields, field: str | bool, default: bool = False) -> bool:
    return field if isinstance(field, bool) else f.flag(field, default)


def _dense(f: Fields, kind: Kind, layers: int) -> Layers:
    if not layers:
        return Layers()
    return feed_forward(f.size("hidden_size"), layers, f.size(*kind.dense_width), bias=_said(f, kind.ffn_bias))


def _routed(f: Fields, kind: Kind, experts: Mixture | None, layers: int) -> Layers:
    if experts is None:
        return Layers()
    h = f.size("hidden_size")
    return mixture(h, layers, experts) + Layers(vectors=layers * kind.sparse_norms(f) * h)


def _experts(f: Fields, kind: Kind) -> Mixture:
    width = f.size(*kind.expert_width)
    return read_mixture(
        f,
        width,
        kind.shared(f, width),
        number=kind.expert_number,
        shared_gate=kind.shared_gate,
        shared_bias=_said(f, kind.ffn_bias),
        bias=kind.expert_bias,
        correction=kind.correction,
    )


def times(name: str, default: int, width_field: str = "") -> Callable[[Fields, int], int]:
    """Return the width of so many shared experts as a field says, each as wide as a routed one unless a field says."""
    return lambda f, width: f.count(name, default) * (f.size(width_field, default=width) if width_field else width)


def width_of(default: int, *names: str) -> Callable[[Fields, int], int]:
    """Return the width of the shared experts that the first of these fields says."""
    return lambda f, width: next((f.count(name, 0) for name in names if f.values.get(name) is not None), default)


def first_dense(dense: int, name: str = "first_k_dense_replace") -> Callable[[Fields, int], int]:
    """Return the layers behind the dense ones, of which there are so many where no field says."""
    if name == "first_k_dense_replace":
        return lambda f, layers: after_first(f, layers, dense)
    return lambda f, layers: sparse_layers(f, layers, layers - min(layers, f.count(name, dense)))


def late_windows(f: Fields, layers: int) -> int:
    """Return the layers with a window: those from `max_window_layers` on."""
    return listed(f, layers, max(0, layers - f.count("max_window_layers", layers)))


def in_periods(name: str, period: int) -> Callable[[Fields, int], int]:
    """Return the layers with a window: all but the last of each period."""
    return lambda f, layers: listed(f, layers, every_other_than(layers, f.size(name, default=period)))


def entry(
    name: str,
    kind: Kind,
    architectures: tuple[str, ...],
    defaults: Defaults,
    prepare: Callable[[Fields], Fields] = lambda f: f,
) -> tuple[str, Family]:
    """Return a family of this kind under its name; `prepare` translates its own names of fields."""
    return name, Family(lambda f: _workload(prepare(f), name, kind), architectures, defaults, mtp=kind.mtp is not None)
