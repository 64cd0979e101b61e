"""The layers of a decoder as sums: grouped or latent queries, gated feed-forward networks, mixtures of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from longcat.costs.attention import Attention, Index, Mixer
from longcat.costs.decoder import Decoder
from longcat.costs.families.fields import EXPERTS, Fields
from longcat.costs.products import Product
from longcat.costs.workload import Workload
from longcat.errors import ConfigError

Norms = Literal["none", "head", "whole"]
"""Norms of queries and keys: none, with weights per `head` dimension, or with weights over all heads (`whole`)."""
PROJECTIONS = "attention_projections"
INDEX = "indexer_projections"
"""Component of the matrices whose results only choose keys."""


@dataclass(frozen=True)
class Layers:
    """What some layers hold; sums of them make a decoder."""

    matrices: Mapping[str, float] = field(default_factory=dict)
    """Weights that a token is multiplied by, by component; routed experts by the number per token."""
    vectors: float = 0.0
    """Norms, biases and other parameters that no product with a token needs."""
    idle: float = 0.0
    """Parameters of the routed experts that a token is not routed to."""
    mixers: tuple[Mixer, ...] = ()
    shapes: tuple[Product, ...] = ()
    """Those of `matrices` whose shapes are known."""

    def __add__(self, other: Layers) -> Layers:
        matrices = dict(self.matrices)
        for name, weights in other.matrices.items():
            matrices[name] = matrices.get(name, 0.0) + weights
        return Layers(
            matrices,
            self.vectors + other.vectors,
            self.idle + other.idle,
            (*self.mixers, *other.mixers),
            (*self.shapes, *other.shapes),
        )


def grouped_queries(
    hidden: int,
    attention: Attention,
    kv_heads: int,
    *,
    qkv_bias: bool = False,
    output_bias: bool = False,
    norms: Norms = "none",
    gate: int = 0,
    sinks: bool = False,
) -> Layers:
    """Count attention layers whose query heads share heads of keys and values.

    Args:
        hidden: width of the residual stream.
        attention: number of layers, query heads and their dimensions, window.
        kv_heads: heads of keys and values.
        qkv_bias: whether queries, keys and values have biases.
        output_bias: whether the projection of the output has one.
        norms: those of queries and keys.
        gate: columns of a projection that gates the output of attention.
        sinks: whether each head has a learned sink.
    """
    layers, heads, key, value = attention.layers, attention.heads, attention.key_dim, attention.value_dim
    weights = hidden * (heads * key + kv_heads * (key + value) + heads * value + gate)
    biases = (heads * key + kv_heads * (key + value)) * qkv_bias + hidden * output_bias + heads * sinks
    normed = {"none": 0, "head": 2 * key, "whole": (heads + kv_heads) * key}[norms]
    shapes = (
        Product(PROJECTIONS, layers, hidden, heads * key + kv_heads * (key + value) + gate, "outputs", kept=True),
        Product(PROJECTIONS, layers, heads * value, hidden, "inputs"),
    )
    return Layers({PROJECTIONS: layers * weights}, layers * (biases + normed), mixers=(attention,), shapes=shapes)


def latent_queries(
    hidden: int, attention: Attention, *, q_rank: int, kv_rank: int, rope: int, bias: bool = False, gate: int = 0
) -> Layers:
    """Count layers of latent attention (arXiv 2405.04434, section 2.1).

    Args:
        hidden: width of the residual stream.
        attention: number of layers, heads and their dimensions, most keys that a query reads.
        q_rank: rank of the queries; 0 where they have none.
        kv_rank: rank of keys and values.
        rope: dimensions of a key, of all, that carry the position and are shared by all heads.
        bias: whether the projections into the ranks and of the output have biases.
        gate: columns of a projection that gates the output of attention.
    """
    layers, heads, key, value = attention.layers, attention.heads, attention.key_dim, attention.value_dim
    queries = hidden * q_rank + q_rank * heads * key if q_rank else hidden * heads * key
    keys = hidden * (kv_rank + rope) + kv_rank * heads * (key - rope + value)
    biases = (q_rank + kv_rank + rope + hidden) * bias
    own = [(q_rank, heads * key)] if q_rank else []
    wide = gate if q_rank else gate + heads * key
    shapes = [
        Product(PROJECTIONS, layers, hidden, q_rank + kv_rank + rope, kept=True),
        *(Product(PROJECTIONS, layers, rank, width, "outputs", kept=True) for rank, width in own),
        Product(PROJECTIONS, layers, kv_rank, heads * (key - rope + value), "outputs", kept=True),
        Product(PROJECTIONS, layers, heads * value, hidden, "inputs"),
    ]
    shapes += [Product(PROJECTIONS, layers, hidden, wide, "outputs", kept=True)] if wide else []
    return Layers(
        {PROJECTIONS: layers * (queries + keys + hidden * (heads * value + gate))},
        layers * (q_rank + kv_rank + biases),
        mixers=(attention,),
        shapes=tuple(shapes),
    )


def index(hidden: int, layers: int, *, q_rank: int, heads: int, dim: int) -> Layers:
    """Count the lightning indexer that chooses the keys of latent attention (DeepSeek-V3.2-Exp's report, section 1).

    Every head's scores are weighted and summed, one product more for each. Only the forward pass is counted, as in
    transformers, which runs it without gradient. DeepSeek trains it by a loss of its own with detached inputs; that would
    add one product with its weights and the gradient of the scores that were chosen.
    """
    weights = hidden * (dim + heads) + q_rank * heads * dim
    return Layers({INDEX: layers * weights}, layers * 2 * dim, mixers=(Index(layers, heads, dim + 1),))


def feed_forward(
    hidden: int, layers: int, width: int, *, bias: bool = False, gated: bool = True, component: str = "dense_ffn"
) -> Layers:
    """Count feed-forward networks: one matrix in, a second one if gated, one out."""
    matrices = 2 + gated
    shapes = (
        Product(component, layers, hidden, (1 + gated) * width, "outputs", kept=True),
        Product(component, layers, width, hidden, "inputs"),
    )
    vectors = layers * ((1 + gated) * width + hidden) * bias
    return Layers({component: layers * matrices * hidden * width}, vectors, shapes=shapes)


@dataclass(frozen=True)
class Mixture:
    """Routed experts of a layer, and shared ones."""

    number: int
    chosen: int
    width: int
    """Of one routed expert."""
    shared_width: int = 0
    """Of all shared experts together."""
    shared_gate: bool = False
    shared_bias: bool = False
    """Whether shared experts and the projections of a latent space have biases."""
    gated: bool = True
    """Whether an expert has a gate: three matrices, two without."""
    latent: int = 0
    """Width of the latent space that routed experts work in; 0 where it is that of the residual stream."""
    latent_norm: bool = False
    bias: bool = False
    """Whether routed experts and router have biases."""
    correction: bool = False
    """Whether the bias that balances the choice is among the parameters, not a buffer."""


def mixture(hidden: int, layers: int, experts: Mixture) -> Layers:
    """Count layers with routed experts."""
    inner = experts.latent or hidden
    expert = (2 + experts.gated) * inner * experts.width
    expert_bias = ((1 + experts.gated) * experts.width + inner) * experts.bias
    resting = experts.number - experts.chosen
    vectors = experts.chosen * expert_bias + experts.number * (experts.bias + experts.correction)
    expert_in, expert_out = (inner, (1 + experts.gated) * experts.width), (experts.width, inner)
    routed = Layers(
        {"router": layers * hidden * experts.number, "routed_experts": layers * experts.chosen * expert},
        layers * vectors,
        layers * resting * (expert + expert_bias),
        shapes=(
            Product("router", layers, hidden, experts.number, kept=True),
            *(
                Product("routed_experts", layers, *sizes, kept=kept, chosen=experts.chosen, copies=experts.number)
                for sizes, kept in ((expert_in, True), (expert_out, False))
            ),
        ),
    )
    if experts.latent:
        latent = experts.latent
        vectors = latent * experts.latent_norm + (latent + hidden) * experts.shared_bias
        routed += Layers({"latent_projections": layers * 2 * hidden * latent}, layers * vectors)
    if not experts.shared_width:
        return routed
    gate = Layers({"shared_experts": layers * hidden}) if experts.shared_gate else Layers()
    shared = feed_forward(
        hidden,
        layers,
        experts.shared_width,
        bias=experts.shared_bias,
        gated=experts.gated,
        component="shared_experts",
    )
    return routed + shared + gate


_CHOSEN = ("moe_k", "moe_topk", "moe_top_k", "experts_per_token")
"""Other names of `num_experts_per_tok`, which win over its default."""


def read_mixture(
    f: Fields, width: int, shared_width: int = 0, *, number: tuple[str, ...] = (), latent: int = 0, **kind: bool
) -> Mixture:
    """Return the mixture of a config.json, whose experts have these widths.

    Raises:
        ConfigError: no experts, or more chosen than there are.
    """
    experts = f.size(*number, *EXPERTS)
    name = next((one for one in _CHOSEN if f.values.get(one) is not None), "num_experts_per_tok")
    chosen = f.size(name)
    if chosen > experts:
        raise ConfigError(f"{f.source}: {name} {chosen} is more than {experts} experts")
    return Mixture(experts, chosen, width, shared_width, latent=latent, **kind)


def sparse_layers(f: Fields, layers: int, default: int) -> int:
    """Return how many layers have experts: those of `mlp_layer_types`, `moe_layer_freq` as a list, or the default."""
    kinds = f.each("mlp_layer_types", str, layers)
    if kinds is not None:
        return kinds.count("sparse")
    if isinstance(f.values.get("moe_layer_freq"), list):
        return sum(map(bool, f.each("moe_layer_freq", int, layers) or []))
    return default


def after_first(f: Fields, layers: int, first: int = 0) -> int:
    """Return how many layers have experts where the first `first_k_dense_replace` are dense; every n-th of the others."""
    first = f.count("first_k_dense_replace", first)
    step = 1 if isinstance(f.values.get("moe_layer_freq"), list) else f.size("moe_layer_freq", default=1)
    return sparse_layers(f, layers, len(range(-(-first // step) * step, layers, step)))


def by_step(f: Fields, layers: int) -> int:
    """Return how many layers have experts: each `decoder_sparse_step`-th one that is not in `mlp_only_layers`."""
    step, dense = f.size("decoder_sparse_step", default=1), set(f.each("mlp_only_layers", int) or [])
    where = range(step - 1, layers, step)
    return len(where) - sum(one in where for one in dense)


def every_other_than(layers: int, period: int) -> int:
    """Return how many of the layers are not the last of a period."""
    return layers - layers // period


def decoder(
    f: Fields,
    family: str,
    hidden: int,
    layers: int,
    parts: Sequence[Layers],
    *,
    experts: Mixture | None = None,
    norms: int = 2,
    final_norms: int = 1,
    head_bias: bool = False,
    ties: bool = True,
    shared: float = 0.0,
    depth: Sequence[Layers] | None = None,
    depth_norms: int = 3,
    assumptions: tuple[str, ...] = (),
) -> Workload:
    """Put the workload of a decoder together.

    Args:
        f: its config.json.
        family: model type.
        hidden: width of the residual stream.
        layers: how many.
        parts: what all the layers hold, but their norms.
        experts: the mixture, where there is one.
        norms: vectors of the hidden size in a layer: one for each norm, two if it has a bias.
        final_norms: the same behind the last layer.
        head_bias: whether the head has biases.
        ties: whether head and embedding can be one; some classes keep them apart whatever the file says.
        shared: weights of matrices that several layers have in common, each beyond its first.
        depth: what the layers hold that multi-token prediction adds; None where its module is not known. Each of its
            depths joins the hidden state with the next token's embedding, has one layer, and uses the model's own head
            (DeepSeek-V3, arXiv 2412.19437, section 2.2).
        depth_norms: norms of a depth beside those of its layer: of embedding, hidden state and result.
        assumptions: to print.

    Raises:
        ConfigError: multi-token prediction is asked for, and the file has none.
    """
    vocabulary, depths = f.size("vocab_size"), depths_of(f)
    head = hidden * vocabulary
    last = Product("lm_head", 1, hidden, vocabulary, "outputs", kept=True)
    outer = hidden * (layers * norms + final_norms) + vocabulary * head_bias
    whole = sum(parts, Layers({"lm_head": head}, outer, shapes=(last,)))
    matrices, vectors, idle, mixers = dict(whole.matrices), whole.vectors, whole.idle, whole.mixers
    repeated = 0
    if f.mtp:
        if not depths or depth is None:
            raise ConfigError(f"{f.source}: no layers of multi-token prediction, but --mtp")
        more = sum(depth, Layers(vectors=depths * hidden * (norms + depth_norms)))
        repeated = depths * head
        chooses = more.matrices.get(INDEX, 0.0)
        matrices["mtp"] = sum(more.matrices.values()) - chooses + depths * 2 * hidden * hidden + repeated
        if chooses:
            matrices[INDEX] = matrices.get(INDEX, 0.0) + chooses
        vectors, idle, mixers = vectors + more.vectors, idle + more.idle, (*mixers, *more.mixers)
    elif depths:
        counted = "; --mtp does" if depth is not None else ""
        assumptions = (*assumptions, f"{_depth_name(f)}={depths} is not counted{counted}")
    if INDEX in matrices:
        assumptions = (*assumptions, "the index that chooses keys is counted forward only, as it passes no gradient")
    return Decoder(
        family=family,
        layers=layers,
        hidden_size=hidden,
        vocabulary=vocabulary,
        matrices={name: weights for name, weights in matrices.items() if weights},
        mixers=tuple(mixers),
        embedding_parameters=head,
        norm_and_bias_parameters=round(vectors),
        tied=ties and f.flag("tie_word_embeddings", False),
        inactive_expert_parameters=idle,
        shared_parameters=repeated + shared,
        ffn_experts=0.0 if experts is None else experts.chosen,
        forward_only=(INDEX,),
        assumptions=assumptions,
        shapes=whole.shapes,
    ).workload()


_DEPTHS = ("num_nextn_predict_layers", "num_mtp_layers", "mtp_num_hidden_layers")


def _depth_name(f: Fields) -> str:
    return next((name for name in _DEPTHS if f.values.get(name)), _DEPTHS[0])


def depths_of(f: Fields) -> int:
    """Return the depths of multi-token prediction that the file names."""
    return f.count(_depth_name(f), 0)
