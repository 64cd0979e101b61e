"""Parts that the newer families share: gated feed-forward networks, mixtures of them, sliding windows."""

from __future__ import annotations

from longcat.costs.attention import Attention, Mixer
from longcat.costs.decoder import Decoder
from longcat.costs.families.fields import EXPERTS, Fields
from longcat.errors import ConfigError


class Experts:
    """The mixture of one layer."""

    def __init__(self, *, router: int, expert: int, number: int, chosen: int, shared: int) -> None:
        self.router, self.expert, self.number, self.chosen, self.shared = router, expert, number, chosen, shared


def read_experts(f: Fields, h: int, layers: int) -> tuple[Experts | None, int, int]:
    """Mixture, layers that have it, width of the dense feed-forward network."""
    number = next((f.values[name] for name in EXPERTS if f.values.get(name)), None)
    if not number:
        return None, 0, f.size("intermediate_size")
    number, chosen = f.size(*EXPERTS), f.size("num_experts_per_tok")
    if chosen > number:
        raise ConfigError(f"{f.source}: num_experts_per_tok {chosen} is more than {number} experts")
    width = f.size("moe_intermediate_size", "intermediate_size")
    shared = 0
    if f.values.get("shared_expert_intermediate_size"):
        shared = 3 * h * f.size("shared_expert_intermediate_size") + h  # and its gate
    elif f.values.get("n_shared_experts"):
        shared = 3 * h * width * f.size("n_shared_experts")
    if "first_k_dense_replace" in f.values:
        first, step = f.count("first_k_dense_replace", 0), f.size("moe_layer_freq", default=1)
        where, dense_only = range(-(-first // step) * step, layers, step), set[int]()
    else:
        step, dense_only = f.size("decoder_sparse_step", default=1), set(f.each("mlp_only_layers", int) or [])
        where = range(step - 1, layers, step)
    sparse = len(where) - sum(one in where for one in dense_only)
    ffn = f.size("intermediate_size") if sparse < layers else 0
    experts = Experts(router=h * number, expert=3 * h * width, number=number, chosen=chosen, shared=shared)
    return experts, sparse, ffn


def gated(
    f: Fields,
    family: str,
    *,
    hidden: int,
    layers: int,
    dense: tuple[int, int],
    mixture: tuple[int, Experts | None],
    attention_weights: int,
    mixers: tuple[Mixer, ...],
    norm_and_bias_parameters: int,
    assumptions: tuple[str, ...] = (),
) -> Decoder:
    """Put a decoder together from dense layers (how many, width) and layers with experts (how many, which)."""
    vocabulary = f.size("vocab_size")
    matrices: dict[str, float] = {"attention_projections": layers * attention_weights, "lm_head": hidden * vocabulary}
    if dense[0]:
        matrices["dense_ffn"] = dense[0] * 3 * hidden * dense[1]
    inactive, count, experts = 0.0, *mixture
    if experts is not None and count:
        matrices["router"] = count * experts.router
        matrices["routed_experts"] = count * experts.chosen * experts.expert
        if experts.shared:
            matrices["shared_experts"] = count * experts.shared
        inactive = count * (experts.number - experts.chosen) * experts.expert
    return Decoder(
        family=family,
        layers=layers,
        hidden_size=hidden,
        vocabulary=vocabulary,
        matrices=matrices,
        mixers=mixers,
        embedding_parameters=vocabulary * hidden,
        norm_and_bias_parameters=norm_and_bias_parameters,
        tied=f.flag("tie_word_embeddings", False),
        inactive_expert_parameters=inactive,
        ffn_experts=0.0 if experts is None else experts.chosen,
        assumptions=assumptions,
    )


def windows(f: Fields, family: str, layers: int, heads: int, dim: int) -> tuple[Attention, ...]:
    """Attentions with and without a sliding window."""
    if f.values.get("sliding_window") is None:
        return (Attention(layers, heads, dim, dim),)
    window, kinds = f.size("sliding_window"), f.each("layer_types", str, layers)
    sliding = layers
    if kinds is not None:
        sliding = kinds.count("sliding_attention")
    elif family in ("qwen2", "qwen3"):  # the later layers; of qwen2_moe every other one of the first
        sliding = max(0, layers - f.count("max_window_layers", layers))
    elif family == "qwen2_moe":
        sliding = (min(layers, f.count("max_window_layers", layers)) + 1) // 2
    shapes = ((sliding, window), (layers - sliding, None))
    return tuple(Attention(count, heads, dim, dim, size) for count, size in shapes if count)
