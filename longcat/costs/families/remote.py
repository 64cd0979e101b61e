"""Dense families whose code comes with the checkpoint, under names of their own: shapes of the published modules."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from longcat.costs.attention import Attention
from longcat.costs.decoder import Decoder
from longcat.costs.families.dense import Heads, dense, read_heads
from longcat.costs.families.fields import Family, Fields, shown
from longcat.costs.workload import Workload
from longcat.errors import ConfigError


def _chatglm(f: Fields) -> Workload:
    """ChatGLM 2 and 3 and GLM-4-9B; the first ChatGLM, which is of another kind, by its own field."""
    if f.values.get("inner_hidden_size") is not None:
        heads = read_heads(f, grouped=False, own_dim=False)
        return dense(
            f, "chatglm", heads, ffn=f.size("inner_hidden_size"), gated=False, norm_vectors=2, qkv_bias=True,
            output_bias=True, up_bias=True, down_bias=True, tied=True,
        )  # fmt: skip
    queries, bias = f.size("num_attention_heads"), f.flag("add_bias_linear", False)
    keys = f.size("multi_query_group_num") if f.flag("multi_query_attention", False) else queries
    f.divided(queries, keys, "the heads of queries,", "num_key_value_heads")
    heads = Heads(f.size("hidden_size"), f.size("num_hidden_layers"), queries, keys, f.size("head_dim"))
    if not f.flag("post_layer_norm", True):
        raise ConfigError(f"{f.source}: post_layer_norm false is not known, only true")
    return dense(
        f, "chatglm", heads, norm_vectors=1 if f.flag("rmsnorm", True) else 2,
        qkv_bias=bias or f.flag("add_qkv_bias", False), output_bias=bias, up_bias=bias, down_bias=bias, head_bias=bias,
    )  # fmt: skip


def _internlm(f: Fields, family: str) -> Workload:
    bias = f.flag("bias", True)
    return dense(f, family, qkv_bias=bias, output_bias=bias)


def _qwen(f: Fields) -> Workload:
    """The first Qwen: its intermediate size is that of both matrices before the activation together."""
    heads, bias = read_heads(f, grouped=False), not f.flag("no_bias", True)
    ffn = f.divided(f.size("intermediate_size"), 2, "the intermediate size", "intermediate_size")
    return dense(f, "qwen", heads, ffn=ffn, qkv_bias=True, output_bias=bias, up_bias=bias, down_bias=bias)


def _minicpm(f: Fields) -> Workload:
    bias = f.flag("attention_bias", False)
    found = dense(f, "minicpm", qkv_bias=bias, output_bias=bias, tied=True)
    if not f.inner("sparse_config"):
        return found
    return replace(found, assumptions=("sparse_config is not counted: queries read all keys, as in short sequences",))


def _telechat(f: Fields, family: str) -> Workload:
    return dense(f, family, read_heads(f, own_dim=False), output_bias=True, down_bias=True)


def _block(f: Fields, at: int, block: Mapping[str, Any], part: str) -> Fields:
    where = f"{f.source}: block_configs: {at}"
    found = Fields(Fields(block, where).inner(part), f"{where}: {part}")
    if other := next((name for name in ("mamba", "moe", "llama4") if found.values.get(name)), None):
        raise ConfigError(f"{found.source}: {other} is not known in these layers")
    return found


def _nemotron_nas(f: Fields) -> Workload:
    """Layers that a search has thinned out, each in its own way (arXiv 2411.19146)."""
    h, layers, heads = f.size("hidden_size"), f.depth("num_hidden_layers"), f.size("num_attention_heads")
    dim, vocabulary = f.divided(h, heads, "the hidden size"), f.size("vocab_size")
    attention_bias, ffn_bias = f.flag("attention_bias", False), f.flag("mlp_bias", False)
    blocks = f.each("block_configs", dict, layers)
    if blocks is None:
        raise ConfigError(f"{f.source}: no block_configs")
    attention, linear, ffn_weights, vectors = 0, 0, 0, h
    shapes: Counter[int | None] = Counter()
    for at, block in enumerate(blocks):
        mixing, ffn = _block(f, at, block, "attention"), _block(f, at, block, "ffn")
        for one in (mixing, ffn):
            if not one.flag("no_op", False):
                vectors += h
                linear += h * h * one.flag("replace_with_linear", False)
        if not (mixing.flag("no_op", False) or mixing.flag("replace_with_linear", False)):
            group = mixing.size("n_heads_in_group")
            keys = mixing.divided(heads, group, "the heads of queries,", "n_heads_in_group")
            attention += 2 * h * dim * (heads + keys)
            vectors += attention_bias * (dim * (heads + 2 * keys) + h)
            window = None if mixing.find("window_length")[1] is None else mixing.size("window_length")
            shapes[window] += 1
        if not (ffn.flag("no_op", False) or ffn.flag("replace_with_linear", False)):
            size = _ffn_size(ffn, h)
            ffn_weights += 3 * h * size
            vectors += ffn_bias * (2 * size + h)
    parts = {"attention_projections": attention, "dense_ffn": ffn_weights, "linear_layers": linear}
    return Decoder(
        family="nemotron-nas",
        layers=layers,
        hidden_size=h,
        vocabulary=vocabulary,
        matrices={name: float(size) for name, size in parts.items() if size} | {"lm_head": h * vocabulary},
        mixers=tuple(Attention(count, heads, dim, dim, window) for window, count in shapes.items()),
        embedding_parameters=vocabulary * h,
        norm_and_bias_parameters=vectors,
        tied=f.flag("tie_word_embeddings", False),
    ).workload()


def _ffn_size(f: Fields, hidden: int) -> int:
    """Return the width of a feed-forward network that is given as a multiple, in steps of 256."""
    if f.find("intermediate_size")[1] is not None:
        return f.size("intermediate_size")
    multiple = f.values.get("ffn_mult")
    if isinstance(multiple, bool) or not isinstance(multiple, int | float) or not 0 < multiple < 1000:
        raise ConfigError(f"{f.source}: ffn_mult must be a number above 0 and below 1000, found {shown(multiple)}")
    return -(-int(2 * multiple * hidden / 3) // 256) * 256


_TELECHAT = {
    "num_hidden_layers": "n_layer", "num_attention_heads": "n_head", "intermediate_size": "ffn_hidden_size",
}  # fmt: skip
FAMILIES = {
    "chatglm": Family(
        _chatglm,
        ("ChatGLMModel", "ChatGLMForConditionalGeneration"),
        {"kv_channels": 128},
        {
            "num_hidden_layers": "num_layers", "vocab_size": "padded_vocab_size", "intermediate_size": "ffn_hidden_size",
            "head_dim": "kv_channels",
        },
    ),
    "exaone": Family(
        lambda f: dense(f, "exaone"), ("ExaoneForCausalLM",), {}, {"num_hidden_layers": "num_layers"}
    ),
    "internlm": Family(lambda f: _internlm(f, "internlm"), ("InternLMForCausalLM",)),
    "internlm2": Family(lambda f: _internlm(f, "internlm2"), ("InternLM2ForCausalLM",)),
    "baichuan": Family(lambda f: dense(f, "baichuan"), ("BaichuanForCausalLM", "BaiChuanForCausalLM")),
    "aquila": Family(lambda f: dense(f, "aquila"), ("AquilaForCausalLM", "AquilaModel")),
    "Yi": Family(lambda f: dense(f, "Yi"), ("YiForCausalLM",)),
    "qwen": Family(_qwen, ("QWenLMHeadModel",), {"kv_channels": 128}, {"head_dim": "kv_channels"}),
    "minicpm": Family(_minicpm, ("MiniCPMForCausalLM",)),
    "telechat": Family(lambda f: _telechat(f, "telechat"), ("TelechatForCausalLM",), {}, _TELECHAT),
    "telechat2": Family(lambda f: _telechat(f, "telechat2"), ("TeleChat2ForCausalLM", "TeleChatForCausalLM"), {}, _TELECHAT),
    "telechat3": Family(lambda f: dense(f, "telechat3"), ("TeleChat3ForCausalLM",)),
    "orion": Family(lambda f: dense(f, "orion", norm_vectors=2), ("OrionForCausalLM",)),
    "PanguEmbedded": Family(lambda f: _internlm(f, "PanguEmbedded"), ("PanguEmbeddedForCausalLM",)),
    "nemotron-nas": Family(_nemotron_nas, ("DeciLMForCausalLM",)),
}  # fmt: skip
