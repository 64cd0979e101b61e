"""Families of the GPT kind: two matrices in the feed-forward network, and names of their own for the same fields."""

from __future__ import annotations

from longcat.costs.families.dense import Heads, dense
from longcat.costs.families.fields import Family, Fields, shown
from longcat.costs.workload import Workload
from longcat.errors import ConfigError


def _heads(
    f: Fields, hidden: tuple[str, ...], layers: tuple[str, ...], queries: tuple[str, ...], keys: int | None = None
) -> Heads:
    """Return width, depth and heads by the names that a family gives them; each query has its keys if None are given."""
    h, heads = f.size(*hidden), f.size(*queries)
    return Heads(h, f.size(*layers), heads, keys or heads, f.divided(h, heads, "the hidden size"))


def _gpt2(f: Fields) -> Workload:
    heads = _heads(f, ("n_embd", "hidden_size"), ("n_layer", "num_hidden_layers"), ("n_head", "num_attention_heads"))
    return dense(
        f, "gpt2", heads, ffn=f.size("n_inner", default=4 * heads.hidden), gated=False, norm_vectors=2, qkv_bias=True,
        output_bias=True, up_bias=True, down_bias=True, positions=f.size("n_positions", "max_position_embeddings"),
        tied=True,
    )  # fmt: skip


def _gpt_neox(f: Fields) -> Workload:
    heads = _heads(f, ("hidden_size",), ("num_hidden_layers",), ("num_attention_heads",))
    bias = f.flag("attention_bias", True)
    return dense(
        f, "gpt_neox", heads, gated=False, norm_vectors=2, qkv_bias=bias, output_bias=bias, up_bias=True, down_bias=True
    )


def _opt(f: Fields) -> Workload:
    heads = _heads(f, ("hidden_size",), ("num_hidden_layers",), ("num_attention_heads",))
    norm, bias = 2 * f.flag("layer_norm_elementwise_affine", True), f.flag("enable_bias", True)
    final = f.flag("do_layer_norm_before", True) and not f.flag("_remove_final_layer_norm", False)
    return dense(
        f, "opt", heads, ffn=f.size("ffn_dim"), gated=False, norm_vectors=norm, qkv_bias=bias, output_bias=bias,
        up_bias=bias, down_bias=bias, outer_vectors=norm * heads.hidden * final,
        positions=f.size("max_position_embeddings") + 2,  # transformers keeps two rows in front
        embedding_width=f.size("word_embed_proj_dim", default=heads.hidden), tied=True,
    )  # fmt: skip


def _bloom(f: Fields) -> Workload:
    heads = _heads(f, ("hidden_size", "n_embed"), ("n_layer", "num_hidden_layers"), ("n_head", "num_attention_heads"))
    return dense(
        f, "bloom", heads, ffn=4 * heads.hidden, gated=False, norm_vectors=2, qkv_bias=True, output_bias=True, up_bias=True,
        down_bias=True, outer_vectors=4 * heads.hidden, tied=True,
    )  # fmt: skip


def _mpt(f: Fields) -> Workload:
    heads = _heads(f, ("d_model", "hidden_size"), ("n_layers", "num_hidden_layers"), ("n_heads", "num_attention_heads"))
    kind = f.inner("attn_config").get("attn_type", "multihead_attention")
    if kind != "multihead_attention":  # transformers would build that one all the same
        raise ConfigError(f"{f.source}: attn_config.attn_type {shown(kind)} is not known; multihead_attention is")
    ffn = heads.hidden * f.size("expansion_ratio", default=4)
    return dense(f, "mpt", heads, ffn=ffn, gated=False, tied=True)


def _falcon(f: Fields) -> Workload:
    newer, parallel = f.flag("new_decoder_architecture", False), f.flag("parallel_attn", True)
    queries = f.size("num_attention_heads", "n_head")
    keys = 1 if f.flag("multi_query", True) else queries
    if newer:
        keys = f.size("num_kv_heads", "n_head_kv", default=queries)
    f.divided(queries, keys, "the heads of queries,", "num_key_value_heads")
    heads = _heads(
        f, ("hidden_size", "n_embed"), ("num_hidden_layers", "n_layer"), ("num_attention_heads", "n_head"), keys
    )
    norms = f.size("num_ln_in_parallel_attn", default=2) if newer and parallel else 1 + (not parallel)
    bias = f.flag("bias", False)
    return dense(
        f, "falcon", heads, ffn=f.size("ffn_hidden_size", default=4 * heads.hidden), gated=False, norms=norms,
        norm_vectors=2, qkv_bias=bias, output_bias=bias, up_bias=bias, down_bias=bias, tied=True,
    )  # fmt: skip


FAMILIES = {
    "gpt2": Family(_gpt2, ("GPT2LMHeadModel",), {"n_positions": 1024}),
    "gpt_neox": Family(_gpt_neox, ("GPTNeoXForCausalLM",)),
    "opt": Family(_opt, ("OPTForCausalLM",), {"max_position_embeddings": 2048}),
    "bloom": Family(_bloom, ("BloomForCausalLM", "BloomModel")),
    "mpt": Family(_mpt, ("MptForCausalLM", "MPTForCausalLM")),
    "falcon": Family(_falcon, ("FalconForCausalLM",)),
}
