"""Families of the GPT kind: every query head has its keys or shares them, two matrices in the feed-forward network."""

from __future__ import annotations

from longcat.costs.attention import Attention
from longcat.costs.decoder import Decoder
from longcat.costs.families.fields import Family, Fields, shown
from longcat.costs.workload import Workload
from longcat.errors import ConfigError


def _plain(
    f: Fields,
    *,
    hidden: int,
    layers: int,
    heads: int,
    ffn: int,
    vectors: int,
    family: str,
    tied: bool,
    other_vectors: int,
    kv_heads: int | None = None,
    positions: int = 0,
    projections: int = 0,
    embedding_dim: int | None = None,
) -> Workload:
    """A decoder of the GPT kind: two matrices in the feed-forward network.

    Args:
        f: its config.json.
        hidden: width.
        layers: how many.
        heads: of queries.
        ffn: width of the feed-forward network.
        vectors: norms and biases of a layer.
        family: model type.
        tied: whether the head is the embedding.
        other_vectors: norms outside the layers.
        kv_heads: of keys and values; as queries when none.
        positions: learned ones.
        projections: matrices between embedding and layers.
        embedding_dim: of embedding and head; the width when none.
    """
    vocabulary, dim = f.size("vocab_size"), f.divided(hidden, heads, "the hidden size")
    width = embedding_dim or hidden
    return Decoder(
        family=family,
        layers=layers,
        hidden_size=width,
        vocabulary=vocabulary,
        matrices={
            "attention_projections": layers * 2 * hidden * dim * (heads + (kv_heads or heads)),
            "dense_ffn": layers * 2 * hidden * ffn,
            "lm_head": width * vocabulary,
        }
        | ({"embedding_projections": projections} if projections else {}),
        mixers=(Attention(layers, heads, dim, dim),),
        embedding_parameters=vocabulary * width + positions * hidden,
        norm_and_bias_parameters=layers * vectors + other_vectors,
        tied=tied,
    ).workload()


def _gpt2(f: Fields) -> Workload:
    h = f.size("n_embd", "hidden_size")
    ffn = f.size("n_inner", default=4 * h)
    return _plain(
        f, family="gpt2", hidden=h, layers=f.size("n_layer", "num_hidden_layers"), ffn=ffn,
        heads=f.size("n_head", "num_attention_heads"), vectors=4 * h + 3 * h + h + ffn + h, other_vectors=2 * h,
        positions=f.size("n_positions", "max_position_embeddings"), tied=f.flag("tie_word_embeddings", True),
    )  # fmt: skip


def _gpt_neox(f: Fields) -> Workload:
    h, ffn = f.size("hidden_size"), f.size("intermediate_size")
    biases = 4 * h * f.flag("attention_bias", True) + ffn + h
    return _plain(
        f, family="gpt_neox", hidden=h, layers=f.size("num_hidden_layers"), heads=f.size("num_attention_heads"), ffn=ffn,
        vectors=4 * h + biases, other_vectors=2 * h, tied=f.flag("tie_word_embeddings", False),
    )  # fmt: skip


def _opt(f: Fields) -> Workload:
    h, ffn = f.size("hidden_size"), f.size("ffn_dim")
    width = f.size("word_embed_proj_dim", default=h)
    affine = f.flag("layer_norm_elementwise_affine", True)
    final = f.flag("do_layer_norm_before", True) and not f.flag("_remove_final_layer_norm", False)
    return _plain(
        f, family="opt", hidden=h, layers=f.size("num_hidden_layers"), heads=f.size("num_attention_heads"), ffn=ffn,
        vectors=4 * h * affine + (4 * h + ffn + h) * f.flag("enable_bias", True), other_vectors=2 * h * affine * final,
        positions=f.size("max_position_embeddings") + 2,  # transformers keeps two rows in front
        projections=2 * width * h if width != h else 0, embedding_dim=width, tied=f.flag("tie_word_embeddings", True),
    )  # fmt: skip


def _bloom(f: Fields) -> Workload:
    h = f.size("hidden_size", "n_embed")
    return _plain(
        f, family="bloom", hidden=h, layers=f.size("n_layer", "num_hidden_layers"), ffn=4 * h,
        heads=f.size("n_head", "num_attention_heads"), vectors=4 * h + 3 * h + h + 4 * h + h, other_vectors=4 * h,
        tied=f.flag("tie_word_embeddings", True),
    )  # fmt: skip


def _mpt(f: Fields) -> Workload:
    h = f.size("d_model", "hidden_size")
    kind = f.inner("attn_config").get("attn_type", "multihead_attention")
    if kind != "multihead_attention":  # transformers would build that one all the same
        raise ConfigError(f"{f.source}: attn_config.attn_type {shown(kind)} is not known; multihead_attention is")
    return _plain(
        f, family="mpt", hidden=h, layers=f.size("n_layers", "num_hidden_layers"),
        heads=f.size("n_heads", "num_attention_heads"), ffn=h * f.size("expansion_ratio", default=4), vectors=2 * h,
        other_vectors=h, tied=f.flag("tie_word_embeddings", True),
    )  # fmt: skip


def _falcon(f: Fields) -> Workload:
    h, heads = f.size("hidden_size", "n_embed"), f.size("num_attention_heads", "n_head")
    newer, parallel = f.flag("new_decoder_architecture", False), f.flag("parallel_attn", True)
    kv_heads = heads
    if newer:
        kv_heads = f.size("num_kv_heads", "n_head_kv", default=heads)
    elif f.flag("multi_query", True):
        kv_heads = 1
    ffn = f.size("ffn_hidden_size", default=4 * h)
    norms = f.size("num_ln_in_parallel_attn", default=2) if newer and parallel else 1 + (not parallel)
    f.divided(heads, kv_heads, "the heads of queries,", "num_key_value_heads")
    biases = (h + 2 * kv_heads * (h // heads) + h + ffn + h) * f.flag("bias", False)
    return _plain(
        f, family="falcon", hidden=h, layers=f.size("num_hidden_layers", "n_layer"), heads=heads, kv_heads=kv_heads,
        ffn=ffn, vectors=2 * h * norms + biases, other_vectors=2 * h, tied=f.flag("tie_word_embeddings", True),
    )  # fmt: skip


FAMILIES = {
    "gpt2": Family(_gpt2, ("GPT2LMHeadModel",), {"n_positions": 1024}),
    "gpt_neox": Family(_gpt_neox, ("GPTNeoXForCausalLM",)),
    "opt": Family(_opt, ("OPTForCausalLM",), {"max_position_embeddings": 2048}),
    "bloom": Family(_bloom, ("BloomForCausalLM", "BloomModel")),
    "mpt": Family(_mpt, ("MptForCausalLM", "MPTForCausalLM")),
    "falcon": Family(_falcon, ("FalconForCausalLM",)),
}
