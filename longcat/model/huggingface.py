"""Reading and writing models in the format of Hugging Face's `LongcatFlashForCausalLM`, and of Meituan's with n-grams.

Names differ where we stack: on disk every routed expert has its own gate, up and down matrix, and every n-gram branch
its own table and projection.
A folder written by `save_pretrained` also has gate and up rows for the zero-computation experts, which nothing uses; a
folder of Meituan's has routed experts only. Both are read.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from longcat.config import ModelConfig, NgramConfig
from longcat.errors import ConfigError, DataError
from longcat.model.transformer import LongcatModel

WEIGHTS, INDEX, CONFIG = "model.safetensors", "model.safetensors.index.json", "config.json"
BOS_TOKEN_ID, EOS_TOKEN_ID = 1, 2

_SAME = (
    "vocab_size", "hidden_size", "num_layers", "num_attention_heads", "q_lora_rank", "kv_lora_rank", "qk_nope_head_dim",
    "qk_rope_head_dim", "v_head_dim", "ffn_hidden_size", "expert_ffn_hidden_size", "n_routed_experts",
    "zero_expert_num", "moe_topk", "routed_scaling_factor", "rms_norm_eps", "max_position_embeddings",
    "attention_bias", "initializer_range",
)  # fmt: skip
_NGRAM = "model.ngram_embeddings"
_NGRAM_TABLES, _NGRAM_PROJECTION = f"{_NGRAM}.tables.weight", f"{_NGRAM}.projection.weight"
_NGRAM_FIELDS = {
    "ngram_vocab_size_ratio": "vocab_size_ratio",
    "emb_neighbor_num": "neighbor_num",
    "emb_split_num": "split_num",
}
_EXPERT = re.compile(r"(.*\.mlp\.experts)\.(\d+)\.(gate|up|down)_proj\.weight")


def config_to_huggingface(config: ModelConfig) -> dict[str, Any]:
    """`config.json` of the model, as transformers' `LongcatFlashConfig` reads it.

    Raises:
        ConfigError: the model has no MLA scales, which that class always applies.
    """
    if not (config.mla_scale_q_lora and config.mla_scale_kv_lora):
        raise ConfigError(
            "model.mla_scale_q_lora and mla_scale_kv_lora: the Hugging Face format always has both scales"
        )
    ngram = config.ngram
    fields = {} if ngram is None else {theirs: getattr(ngram, ours) for theirs, ours in _NGRAM_FIELDS.items()}
    return fields | {
        "architectures": ["LongcatFlashForCausalLM" if ngram is None else "LongcatFlashNgramForCausalLM"],
        "model_type": "longcat_flash" if ngram is None else "longcat_flash_ngram",
        **{name: getattr(config, name) for name in _SAME},
        "num_key_value_heads": config.num_attention_heads,
        "head_dim": config.qk_rope_head_dim,  # transformers takes the rotary dimension from here
        "rope_parameters": {"rope_type": "default", "rope_theta": config.rope_theta},
        "hidden_act": "silu",
        "tie_word_embeddings": False,
        "bos_token_id": BOS_TOKEN_ID,
        "eos_token_id": EOS_TOKEN_ID,
        "dtype": "float32",
    }


def config_from_huggingface(values: Mapping[str, Any]) -> ModelConfig:
    """The model of a `config.json`.

    Raises:
        ConfigError: a field is missing, or says something this model does not do.
    """
    # names of newer and older releases of transformers
    values = dict(values)
    for name, alias in {"num_layers": "num_hidden_layers", "moe_topk": "num_experts_per_tok"}.items():
        if name not in values and alias in values:
            values[name] = values[alias] // 2 if alias == "num_hidden_layers" else values[alias]
    rope = values.get("rope_parameters") or values.get("rope_scaling") or {}
    if rope.get("rope_type", rope.get("type", "default")) != "default":
        raise ConfigError(
            f"{CONFIG}: rope type {rope.get('rope_type', rope.get('type'))!r} is not supported, only 'default'"
        )
    if values.get("hidden_act", "silu") != "silu":
        raise ConfigError(f"{CONFIG}: hidden_act {values['hidden_act']!r} is not supported, only 'silu'")
    if values.get("zero_expert_type", "identity") != "identity":
        raise ConfigError(
            f"{CONFIG}: zero_expert_type {values['zero_expert_type']!r} is not supported, only 'identity'"
        )
    theta = rope.get("rope_theta", values.get("rope_theta", 10_000_000.0))
    fields = {name: values[name] for name in _SAME if values.get(name) is not None}
    missing = [name for name in _SAME if name not in fields and ModelConfig.model_fields[name].is_required()]
    if missing:
        raise ConfigError(f"{CONFIG}: missing {', '.join(missing)}")
    ngram = None
    if "ngram_vocab_size_ratio" in values:
        ngram = {ours: values[theirs] for theirs, ours in _NGRAM_FIELDS.items() if theirs in values}
        ngram["allow_near_multiple"] = True  # the model exists: it is not ours to refuse
    return ModelConfig(**fields, rope_theta=theta, ngram=None if ngram is None else NgramConfig(**ngram))


def to_huggingface(state: Mapping[str, Tensor], config: ModelConfig) -> dict[str, Tensor]:
    """Rename our state dict to the one on disk: one matrix an expert, one table and projection an n-gram branch."""
    named: dict[str, Tensor] = {}
    for name, value in state.items():
        if name.endswith(".experts.gate_up_proj"):
            prefix = name.removesuffix(".gate_up_proj")
            for expert, matrix in enumerate(value):
                gate, up = matrix.chunk(2, dim=0)
                named[f"{prefix}.{expert}.gate_proj.weight"] = gate.contiguous()
                named[f"{prefix}.{expert}.up_proj.weight"] = up.contiguous()
        elif name.endswith(".experts.down_proj"):
            prefix = name.removesuffix(".down_proj")
            for expert, matrix in enumerate(value):
                named[f"{prefix}.{expert}.down_proj.weight"] = matrix.contiguous()
        elif name == _NGRAM_TABLES and config.ngram is not None:
            for branch, table in enumerate(value.split(config.ngram.rows(config.vocabulary))):
                named[f"{_NGRAM}.embedders.{branch}.weight"] = table.contiguous()
        elif name == _NGRAM_PROJECTION and config.ngram is not None:
            for branch, matrix in enumerate(value.chunk(config.ngram.branches, dim=1)):
                named[f"{_NGRAM}.post_projs.{branch}.weight"] = matrix.contiguous()
        else:
            named[name] = value.contiguous()
    return named


def from_huggingface(state: Mapping[str, Tensor], config: ModelConfig) -> dict[str, Tensor]:
    """Rename a state dict in the format on disk, or in transformers' memory, to ours.

    Raises:
        DataError: an expert's matrix is missing.
    """
    named: dict[str, Tensor] = {}
    experts: dict[str, dict[tuple[int, str], Tensor]] = {}
    for name, value in state.items():
        match = _EXPERT.fullmatch(name)
        if match:
            experts.setdefault(match[1], {})[int(match[2]), match[3]] = value
        elif name.endswith(".experts.gate_up_proj"):
            named[name] = value[: config.n_routed_experts]
        elif name.startswith((f"{_NGRAM}.embedders", f"{_NGRAM}.post_projs", f"{_NGRAM}.word_embeddings")):
            continue  # stacked below; the word embedding is there a second time
        elif not name.endswith(".router.classifier.bias"):  # transformers has it on request, and does not use it
            named[name] = value
    for prefix, parts in experts.items():
        try:
            gates_ups = [torch.cat([parts[e, "gate"], parts[e, "up"]]) for e in range(config.n_routed_experts)]
            downs = [parts[e, "down"] for e in range(config.n_routed_experts)]
        except KeyError as error:
            expert, matrix = error.args[0]
            raise DataError(f"{prefix}.{expert}.{matrix}_proj.weight is missing") from None
        named[f"{prefix}.gate_up_proj"], named[f"{prefix}.down_proj"] = torch.stack(gates_ups), torch.stack(downs)
    if config.ngram is not None:
        for target, source, axis in ((_NGRAM_TABLES, "embedders", 0), (_NGRAM_PROJECTION, "post_projs", 1)):
            keys = [f"{_NGRAM}.{source}.{branch}.weight" for branch in range(config.ngram.branches)]
            if absent := [key for key in keys if key not in state]:
                raise DataError(f"{absent[0]} is missing")
            named[target] = torch.cat([state[key] for key in keys], dim=axis)
    if "lm_head.weight" not in named and "model.embed_tokens.weight" in named:  # tied embeddings
        named["lm_head.weight"] = named["model.embed_tokens.weight"]
    return named


def save_huggingface(state: Mapping[str, Tensor], config: ModelConfig, directory: Path) -> None:
    """Write `config.json` and `model.safetensors`, in fp32, from our (whole) state dict."""
    from safetensors.torch import save_file

    from longcat.artifact import write_json

    directory.mkdir(parents=True, exist_ok=True)
    save_file(to_huggingface(state, config), directory / WEIGHTS, metadata={"format": "pt"})
    write_json(directory / CONFIG, config_to_huggingface(config))


def load_huggingface(directory: Path | str, dtype: torch.dtype = torch.float32) -> LongcatModel:
    """Open a Hugging Face folder of a LongCat-Flash model, ready for inference on the CPU.

    `load_huggingface(directory)(tokens)` gives fp32 logits `[batch, seq, vocab]` for int64 tokens `[batch, seq]`.

    Raises:
        ConfigError: `config.json` is missing or describes another model.
        DataError: weights are missing, unreadable, or of another shape.
    """
    directory = Path(directory)
    try:
        values = json.loads((directory / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot read {directory / CONFIG}: {error}") from None
    config = config_from_huggingface(values)
    with torch.device("meta"):
        model = LongcatModel(config)
    state = {name: value.to(dtype) for name, value in from_huggingface(dict(_read(directory)), config).items()}
    for name, value in model.state_dict().items():
        if name not in state:
            raise DataError(f"{directory}: no weights for {name}")
        if state[name].shape != value.shape:
            raise DataError(f"{directory}: {name} has shape {list(state[name].shape)}, expected {list(value.shape)}")
    model.load_state_dict({name: state[name] for name in model.state_dict()}, assign=True)
    for layer in model.blocks:
        router = layer.mlp.router
        router.e_score_correction_bias = router.e_score_correction_bias.float()
    return model.eval()


def _read(directory: Path) -> Iterator[tuple[str, Tensor]]:
    from safetensors import SafetensorError, safe_open

    try:
        if (directory / INDEX).is_file():
            index = json.loads((directory / INDEX).read_text(encoding="utf-8"))
            files = sorted(set(index["weight_map"].values()))
        else:
            files = [WEIGHTS]
        for name in files:
            with safe_open(directory / name, framework="pt") as stream:
                for key in stream.keys():  # noqa: SIM118  (not a mapping)
                    yield key, stream.get_tensor(key)
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise DataError(f"cannot read the weights in {directory}: {error}") from None
