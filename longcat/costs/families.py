"""`config.json` of the usual families, as a workload: which matrices, how many weights, what a token meets.

Each reader below is the shape of one family in transformers; tests compare the parameter counts with its classes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from longcat.config.config_json import FAMILIES as LONGCAT_ARCHITECTURES
from longcat.config.config_json import architectures, read_json_object, read_longcat
from longcat.costs.fields import EXPERTS, Fields, complete
from longcat.costs.workload import Attention, Decoder, Workload, longcat_workload
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
        attentions=(Attention(layers, heads, dim, dim),),
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
        raise ConfigError(f"{f.source}: attn_config.attn_type {kind!r} is not known; multihead_attention is")
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
    f.divided(heads, kv_heads, "the heads of queries,")
    biases = (h + 2 * kv_heads * (h // heads) + h + ffn + h) * f.flag("bias", False)
    return _plain(
        f, family="falcon", hidden=h, layers=f.size("num_hidden_layers", "n_layer"), heads=heads, kv_heads=kv_heads,
        ffn=ffn, vectors=2 * h * norms + biases, other_vectors=2 * h, tied=f.flag("tie_word_embeddings", True),
    )  # fmt: skip


def _llama(
    f: Fields,
    family: str,
    *,
    qkv_bias: bool = False,
    output_bias: bool = False,
    ffn_bias: bool = False,
    head_norms: bool = False,
    windowed: bool = False,
) -> Workload:
    """The Llama kind: RMS norms, grouped queries, gated feed-forward network or a mixture of them."""
    h, layers, heads = f.size("hidden_size"), f.size("num_hidden_layers"), f.size("num_attention_heads")
    kv_heads = f.size("num_key_value_heads", default=heads)
    f.divided(heads, kv_heads, "the heads of queries,")
    dim = f.size("head_dim") if f.values.get("head_dim") is not None else f.divided(h, heads, "the hidden size")
    norms = 2 * h + 2 * dim * head_norms
    biases = dim * (heads + 2 * kv_heads) * qkv_bias + h * output_bias
    experts, sparse, ffn = _experts(f, h, layers)
    dense = layers - sparse
    if ffn_bias:
        biases += 2 * ffn + h
    return _gated(
        f,
        family,
        hidden=h,
        layers=layers,
        dense=(dense, ffn),
        mixture=(sparse, experts),
        attention_weights=2 * h * dim * (heads + kv_heads),
        attentions=_windows(f, family, layers, heads, dim) if windowed else (Attention(layers, heads, dim, dim),),
        norm_and_bias_parameters=layers * (norms + biases) + h,
    ).workload()


def _windows(f: Fields, family: str, layers: int, heads: int, dim: int) -> tuple[Attention, ...]:
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


class _Experts:
    """The mixture of one layer."""

    def __init__(self, *, router: int, expert: int, number: int, chosen: int, shared: int) -> None:
        self.router, self.expert, self.number, self.chosen, self.shared = router, expert, number, chosen, shared


def _experts(f: Fields, h: int, layers: int) -> tuple[_Experts | None, int, int]:
    """Mixture, layers that have it, width of the dense feed-forward network."""
    number = next((f.values[name] for name in EXPERTS if f.values.get(name)), None)
    ffn = f.size("intermediate_size", "moe_intermediate_size")
    if not number:
        return None, 0, ffn
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
    experts = _Experts(router=h * number, expert=3 * h * width, number=number, chosen=chosen, shared=shared)
    return experts, sparse, ffn


def _gated(
    f: Fields,
    family: str,
    *,
    hidden: int,
    layers: int,
    dense: tuple[int, int],
    mixture: tuple[int, _Experts | None],
    attention_weights: int,
    attentions: tuple[Attention, ...],
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
        attentions=attentions,
        embedding_parameters=vocabulary * hidden,
        norm_and_bias_parameters=norm_and_bias_parameters,
        tied=f.flag("tie_word_embeddings", False),
        inactive_expert_parameters=inactive,
        ffn_experts=0.0 if experts is None else experts.chosen,
        assumptions=assumptions,
    )


def _deepseek(f: Fields, family: str) -> Workload:
    """Latent attention, shared and routed experts (arXiv 2405.04434, section 2)."""
    h, layers, heads = f.size("hidden_size"), f.size("num_hidden_layers"), f.size("num_attention_heads")
    q_rank, kv_rank = f.count("q_lora_rank", 0), f.size("kv_lora_rank")
    rope, nope, value = f.size("qk_rope_head_dim"), f.size("qk_nope_head_dim"), f.size("v_head_dim")
    key = rope + nope
    queries = h * q_rank + q_rank * heads * key if q_rank else h * heads * key
    weights = queries + h * (kv_rank + rope) + kv_rank * heads * (nope + value) + heads * value * h
    biases = (q_rank + kv_rank + rope + h) * f.flag("attention_bias", False)
    experts, sparse, ffn = _experts(f, h, layers)
    depths = f.count("num_nextn_predict_layers", 0)
    vectors = layers * (2 * h + q_rank + kv_rank + biases) + h
    shape = _gated(
        f,
        family,
        hidden=h,
        layers=layers,
        dense=(layers - sparse, ffn),
        mixture=(sparse, experts),
        attention_weights=weights,
        attentions=(Attention(layers, heads, key, value),),
        norm_and_bias_parameters=vectors,
        assumptions=(f"num_nextn_predict_layers={depths} is not counted; --mtp does",) if depths and not f.mtp else (),
    )
    if not f.mtp:
        return shape.workload()
    if not depths or experts is None:
        raise ConfigError(f"{f.source}: no layers of multi-token prediction, but --mtp")
    # each depth joins the hidden state with the next token's embedding and has one layer; the head is the model's own
    # (DeepSeek-V3, arXiv 2412.19437, section 2.2)
    layer = weights + experts.router + experts.chosen * experts.expert + experts.shared
    head = h * shape.vocabulary
    return replace(
        shape,
        matrices={**shape.matrices, "mtp": depths * (2 * h * h + layer + head)},
        attentions=(Attention(layers + depths, heads, key, value),),
        norm_and_bias_parameters=vectors + depths * (2 * h + q_rank + kv_rank + biases + 3 * h),
        inactive_expert_parameters=shape.inactive_expert_parameters
        + depths * (experts.number - experts.chosen) * experts.expert,
        used_again=depths * head,
    ).workload()


def _longcat(values: Mapping[str, Any], source: str, ffn_experts: float | None) -> Workload:
    """Our own family, by the reader that `longcat import` uses too."""
    read = read_longcat(values, source)
    workload = longcat_workload(read.model, ffn_experts, read.family)
    notes = []
    if read.nextn_layers:
        notes.append(f"num_nextn_predict_layers={read.nextn_layers} is not counted; mtp_num_layers is")
    if read.tied:
        notes.append("tie_word_embeddings=true: the head is counted as weights of its own")
    return replace(workload, assumptions=(*workload.assumptions, *notes))


FAMILIES: dict[str, Callable[[Fields], Workload]] = {
    "gpt2": _gpt2,
    "gpt_neox": _gpt_neox,
    "opt": _opt,
    "bloom": _bloom,
    "mpt": _mpt,
    "falcon": _falcon,
    "llama": lambda f: _llama(
        f,
        "llama",
        qkv_bias=f.flag("attention_bias", False),
        output_bias=f.flag("attention_bias", False),
        ffn_bias=f.flag("mlp_bias", False),
    ),
    "mistral": lambda f: _llama(f, "mistral", windowed=True),
    "mixtral": lambda f: _llama(f, "mixtral", windowed=True),
    "qwen2": lambda f: _llama(f, "qwen2", qkv_bias=True, windowed=f.flag("use_sliding_window", False)),
    "qwen2_moe": lambda f: _llama(
        f, "qwen2_moe", qkv_bias=f.flag("qkv_bias", True), windowed=f.flag("use_sliding_window", False)
    ),
    "qwen3": lambda f: _qwen3(f, "qwen3"),
    "qwen3_moe": lambda f: _qwen3(f, "qwen3_moe"),
    "deepseek_v2": lambda f: _deepseek(f, "deepseek_v2"),
    "deepseek_v3": lambda f: _deepseek(f, "deepseek_v3"),
}
LONGCAT = tuple(LONGCAT_ARCHITECTURES.values())
ARCHITECTURES = LONGCAT_ARCHITECTURES | {
    "GPT2LMHeadModel": "gpt2",
    "GPTNeoXForCausalLM": "gpt_neox",
    "OPTForCausalLM": "opt",
    "BloomForCausalLM": "bloom",
    "BloomModel": "bloom",
    "MptForCausalLM": "mpt",
    "MPTForCausalLM": "mpt",
    "FalconForCausalLM": "falcon",
    "LlamaForCausalLM": "llama",
    "LLaMAForCausalLM": "llama",
    "MistralForCausalLM": "mistral",
    "MixtralForCausalLM": "mixtral",
    "Qwen2ForCausalLM": "qwen2",
    "Qwen2MoeForCausalLM": "qwen2_moe",
    "Qwen3ForCausalLM": "qwen3",
    "Qwen3MoeForCausalLM": "qwen3_moe",
    "DeepseekV2ForCausalLM": "deepseek_v2",
    "DeepseekV3ForCausalLM": "deepseek_v3",
}
"""Family of each architecture, for files whose model type is missing or another name for the same."""


def _qwen3(f: Fields, family: str) -> Workload:
    bias, windowed = f.flag("attention_bias", False), f.flag("use_sliding_window", False)
    return _llama(f, family, qkv_bias=bias, output_bias=bias, head_norms=True, windowed=windowed)


def from_config(
    values: Mapping[str, Any], source: str = "config.json", ffn_experts: float | None = None, *, mtp: bool = False
) -> Workload:
    """The workload of a config.json.

    Args:
        values: its fields.
        source: what to call it in errors.
        ffn_experts: mean routed experts of a token, as measured; only LongCat's zero-computation experts vary it.
        mtp: whether DeepSeek's layers of multi-token prediction are trained, too; LongCat's own count always.

    Raises:
        ConfigError: an unknown family, or a field that is missing or senseless.
    """
    family, text = _family(values), values.get("text_config")
    if isinstance(text, Mapping) and "hidden_size" not in values:  # of a model that sees or hears, too
        outer = {name: values[name] for name in ("model_type", "tie_word_embeddings") if name in values}
        inner = from_config(outer | dict(text), f"{source}: text_config", ffn_experts, mtp=mtp)
        whole = values.get("model_type") or values.get("architectures")
        return replace(inner, assumptions=(*inner.assumptions, f"of {whole} only the text model is counted"))
    if family is None:
        known = ", ".join([*FAMILIES, *LONGCAT])
        raise ConfigError(
            f"{source}: model_type {values.get('model_type')!r} is not known"
            + (f", nor is architecture {values['architectures']}" if values.get("architectures") else "")
            + f"; there are: {known}"
        )
    if mtp and family not in ("deepseek_v2", "deepseek_v3"):
        raise ConfigError(f"{source}: {family} has no layers of multi-token prediction that --mtp could count")
    if family in LONGCAT:
        return _longcat(values, source, ffn_experts)
    if ffn_experts is not None:
        raise ConfigError(f"{source}: {family} has no zero-computation experts; --ffn-experts is for LongCat")
    return FAMILIES[family](Fields(complete(family, values), source, mtp))


def _family(values: Mapping[str, Any]) -> str | None:
    """The family by model type, or by the architecture where that says nothing; none where neither is known."""
    family = values.get("model_type")
    if isinstance(family, str) and family in (*FAMILIES, *LONGCAT):
        return family
    return next((ARCHITECTURES[name] for name in architectures(values) if name in ARCHITECTURES), None)


def read_workload(path: Path, ffn_experts: float | None = None, *, mtp: bool = False) -> Workload:
    """The workload of a config.json, or of the one in a folder.

    Raises:
        ConfigError: it cannot be read or used.
    """
    path = path / "config.json" if path.is_dir() else path
    return from_config(read_json_object(path), str(path), ffn_experts, mtp=mtp)
