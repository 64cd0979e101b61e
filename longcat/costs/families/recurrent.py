"""Parts that families with recurrent layers share: such layers, the softmax attention between them, lists of kinds."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from longcat.costs.attention import Attention
from longcat.costs.families.fields import Fields, shown
from longcat.costs.families.layers import Layers, Norms, grouped_queries
from longcat.costs.recurrence import Recurrence
from longcat.errors import ConfigError

LINEAR_OR_FULL = {
    "linear_attention": "linear", "mamba": "linear", "full_attention": "full", "attention": "full",
}  # fmt: skip
"""Names of layers, as transformers has and had them."""


def recurrent(recurrence: Recurrence, *, projections: int, vectors: int, convolutions: int = 0) -> Layers:
    """Return recurrent layers.

    Args:
        recurrence: their states, and how many layers.
        projections: weights of the projections of one layer.
        vectors: its norms, biases and decays.
        convolutions: weights of its short convolutions, one product with a channel each.
    """
    layers = recurrence.layers
    weights = {"recurrence_projections": layers * projections, "convolutions": layers * convolutions}
    return Layers(weights, layers * vectors, mixers=(recurrence,))


def softmax(
    f: Fields,
    hidden: int,
    layers: int,
    *,
    norms: Norms = "none",
    gated: bool = False,
    bias: bool = False,
    window: int | None = None,
) -> Layers:
    """Return layers of softmax attention with grouped queries.

    Args:
        f: the config.json.
        hidden: width of the residual stream.
        layers: how many.
        norms: of queries and keys.
        gated: whether a projection as wide as the queries gates the output.
        bias: whether the projections have biases.
        window: maximum number of keys that a query reads.

    Raises:
        ConfigError: the heads do not divide one another.
    """
    heads = f.size("num_attention_heads")
    kv_heads = f.size("num_key_value_heads", default=heads)
    check_groups(f, "num_key_value_heads", kv_heads, "num_attention_heads", heads)
    dim = f.size("head_dim", default=0) or f.divided(hidden, heads, "the hidden size")
    attention = Attention(layers, heads, dim, dim, window)
    gate = heads * dim * gated
    queries = grouped_queries(hidden, attention, kv_heads, qkv_bias=bias, output_bias=bias, norms=norms, gate=gate)
    return queries + Layers(vectors=layers * gate * bias)


def present(*kinds: tuple[int, Callable[[int], Layers]]) -> list[Layers]:
    """Return the layers of the kinds that there are, each made from its number; the fields of others are not read."""
    return [make(number) for number, make in kinds if number]


def count_kinds(f: Fields, name: str, layers: int | None, kinds: Mapping[str, str]) -> dict[str, int] | None:
    """Count the layers of each kind in a list of names; None where there is no list.

    Args:
        f: the config.json.
        name: its field with the list.
        layers: how many entries it has; any number when None.
        kinds: every name that may stand in it, and the kind it means.

    Raises:
        ConfigError: another name, or another number of entries.
    """
    found = f.each(name, str, layers)
    if found is None:
        return None
    counts = dict.fromkeys(kinds.values(), 0)
    for one in found:
        if one not in kinds:
            raise ConfigError(f"{f.source}: {name} has {shown(one)}; known are {', '.join(kinds)}")
        counts[kinds[one]] += 1
    return counts


def check_groups(f: Fields, name: str, number: int, of: str, heads: int) -> None:
    """Raise ConfigError unless the groups, the field `name`, divide the heads, the field `of`."""
    if heads % number:
        raise ConfigError(f"{f.source}: {name} {number} does not divide {of} {heads}")
