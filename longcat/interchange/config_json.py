"""`config.json` of a Hugging Face folder: LongCat-Flash as transformers has it, Flash-Lite and 2.0 as Meituan has them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from longcat.config import ModelConfig, NgramConfig, RopeScalingConfig, SparseAttentionConfig
from longcat.errors import ConfigError
from longcat.model.scaling import routed_scale

CONFIG = "config.json"
BOS_TOKEN_ID, EOS_TOKEN_ID = 1, 2

_SAME = (
    "vocab_size", "hidden_size", "num_layers", "num_attention_heads", "q_lora_rank", "kv_lora_rank", "qk_nope_head_dim",
    "qk_rope_head_dim", "v_head_dim", "ffn_hidden_size", "expert_ffn_hidden_size", "n_routed_experts",
    "zero_expert_num", "moe_topk", "routed_scaling_factor", "rms_norm_eps", "max_position_embeddings",
    "attention_bias", "initializer_range",
)  # fmt: skip
_OURS_TO_NEWER = {"num_layers": "num_hidden_layers", "moe_topk": "num_experts_per_tok"}
_LITE_NGRAM = {
    "vocab_size_ratio": "ngram_vocab_size_ratio",
    "neighbor_num": "emb_neighbor_num",
    "split_num": "emb_split_num",
}
_V2_NGRAM = {
    "vocab_size_ratio": "oe_vocab_size_ratio",
    "neighbor_num": "oe_neighbor_num",
    "split_num": "oe_split_num",
}
_INDEX = ("index_n_heads", "index_head_dim", "index_topk", "index_init_tokens", "index_local_tokens")
_YARN = tuple(RopeScalingConfig.model_fields)


def is_v2(config: ModelConfig) -> bool:
    """Whether a model is written under LongCat-2.0's names: it has sparse attention or multi-token prediction."""
    return config.sparse_attention is not None or config.mtp_num_layers > 0


def to_config_json(config: ModelConfig, dtype: str = "float32") -> dict[str, Any]:
    """`config.json` of a model whose weights are stored as `dtype`.

    Raises:
        ConfigError: the model has no MLA scales, which transformers' class always applies.
    """
    if not (config.mla_scale_q_lora and config.mla_scale_kv_lora):
        raise ConfigError(
            "model.mla_scale_q_lora and mla_scale_kv_lora: the Hugging Face format always has both scales"
        )
    rope: dict[str, Any] = {"rope_type": "default", "rope_theta": config.rope_theta}
    if config.rope_scaling is not None:
        rope |= {"rope_type": "yarn", **config.rope_scaling.model_dump()}
    architecture, model_type = "LongcatFlashForCausalLM", "longcat_flash"
    extra: dict[str, Any] = {}
    if config.ngram is not None:
        architecture, model_type = "LongcatFlashNgramForCausalLM", "longcat_flash_ngram"
        names = _V2_NGRAM if is_v2(config) else _LITE_NGRAM
        extra |= {theirs: getattr(config.ngram, ours) for ours, theirs in names.items()}
    if is_v2(config):
        architecture, model_type = "LongcatCausalLM", "longcat2"
        extra |= {"mtp_num_layers": config.mtp_num_layers, "mtp_replicate_modules": config.mtp_num_layers > 0}
    if config.sparse_attention is not None:
        extra |= {name: getattr(config.sparse_attention, name) for name in _INDEX}
        extra |= {"cli_factor": 2, "index_k_norm_type": "rms", "indexer_rope_interleave": True}
    return {
        "architectures": [architecture],
        "model_type": model_type,
        **{name: getattr(config, name) for name in _SAME},
        "routed_scaling_factor": routed_scale(config),
        "num_key_value_heads": config.num_attention_heads,
        "head_dim": config.qk_rope_head_dim,  # transformers takes the rotary dimension from here
        "rope_parameters": rope,
        "hidden_act": "silu",
        "tie_word_embeddings": False,
        "bos_token_id": BOS_TOKEN_ID,
        "eos_token_id": EOS_TOKEN_ID if config.eos_token_id is None else config.eos_token_id,
        "dtype": dtype,
        **extra,
    }


def from_config_json(values: Mapping[str, Any]) -> ModelConfig:
    """The model of a `config.json`.

    Raises:
        ConfigError: a field is missing, or says something this model does not do.
    """
    values = dict(values)
    for ours, newer in _OURS_TO_NEWER.items():
        if ours not in values and newer in values:
            values[ours] = values[newer] // 2 if newer == "num_hidden_layers" else values[newer]
    only = {
        "hidden_act": "silu",
        "zero_expert_type": "identity",
        "cli_factor": 2,
        "index_k_norm_type": "rms",
        "indexer_rope_interleave": True,
    }
    for name, supported in only.items():
        if values.get(name, supported) != supported:
            raise ConfigError(f"{CONFIG}: {name} {values[name]!r} is not supported, only {supported!r}")
    rope = values.get("rope_parameters") or values.get("rope_scaling") or {}
    fields: dict[str, Any] = {name: values[name] for name in _SAME if values.get(name) is not None}
    if missing := [name for name in _SAME if name not in fields and ModelConfig.model_fields[name].is_required()]:
        raise ConfigError(f"{CONFIG}: missing {', '.join(missing)}")
    fields["rope_theta"] = rope.get("rope_theta", values.get("rope_theta", 10_000_000.0))
    fields["routed_scaling_factor"] = fields.get("routed_scaling_factor", 1.0)
    fields["eos_token_id"] = values.get("eos_token_id", EOS_TOKEN_ID)
    fields["mtp_num_layers"] = values.get("mtp_num_layers") or 0
    try:
        fields["rope_scaling"] = _yarn(rope, values)
        for names in (_LITE_NGRAM, _V2_NGRAM):
            if names["vocab_size_ratio"] in values:
                ngram = {ours: values[theirs] for ours, theirs in names.items() if theirs in values}
                fields["ngram"] = NgramConfig(**ngram, allow_near_multiple=True)  # it exists: not ours to refuse
        if values.get("index_topk"):
            fields["sparse_attention"] = SparseAttentionConfig(
                **{name: values[name] for name in _INDEX if name in values}
            )
        return ModelConfig(**fields)
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(map(str, problem["loc"]))
        reason = problem["msg"].removeprefix("Value error, ")
        raise ConfigError(f"{CONFIG}: {where + ': ' if where else ''}{reason}") from None


def _yarn(rope: Mapping[str, Any], values: Mapping[str, Any]) -> RopeScalingConfig | None:
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind == "default":
        return None
    if kind not in ("yarn", "deepseek_yarn"):
        raise ConfigError(f"{CONFIG}: rope type {kind!r} is not supported, only 'default' and 'yarn'")
    if "factor" not in rope:
        raise ConfigError(f"{CONFIG}: rope type {kind!r} without factor")
    fields = {name: rope[name] for name in _YARN if rope.get(name) is not None}
    fields.setdefault("original_max_position_embeddings", values.get("max_position_embeddings"))
    return RopeScalingConfig(**fields)


def read_config(directory: Path) -> tuple[ModelConfig, str]:
    """Model and type of the stored weights of a folder.

    Raises:
        ConfigError: `config.json` is missing, broken or of another model.
    """
    try:
        values = json.loads((directory / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot read {directory / CONFIG}: {error}") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{directory / CONFIG}: expected an object, found {type(values).__name__}")
    return from_config_json(values), str(values.get("dtype") or values.get("torch_dtype") or "float32")
