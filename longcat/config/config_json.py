"""`config.json` of a LongCat model: the one place that reads and writes it, without torch.

LongCat-Flash as transformers has it, Flash-Lite and 2.0 as Meituan has them. What the file says is honoured, or refused
with the reason; a key that is left out means what it means to transformers' `LongcatFlashConfig` (5.23).
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from longcat.config.config_json_keys import HARMLESS, SUPPORTED
from longcat.config.model import BOS_TOKEN_ID, EOS_TOKEN_ID, ModelConfig, RopeScalingConfig, SparseAttentionConfig
from longcat.errors import ConfigError
from longcat.unpacking import read_bounded

CONFIG = "config.json"

FAMILIES = {
    "LongcatFlashForCausalLM": "longcat_flash",
    "LongcatFlashNgramForCausalLM": "longcat_flash_ngram",
    "LongcatCausalLM": "longcat2",
}
"""Model type of each architecture; Meituan's own files often name the architecture only."""

_SIZES = ("vocab_size", "hidden_size", "num_layers", "num_attention_heads")
"""Keys that have to be there: a file without them is of something else."""
_DEFAULTS: dict[str, Any] = {
    "q_lora_rank": 1536, "kv_lora_rank": 512, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128,
    "ffn_hidden_size": 12288, "expert_ffn_hidden_size": 2048, "n_routed_experts": 512, "zero_expert_num": 256,
    "moe_topk": 12, "routed_scaling_factor": 6.0, "rms_norm_eps": 1e-5, "max_position_embeddings": 131072,
    "attention_bias": False, "initializer_range": 0.02, "mla_scale_q_lora": True, "mla_scale_kv_lora": True,
}  # fmt: skip
"""Values of transformers' `LongcatFlashConfig` for keys that are left out."""
_NEVER_NULL = (
    "q_lora_rank", "kv_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim", "ffn_hidden_size",
    "expert_ffn_hidden_size", "n_routed_experts", "moe_topk", "routed_scaling_factor", "rms_norm_eps",
)  # fmt: skip
"""Keys for which null would mean another model (no compressed query, for example), and not the default."""
_THETA = 10_000_000.0
_ALIASES = {
    "moe_topk": ("num_experts_per_tok",),
    "n_routed_experts": ("num_local_experts", "num_experts"),
    "ffn_hidden_size": ("intermediate_size",),
    "expert_ffn_hidden_size": ("moe_intermediate_size",),
}
"""Other names of keys, from the attribute map of `LongcatFlashConfig`."""
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
_INDEX = tuple(SparseAttentionConfig.model_fields)
_PUBLISHED_INDEX = ("index_n_heads", "index_head_dim", "index_topk", "index_init_tokens", "index_local_tokens")
_YARN = tuple(RopeScalingConfig.model_fields)
_QUANTISED = ("quantization_config", "compression_config", "quantization")
_ROPE_KEYS = {"rope_type", "type", "rope_theta", "partial_rotary_factor", *_YARN}


@dataclass(frozen=True)
class LongcatJson:
    """What a config.json says."""

    model: ModelConfig
    family: str
    """Model type: one of `FAMILIES`."""
    dtype: str
    """Type of the stored weights, as the file has it."""
    tied: bool
    """Whether the head is the word embedding."""
    nextn_layers: int | None
    """`num_nextn_predict_layers`, where the file has no `mtp_num_layers`: the folder's tensors decide."""
    quantization: Mapping[str, Any] | None
    """`quantization_config`."""
    notes: tuple[str, ...] = ()
    """What is left out of account, a sentence each."""


def read_json_object(path: Path) -> dict[str, Any]:
    """Read a file that holds a JSON object.

    Raises:
        ConfigError: it cannot be read, or holds something else.
    """
    try:
        values = json.loads(read_bounded(path).decode("utf-8-sig"))
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path} is no JSON: {error}") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: expected an object, found {type(values).__name__}")
    return values


def read_config(directory: Path) -> LongcatJson:
    """Read the `config.json` of a folder.

    Raises:
        ConfigError: it is missing, broken, of another model, or says something this model does not do.
    """
    return read_longcat(read_json_object(directory / CONFIG), str(directory / CONFIG))


def from_config_json(values: Mapping[str, Any], source: str = CONFIG) -> ModelConfig:
    """Return the model of a `config.json`, see `read_longcat`."""
    return read_longcat(values, source).model


def read_longcat(values: Mapping[str, Any], source: str = CONFIG) -> LongcatJson:
    """Read a LongCat model's `config.json`.

    Args:
        values: its keys.
        source: what to call it in errors.

    Raises:
        ConfigError: a key is missing, unknown, or says something this model does not do.
    """
    present = {name: value for name, value in values.items() if value is not None}
    return _Reader(present, values.keys() - present.keys(), source).read()


def to_config_json(config: ModelConfig, dtype: str = "float32") -> dict[str, Any]:
    """Return the `config.json` of a model whose weights are stored as `dtype`.

    Raises:
        ConfigError: the vocabulary or the end of text has not been settled.
    """
    rope: dict[str, Any] = {"rope_type": "default", "rope_theta": config.rope_theta}
    if config.rope_scaling is not None:
        rope |= {"rope_type": "yarn", **config.rope_scaling.model_dump(exclude_none=True)}
    architecture = "LongcatFlashForCausalLM"
    extra: dict[str, Any] = {}
    if config.ngram is not None:
        architecture = "LongcatFlashNgramForCausalLM"
        names = _V2_NGRAM if is_v2(config) else _LITE_NGRAM
        extra |= {theirs: getattr(config.ngram, ours) for ours, theirs in names.items()}
    if config.mtp_num_layers:
        extra |= {"mtp_num_layers": config.mtp_num_layers, "mtp_replicate_modules": True}
        if config.ngram is not None:
            extra["mtp_disable_over_tokenizer"] = True
    if config.sparse_attention is not None:
        architecture = "LongcatCausalLM"
        index = config.sparse_attention.model_dump()
        defaults = {name: field.default for name, field in SparseAttentionConfig.model_fields.items()}
        extra |= {name: value for name, value in index.items() if name in _PUBLISHED_INDEX or value != defaults[name]}
        extra |= {"cli_factor": 2, "index_k_norm_type": "rms", "indexer_rope_interleave": True}
    if config.zero_expert_num:
        extra["zero_expert_type"] = "identity"
    return {
        "architectures": [architecture],
        "model_type": FAMILIES[architecture],
        **{name: getattr(config, name) for name in (*_SIZES, *_DEFAULTS)},
        "vocab_size": config.vocabulary,
        "routed_scaling_factor": config.routed_scale,
        "num_key_value_heads": config.num_attention_heads,
        "head_dim": config.qk_rope_head_dim,  # transformers takes the rotary dimension from here
        "rope_parameters": rope,
        "hidden_act": "silu",
        "tie_word_embeddings": False,
        "bos_token_id": config.begin_of_text,
        "eos_token_id": config.end_of_text,
        "dtype": dtype,
        **extra,
    }


def is_v2(config: ModelConfig) -> bool:
    """Whether a model is written under LongCat-2.0's names: it has sparse attention."""
    return config.sparse_attention is not None


def architectures(values: Mapping[str, Any]) -> list[str]:
    """Return the architectures that a config.json names."""
    names = values.get("architectures")
    names = names if isinstance(names, list) else [names]
    return [name for name in names if isinstance(name, str)]


class _Reader:
    """One config.json on its way to a model: its keys that are not null, and the names of those that are."""

    def __init__(self, values: dict[str, Any], nulls: Set[str], source: str) -> None:
        self.values, self.nulls, self.source = values, nulls, source
        self.notes: list[str] = []

    def read(self) -> LongcatJson:
        family = self._family()
        fields: dict[str, Any] = {"num_layers": self._layers()}
        fields |= {
            name: self._one_of(name, _ALIASES.get(name, ())) for name in (*_SIZES, *_DEFAULTS) if name != "num_layers"
        }
        if missing := [name for name in _SIZES if fields[name] is None]:
            raise self._error(f"missing {', '.join(missing)}")
        if null := [name for name in _NEVER_NULL if fields[name] is None and name in self.nulls]:
            raise self._error(f"{null[0]} is null, and has to be a number")
        if "zero_expert_num" in self.nulls:  # none, as transformers' model reads it
            fields["zero_expert_num"] = 0
        fields = {name: _DEFAULTS.get(name) if value is None else value for name, value in fields.items()}
        self._refuse_unsupported()
        fields["rope_theta"], fields["rope_scaling"] = self._rope(fields["max_position_embeddings"])
        fields["ngram"] = self._ngram(family)
        fields["sparse_attention"] = self._sparse_attention()
        fields["mtp_num_layers"] = self._mtp(fields["ngram"] is not None)
        fields["eos_token_id"] = self._token("eos_token_id", EOS_TOKEN_ID)
        fields["bos_token_id"] = self._token("bos_token_id", BOS_TOKEN_ID)
        tied = self._flag("tie_word_embeddings", False)
        model = self._validated(fields)
        self._check_sizes(model)
        return LongcatJson(
            model=model,
            family=family,
            dtype=self._dtype(),
            tied=tied,
            nextn_layers=None if "mtp_num_layers" in self.values else self._whole("num_nextn_predict_layers"),
            quantization=next(filter(None, map(self._object, _QUANTISED)), None),
            notes=tuple(self.notes),
        )

    def _error(self, message: str) -> ConfigError:
        return ConfigError(f"{self.source}: {message}")

    def _family(self) -> str:
        """The model type, by its own key or by the architecture; neither is needed."""
        named, family = architectures(self.values), self.values.get("model_type")
        for name in named:
            base = name.removesuffix("Model") + "ForCausalLM" if name.endswith("Model") else name
            if base not in FAMILIES:
                raise self._error(f"architecture {name} is not supported; there are: {', '.join(FAMILIES)}")
        if family is None:
            family = FAMILIES.get(named[0], "longcat_flash") if named else "longcat_flash"
        if family not in FAMILIES.values():
            raise self._error(
                f"model_type {family!r} is not a LongCat model; there are: {', '.join(FAMILIES.values())}"
            )
        return str(family)

    def _layers(self) -> int | None:
        """Layers of two attentions each; `num_hidden_layers` counts the attentions (older files: the layers)."""
        layers, attentions = self._whole("num_layers"), self._whole("num_hidden_layers")
        if attentions is None:
            return layers
        if layers is None:
            if attentions % 2:
                raise self._error(
                    f"num_hidden_layers {attentions} is not even: it counts two attentions in every layer"
                )
            return attentions // 2
        if attentions not in (layers, 2 * layers):
            raise self._error(f"num_hidden_layers {attentions} is not twice num_layers {layers}")
        return layers

    def _one_of(self, name: str, aliases: Sequence[str]) -> Any:
        """The value of a key under any of its names, which have to agree."""
        found = {one: self.values[one] for one in (name, *aliases) if one in self.values}
        values = list(found.values())
        if any(value != values[0] for value in values[1:]):
            raise self._error(
                " and ".join(f"{one} {value!r}" for one, value in found.items()) + " contradict one another"
            )
        return values[0] if values else None

    def _refuse_unsupported(self) -> None:
        """Refuse values that make another model, and keys of which nothing is known."""
        for name, supported in SUPPORTED.items():
            if name in self.values and self.values[name] not in supported:
                raise self._error(f"{name} {self.values[name]!r} is not supported, only {supported[0]!r}")
        known = {
            *_SIZES, *_DEFAULTS, *SUPPORTED, *HARMLESS, *_INDEX, *_LITE_NGRAM.values(), *_V2_NGRAM.values(),
            *(alias for aliases in _ALIASES.values() for alias in aliases), "num_hidden_layers", "num_key_value_heads",
            "head_dim", "qk_head_dim", "text_vocab_size", "layer_types", "rope_parameters", "rope_scaling", "rope_theta",
            "original_max_position_embeddings",
        }  # fmt: skip
        if unknown := sorted(name for name in self.values if name not in known and not name.startswith("_")):
            raise self._error(
                f"unknown key {unknown[0]} ({self.values[unknown[0]]!r})"
                + (f" and {len(unknown) - 1} more: {', '.join(unknown[1:])}" if unknown[1:] else "")
                + "; it may change the model, and nothing here does what it says"
            )

    def _check_sizes(self, model: ModelConfig) -> None:
        """Refuse sizes that follow from others, and do not."""
        rope, whole = model.qk_rope_head_dim, model.qk_nope_head_dim + model.qk_rope_head_dim
        follows = {
            "num_key_value_heads": (model.num_attention_heads,),
            "qk_head_dim": (whole,),
            "head_dim": (rope, whole),
            "text_vocab_size": (model.vocab_size,),
        }
        for name, expected in follows.items():
            if name in self.values and self.values[name] not in expected:
                raise self._error(
                    f"{name} {self.values[name]!r} does not fit the other sizes, it would be {expected[0]}"
                )
        kinds = self.values.get("layer_types", [])
        if not isinstance(kinds, list) or any(kind != "full_attention" for kind in kinds):
            raise self._error(f"layer_types {kinds!r} is not supported, only full_attention in every layer")

    def _rope(self, longest: int) -> tuple[Any, dict[str, Any] | None]:
        """Base of the rotary frequencies and YaRN, as transformers' `convert_rope_params_to_dict` finds them."""
        written = self._object("rope_scaling") or self._object("rope_parameters")
        rope = {name: value for name, value in written.items() if value is not None}
        if unknown := sorted(rope.keys() - _ROPE_KEYS):
            raise self._error(f"unknown key {unknown[0]} ({rope[unknown[0]]!r}) of the rotary embedding")
        if rope.get("partial_rotary_factor", 1) != 1:
            raise self._error("partial_rotary_factor of the rotary embedding is not supported, only 1")
        theta = rope.get("rope_theta", self.values.get("rope_theta", _THETA))
        kind = rope.get("rope_type", rope.get("type", "default"))
        if kind == "default":
            return theta, None
        if kind not in ("yarn", "deepseek_yarn"):
            raise self._error(f"rope type {kind!r} is not supported, only 'default' and 'yarn'")
        original = self.values.get(
            "original_max_position_embeddings", rope.get("original_max_position_embeddings", longest)
        )
        if "factor" not in written:
            raise self._error(f"rope type {kind!r} without factor")
        if "factor" not in rope:  # null: the ratio of the lengths
            numbers = all(isinstance(length, int) and length > 0 for length in (longest, original))
            rope["factor"] = longest / original if numbers else 1
        if "truncate" in written:  # null is false to transformers
            rope["truncate"] = bool(written["truncate"])
        yarn = {name: rope[name] for name in _YARN if name in rope} | {"original_max_position_embeddings": original}
        for name in ("beta_fast", "beta_slow"):  # 0 is as good as left out to transformers
            if not yarn.get(name):
                yarn.pop(name, None)
        if kind == "deepseek_yarn" and "attention_factor" not in yarn:
            yarn |= _deepseek(yarn)
        return theta, yarn

    def _ngram(self, family: str) -> dict[str, Any] | None:
        """N-gram embedding under Flash-Lite's names or 2.0's."""
        found = {ours: self._one_of(lite, (_V2_NGRAM[ours],)) for ours, lite in _LITE_NGRAM.items()}
        if all(value is None for value in found.values()):
            if family == "longcat_flash_ngram":
                raise self._error(f"missing {', '.join(_LITE_NGRAM.values())} of the n-gram embedding")
            return None
        if missing := [f"{_LITE_NGRAM[ours]} ({_V2_NGRAM[ours]})" for ours, value in found.items() if value is None]:
            raise self._error(f"n-gram embedding without {' and '.join(missing)}")
        if not self._flag("use_oe_embedding", True):
            raise self._error("use_oe_embedding false contradicts the keys of the n-gram embedding")
        return found | {"allow_near_multiple": True}  # the model exists: not ours to refuse

    def _sparse_attention(self) -> dict[str, Any] | None:
        """The indexer; keys that are left out have LongCat-2.0's values, as in other programs that read the file."""
        if not self.values.get("index_topk"):
            if str(self.values.get("attention_method", "")).upper() == "LSA":
                raise self._error("attention_method LSA without index_topk")
            return None
        if not self._flag("use_longcat_dsa", True):
            raise self._error("use_longcat_dsa false contradicts index_topk")
        return {name: self.values[name] for name in _INDEX if name in self.values}

    def _mtp(self, ngram: bool) -> int:
        """Depths of multi-token prediction."""
        depths = self._whole("mtp_num_layers") or 0
        if depths > 1 and not self._flag("mtp_replicate_modules", True):
            raise self._error("mtp_replicate_modules false is not supported with several depths, only true")
        if depths and ngram and not self._flag("mtp_disable_over_tokenizer", True):
            raise self._error("mtp_disable_over_tokenizer false is not supported, only true")
        return depths

    def _token(self, name: str, default: int) -> Any:
        """An id; of a list the first one."""
        value = self.values.get(name)
        if isinstance(value, list):
            if len(value) > 1:
                self.notes.append(f"{name} {value}: only {value[0]} is used")
            value = value[0] if value else None
        return default if value is None else value

    def _dtype(self) -> str:
        value = self.values.get("dtype", self.values.get("torch_dtype", "float32"))
        if not isinstance(value, str):
            raise self._error(f"dtype must be a string, found {value!r}")
        return value.removeprefix("torch.")

    def _whole(self, name: str) -> int | None:
        value = self.values.get(name)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 0):
            raise self._error(f"{name} must be a whole number, found {value!r}")
        return value

    def _flag(self, name: str, default: bool) -> bool:
        value = self.values.get(name, default)
        if not isinstance(value, bool) and value not in (0, 1):
            raise self._error(f"{name} must be true or false, found {value!r}")
        return bool(value)

    def _object(self, name: str) -> dict[str, Any]:
        value = self.values.get(name, {})
        if not isinstance(value, dict):
            raise self._error(f"{name} must be an object, found {value!r}")
        return value

    def _validated(self, fields: dict[str, Any]) -> ModelConfig:
        try:
            # JSON, as there a strict check takes whole numbers for others, and objects for sections
            model = ModelConfig.model_validate_json(json.dumps(fields), strict=True)
        except ValidationError as error:
            problem = error.errors()[0]
            where = ".".join(self._their_name(str(name)) for name in problem["loc"])
            message = f"{where}: {problem['msg']}, found {problem['input']!r}"
            if problem["type"] == "value_error":  # the model's own words, which name the field
                message = problem["msg"].removeprefix("Value error, ")
            raise self._error(message) from None
        if model.begin_of_text == model.model_copy(update={"bos_token_id": None}).begin_of_text:
            return model.model_copy(update={"bos_token_id": None})
        return model

    def _their_name(self, ours: str) -> str:
        """The name under which the file has a field."""
        names = (ours, *_ALIASES.get(ours, ()), _LITE_NGRAM.get(ours, ""), _V2_NGRAM.get(ours, ""))
        return next((name for name in names if name in self.values), ours)


def _deepseek(yarn: Mapping[str, Any]) -> dict[str, Any]:
    """The factor on the rotated part in DeepSeek's own code, which reads a missing mscale as 1 and mscale_all_dim as 0.

    transformers reads YaRN as if both were missing when one of them is.
    """
    if "mscale" not in yarn and "mscale_all_dim" not in yarn:
        return {}
    mscale, every_dim = yarn.get("mscale", 1), yarn.get("mscale_all_dim", 0)
    numbers = all(isinstance(number, int | float) for number in (yarn["factor"], mscale, every_dim))
    if not numbers or yarn["factor"] < 1 or (yarn.get("mscale") and yarn.get("mscale_all_dim")):
        return {}
    growth = 0.1 * math.log(yarn["factor"])
    return {"attention_factor": (growth * mscale + 1) / (growth * every_dim + 1)}
