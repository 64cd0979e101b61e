"""Zamba2: Mamba-2 in every layer, before some of them one of few transformer blocks that they share (arXiv 2411.15242)."""

from __future__ import annotations

from longcat.costs.attention import Attention
from longcat.costs.families.fields import Family, Fields
from longcat.costs.families.layers import Layers, decoder, feed_forward, grouped_queries
from longcat.costs.families.mamba import mamba2
from longcat.costs.families.recurrent import check_groups, count_kinds, present
from longcat.costs.workload import Workload
from longcat.errors import ConfigError

_KINDS = {"linear_attention": "linear", "mamba": "linear", "hybrid": "hybrid"}


def _mamba2(f: Fields, h: int, layers: int) -> Layers:
    heads, groups = f.size("n_mamba_heads"), f.size("mamba_ngroups")
    check_groups(f, "mamba_ngroups", groups, "n_mamba_heads", heads)
    inner = h * f.size("mamba_expand")
    check_groups(f, "n_mamba_heads", heads, "mamba_expand times hidden_size", inner)
    return mamba2(
        h,
        layers,
        heads=heads,
        dim=inner // heads,
        state=f.size("mamba_d_state"),
        groups=groups,
        kernel=f.size("mamba_d_conv"),
        convolution_bias=True,
        bias=f.flag("add_bias_linear", False),
    )


def _transformer(f: Fields, h: int, blocks: int) -> Layers:
    """The shared blocks: attention over the stream beside the embedding, a feed-forward network, norms."""
    heads = f.size("num_attention_heads")
    kv_heads = f.size("num_key_value_heads", default=heads)
    check_groups(f, "num_key_value_heads", kv_heads, "num_attention_heads", heads)
    dim = f.divided(2 * h, heads, "twice the hidden size")
    # the output's matrix is half as high as the others are wide
    attention = grouped_queries(2 * h, Attention(blocks, heads, dim, dim), kv_heads)
    output = Layers({"attention_projections": -blocks * heads * dim * h})
    bias = f.flag("add_bias_linear", False)
    ffn = feed_forward(h, blocks, f.size("intermediate_size", default=4 * h), bias=bias)
    return attention + output + ffn + Layers(vectors=blocks * 3 * h)


def _own(f: Fields, h: int, layers: int) -> Layers:
    """What each use of a shared block has of its own: low-rank adapters, and the matrix behind it."""
    rank, ffn = f.size("adapter_rank"), f.size("intermediate_size", default=4 * h)
    adapters = {"dense_ffn": layers * rank * (h + 2 * ffn), "attention_projections": layers * h * h}
    if f.flag("use_shared_attention_adapter", False):
        adapters["attention_projections"] += layers * 3 * rank * 4 * h
    return Layers(adapters)


def _zamba2(f: Fields) -> Workload:
    h = f.size("hidden_size")
    kinds = count_kinds(f, "layers_block_type", None, _KINDS)
    if kinds is None:
        raise ConfigError(f"{f.source}: no layers_block_type")
    uses, layers = kinds["hybrid"], sum(kinds.values())
    blocks = min(uses, f.size("num_mem_blocks"))
    parts = present(
        (layers, lambda number: _mamba2(f, h, number)),
        (uses, lambda number: _transformer(f, h, number)),
        (uses, lambda number: _own(f, h, number)),
    )
    again = _transformer(f, h, uses - blocks) if uses else Layers()
    repeated = Layers(vectors=-again.vectors)
    return decoder(f, "zamba2", h, layers, [*parts, repeated], norms=1, shared=sum(again.matrices.values()))


FAMILIES = {
    "zamba2": Family(
        _zamba2,
        ("Zamba2ForCausalLM",),
        {
            "mamba_d_state": 64, "mamba_d_conv": 4, "mamba_expand": 2, "mamba_ngroups": 1, "n_mamba_heads": 8,
            "num_mem_blocks": 1, "adapter_rank": 128, "tie_word_embeddings": True,
        },
    ),
}  # fmt: skip
