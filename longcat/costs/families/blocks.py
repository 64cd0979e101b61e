"""Decoders whose layers differ, put together from blocks: how many there are of each kind, and what one holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from longcat.costs.attention import Attention
from longcat.costs.decoder import Decoder
from longcat.costs.families.fields import Fields, shown
from longcat.costs.families.gated import Experts
from longcat.costs.recurrence import Recurrence
from longcat.costs.workload import Workload
from longcat.errors import ConfigError

DEPTHS = ("num_nextn_predict_layers", "mtp_num_hidden_layers", "num_mtp_layers")
"""Names of the number of layers of multi-token prediction."""


@dataclass(frozen=True)
class Block:
    """What one layer, or a part of it, holds."""

    matrices: Mapping[str, int] = field(default_factory=dict)
    """Weights that a token is multiplied by, by component."""
    vectors: int = 0
    """Norms, biases, decays."""
    mixer: Attention | Recurrence | None = None
    inactive: int = 0
    """Weights of the routed experts that a token is not routed to."""
    experts: int = 0
    """Routed experts of a token."""


def stacked(
    f: Fields,
    family: str,
    hidden: int,
    layers: int,
    blocks: Sequence[tuple[int, Block]],
    *,
    vectors: int | None = None,
    tied: bool = False,
    assumptions: tuple[str, ...] = (),
) -> Workload:
    """Return the workload of a decoder of these blocks, how many of each, between an embedding and a head.

    Args:
        f: its config.json.
        family: model type.
        hidden: width.
        layers: how many there are.
        blocks: how many of each.
        vectors: parameters outside the layers; one norm when None.
        tied: whether head and embedding are one where the file does not say.
        assumptions: made on the way.
    """
    vocabulary = f.size("vocab_size")
    blocks = [(count, block) for count, block in blocks if count]
    names = dict.fromkeys(name for _, block in blocks for name in block.matrices)
    matrices = {name: sum(count * block.matrices.get(name, 0) for count, block in blocks) for name in names}
    depths = [f"{name}={f.values[name]} is not counted" for name in DEPTHS if f.values.get(name)]
    return Decoder(
        family=family,
        layers=layers,
        hidden_size=hidden,
        vocabulary=vocabulary,
        matrices={name: float(weights) for name, weights in matrices.items() if weights}
        | {"lm_head": float(hidden * vocabulary)},
        mixers=tuple(
            replace(block.mixer, layers=count * block.mixer.layers)
            for count, block in blocks
            if block.mixer is not None
        ),
        embedding_parameters=vocabulary * hidden,
        norm_and_bias_parameters=sum(count * block.vectors for count, block in blocks)
        + (hidden if vectors is None else vectors),
        tied=f.flag("tie_word_embeddings", tied),
        inactive_expert_parameters=sum(count * block.inactive for count, block in blocks),
        ffn_experts=max((block.experts for _, block in blocks), default=0),
        assumptions=(*depths, *assumptions),
    ).workload()


def norms(hidden: int, number: int = 2) -> Block:
    """Return the norms of a layer, each with one weight per channel."""
    return Block(vectors=number * hidden)


def attention(
    f: Fields,
    h: int,
    *,
    dim: int | None = None,
    gate: bool = False,
    bias: bool = False,
    output_bias: bool | None = None,
    head_norms: bool = False,
    window: int | None = None,
) -> Block:
    """Return one softmax attention with grouped queries.

    Args:
        f: its config.json.
        h: width.
        dim: of a head; the hidden size over the heads when None.
        gate: whether its output is gated by a projection as wide as the queries.
        bias: whether its projections have one.
        output_bias: whether the last one has; as the others when None.
        head_norms: whether queries and keys of a head are normalized.
        window: maximum number of keys that a query reads.

    Raises:
        ConfigError: the heads do not divide one another.
    """
    heads = f.size("num_attention_heads")
    kv_heads = f.size("num_key_value_heads", default=heads)
    check_groups(f, "num_key_value_heads", kv_heads, "num_attention_heads", heads)
    dim = dim or f.divided(h, heads, "the hidden size")
    rows = (heads * (1 + gate) + 2 * kv_heads) * dim
    biases = rows * bias + h * (bias if output_bias is None else output_bias)
    return Block(
        {"attention_projections": h * rows + heads * dim * h},
        biases + 2 * dim * head_norms,
        Attention(1, heads, dim, dim, window),
    )


def check_groups(f: Fields, name: str, number: int, of: str, heads: int) -> None:
    """Raise ConfigError unless the groups, the field `name`, divide the heads, the field `of`."""
    if heads % number:
        raise ConfigError(f"{f.source}: {name} {number} does not divide {of} {heads}")


def latent_attention(f: Fields, h: int, *, bias: bool = False, gates: int = 0) -> Block:
    """Return one latent attention (DeepSeek-V2, arXiv 2405.04434, section 2.1), with gates of its output if any."""
    heads, q_rank, kv_rank = f.size("num_attention_heads"), f.count("q_lora_rank", 0), f.size("kv_lora_rank")
    rope, nope, value = f.size("qk_rope_head_dim"), f.size("qk_nope_head_dim"), f.size("v_head_dim")
    key = rope + nope
    queries = h * q_rank + q_rank * heads * key if q_rank else h * heads * key
    weights = queries + h * (kv_rank + rope) + kv_rank * heads * (nope + value) + (heads * value + gates) * h
    vectors = q_rank + kv_rank + (q_rank + kv_rank + rope + h) * bias
    return Block({"attention_projections": weights}, vectors, Attention(1, heads, key, value))


def gated_ffn(h: int, width: int) -> Block:
    """Return one feed-forward network with a gate: three matrices."""
    return Block({"dense_ffn": 3 * h * width})


def mixture(experts: Experts | None) -> Block:
    """Return one layer's experts; an empty block for none."""
    if experts is None:
        return Block()
    return Block(
        {
            "router": experts.router,
            "routed_experts": experts.chosen * experts.expert,
            "shared_experts": experts.shared,
        },
        inactive=(experts.number - experts.chosen) * experts.expert,
        experts=experts.chosen,
    )


def count_kinds(f: Fields, name: str, layers: int, kinds: Mapping[str, str]) -> dict[str, int] | None:
    """Count the layers of each kind in a list of names; None where there is no list.

    Args:
        f: the config.json.
        name: its field with the list.
        layers: how many entries it has.
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


LINEAR_OR_FULL = {
    "linear_attention": "linear", "mamba": "linear", "full_attention": "full", "attention": "full",
}  # fmt: skip
"""Names of layers, as transformers has and had them."""
