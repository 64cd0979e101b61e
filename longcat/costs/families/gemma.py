"""Families of the Gemma kind: wide heads, norms before and after, windows in most layers, embeddings of each layer."""

from __future__ import annotations

from collections import Counter
from typing import Any

from longcat.costs.attention import Attention
from longcat.costs.decoder import Decoder
from longcat.costs.families.dense import dense, windowed_layers
from longcat.costs.families.fields import Family, Fields, shown
from longcat.costs.workload import Workload
from longcat.errors import ConfigError


def _gemma(f: Fields, family: str, *, norms: int, head_norms: int = 0, full_every: int = 0) -> Workload:
    layers, bias = f.size("num_hidden_layers"), f.flag("attention_bias", False)
    if f.values.get("use_bidirectional_attention") is True:
        raise ConfigError(f"{f.source}: use_bidirectional_attention makes this an encoder, not a decoder")
    windowed = full_every and f.find("sliding_window")[1] is not None
    return dense(
        f,
        family,
        norms=norms,
        head_norms=head_norms,
        qkv_bias=bias,
        output_bias=bias,
        windowed=windowed_layers(f, layers, full_every) if windowed else 0,
        tied=True,
    )


def _gemma3(f: Fields) -> Workload:
    every = f.size("sliding_window_pattern", "_sliding_window_pattern", default=6)
    return _gemma(f, "gemma3_text", norms=4, head_norms=2, full_every=every)


def _full_layers(f: Fields, layers: int) -> list[bool]:
    """Return which layers of a Gemma 4 read all keys; the last one does, whatever the file says."""
    kinds = f.each("layer_types", str, layers)
    if kinds is not None:
        windowed_layers(f, layers)  # refuses other types
        return [*(kind == "full_attention" for kind in kinds[:-1]), True]
    return [not (layer + 1) % 6 or layer + 1 == layers for layer in range(layers)]


def _own_sizes(f: Fields, full: list[bool]) -> list[tuple[int, int]]:
    """Return head dimension and heads of keys of each layer: the full ones have others, under one of two spellings."""
    dim, keys = f.size("head_dim"), f.size("num_key_value_heads")
    written = f.inner("per_layer_config")
    if not written:
        own_keys = f.size("num_global_key_value_heads", default=keys) if f.flag("attention_k_eq_v", False) else keys
        own = f.size("global_head_dim", default=512), own_keys
        return [own if reads_all else (dim, keys) for reads_all in full]
    sizes = [(dim, keys)] * len(full)
    for layer, fields in written.items():
        where = f"{f.source}: per_layer_config"
        if not isinstance(layer, str) or not layer.isdecimal() or int(layer) >= len(full):
            raise ConfigError(f"{where} has {shown(layer)}, which is none of {len(full)} layers")
        if not isinstance(fields, dict):
            raise ConfigError(f"{where}: {layer} must be an object, found {shown(fields)}")
        one = Fields(fields, f"{where}: {layer}")
        sizes[int(layer)] = one.size("head_dim", default=dim), one.size("num_key_value_heads", default=keys)
    return sizes


def _gemma4(f: Fields) -> Workload:
    h, layers, heads = f.size("hidden_size"), f.depth("num_hidden_layers"), f.size("num_attention_heads")
    vocabulary, ffn, window = f.size("vocab_size"), f.size("intermediate_size"), f.size("sliding_window")
    bias, same, wide = (f.flag(name, False) for name in ("attention_bias", "attention_k_eq_v", "use_double_wide_mlp"))
    if f.values.get("use_bidirectional_attention") == "all":
        raise ConfigError(f"{f.source}: use_bidirectional_attention 'all' makes this an encoder, not a decoder")
    full, sharing = _full_layers(f, layers), f.count("num_kv_shared_layers", 0)
    if not set(full[layers - sharing :]) <= set(full[: max(0, layers - sharing)]):
        raise ConfigError(f"{f.source}: num_kv_shared_layers {sharing} leaves no layer of {layers} to share keys with")
    shapes: Counter[Any] = Counter(
        (reads_all, *sizes, layer >= layers - sharing)
        for layer, (reads_all, sizes) in enumerate(zip(full, _own_sizes(f, full), strict=True))
    )
    attention, vectors, dense_ffn, mixers = 0, 0, 0, []
    for (reads_all, dim, keys, shares), count in shapes.items():
        f.divided(heads, keys, "the heads of queries,", "num_key_value_heads")
        made = 0 if shares else keys * (1 if same and reads_all else 2)  # keys and values; the latter may be the former
        attention += count * h * dim * (2 * heads + made)
        vectors += count * (4 * h + dim * (1 if shares else 2) + bias * (dim * (heads + made) + h))
        dense_ffn += count * 3 * h * ffn * (2 if wide and shares else 1)
        mixers.append(Attention(count, heads, dim, dim, None if reads_all else window))
    matrices: dict[str, float] = {"attention_projections": attention, "dense_ffn": dense_ffn, "lm_head": h * vocabulary}
    inactive, chosen, embedding = 0, 0, vocabulary * h
    if f.flag("enable_moe_block", False):
        number, chosen = f.size("num_experts"), f.size("top_k_experts")
        if chosen > number:
            raise ConfigError(f"{f.source}: top_k_experts {chosen} is more than {number} experts")
        expert = 3 * h * f.size("moe_intermediate_size")
        matrices |= {"router": layers * h * number, "routed_experts": layers * chosen * expert}
        inactive = layers * (number - chosen) * expert
        vectors += layers * (4 * h + number)  # three norms, and the router's scales
    if own := f.count("hidden_size_per_layer_input", 256):  # an embedding of each layer's own
        matrices["embedding_projections"] = layers * own * 3 * h
        embedding += f.size("vocab_size_per_layer_input") * layers * own
        vectors += layers * h + own
    return Decoder(
        family="gemma4_text",
        layers=layers,
        hidden_size=h,
        vocabulary=vocabulary,
        matrices=matrices,
        mixers=tuple(mixers),
        embedding_parameters=embedding,
        norm_and_bias_parameters=vectors + h,
        tied=f.flag("tie_word_embeddings", True),
        inactive_expert_parameters=inactive,
        ffn_experts=chosen,
    ).workload()


FAMILIES = {
    "gemma": Family(
        lambda f: _gemma(f, "gemma", norms=2), ("GemmaForCausalLM",), {"num_key_value_heads": 16, "head_dim": 256}
    ),
    "gemma2": Family(
        lambda f: _gemma(f, "gemma2", norms=4, full_every=2),
        ("Gemma2ForCausalLM",),
        {"num_key_value_heads": 4, "head_dim": 256, "sliding_window": 4096},
    ),
    "vaultgemma": Family(
        lambda f: _gemma(f, "vaultgemma", norms=2, full_every=2),
        ("VaultGemmaForCausalLM",),
        {"num_key_value_heads": 4, "head_dim": 256, "sliding_window": 4096},
    ),
    "gemma3_text": Family(
        _gemma3,
        ("Gemma3ForCausalLM",),
        {
            "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256, "sliding_window": 4096,
            "vocab_size": 262208,  # published files rely on it, and that of 4B on the heads
        },
    ),
    "gemma4_text": Family(
        _gemma4,
        ("Gemma4ForCausalLM",),
        {
            "num_key_value_heads": 4, "head_dim": 256, "sliding_window": 512, "hidden_size_per_layer_input": 256,
            "vocab_size_per_layer_input": 262144,
        },
    ),
}  # fmt: skip
