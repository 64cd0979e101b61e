"""Models that see or hear: which part of their config.json is the text model, and whether its head is the embedding."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from longcat.costs.families import dense, gemma, llama, mixtures
from longcat.costs.families.fields import Defaults, Family, Fields, shown
from longcat.costs.workload import Workload
from longcat.errors import ConfigError

_INSIDE = ("text_config", "llm_config", "language_config", "thinker_config")
"""Where the text model stands; in a thinker it stands one level further down."""

_TIED = frozenset(
    (
        "aya_vision", "cohere2_vision", "deepseek_vl", "deepseek_vl_hybrid", "ernie4_5_vl_moe", "florence2", "gemma3",
        "gemma3n", "gemma4", "gemma4_unified", "got_ocr2", "granite_docling", "granite_speech", "hunyuan_vl",
        "hyperclovax_vision_v2", "internvl", "janus", "kimi_k25", "lfm2_vl", "lighton_ocr", "mistral3", "ovis2",
        "paddleocr_vl", "paligemma", "qwen3_asr", "shieldgemma2", "voxtral_realtime",
    )
)  # fmt: skip
"""Types whose own flag is true in transformers where the file has none."""
_UNTIED = frozenset(
    (
        "aria", "exaone4_5", "glm46v", "granite4_vision", "idefics2", "idefics3", "llama4", "llava_next", "minicpmv4_6",
        "molmo2", "qwen2_5_omni_thinker", "qwen3_5", "qwen3_5_moe", "qwen3_omni_moe_thinker", "qwen3_vl",
        "qwen3_vl_moe", "smolvlm", "video_llava", "vipllava",
    )
)  # fmt: skip
"""Types whose own flag is false there, whatever the text model's says."""
_EITHER = frozenset(
    (
        "fast_vlm", "glm4v", "glm4v_moe", "glm_ocr", "llava", "llava_next_video", "llava_onevision", "minimax_m3_vl",
        "perception_lm", "qwen2_5_vl", "qwen2_vl", "vibevoice", "video_llama_3",
    )
)  # fmt: skip
"""Types that are tied where either flag is true: older files have it in the text model's part."""


def text_model(values: Mapping[str, Any], source: str) -> tuple[Mapping[str, Any], str, str | None]:
    """Return the text model's fields, what to call them in errors, and a note on the rest; the same where there is none.

    Raises:
        ConfigError: the part of the text model is no object, or a flag is neither true nor false.
    """
    whole = None
    while (name := _inside(values, source)) is not None:
        outer, values = values, dict(values[name])
        whole = whole or outer.get("model_type") or outer.get("architectures")
        tied = _tied(outer, values, source, remote=name not in ("text_config", "thinker_config"))
        source = f"{source}: {name}"
        values.pop("tie_word_embeddings", None)
        if tied is not None:
            values["tie_word_embeddings"] = tied
        if not values.get("model_type") and not values.get("architectures"):
            values["model_type"] = outer.get("model_type")
    kind = values.get("model_type")
    if whole is None and isinstance(kind, str) and kind in ON_TOP:
        whole = kind
    return values, source, None if whole is None else f"of {_name(whole)} only the text model is counted"


def _name(whole: object) -> str:
    return whole if isinstance(whole, str) and len(whole) < 100 else shown(whole)


def _inside(values: Mapping[str, Any], source: str) -> str | None:
    """Return the name of the part that holds the text model; fields on top count where the part lacks them."""
    for name in _INSIDE:
        part = values.get(name)
        if part is None:
            continue
        if not isinstance(part, Mapping):
            raise ConfigError(f"{source}: {name} must be an object, found {type(part).__name__}")
        if "hidden_size" in part or "hidden_size" not in values:
            return name
    return None


def _tied(outer: Mapping[str, Any], inner: Mapping[str, Any], source: str, *, remote: bool) -> bool | None:
    """Return whether the head is the embedding as transformers has it, None where the text model's default decides."""
    flags: list[bool | None] = []
    for part in (outer, inner):
        flag = part.get("tie_word_embeddings")
        flags.append(None if flag is None else Fields(part, source).flag("tie_word_embeddings", False))
    of_outer, of_inner = flags
    kind = outer.get("model_type")
    known = isinstance(kind, str)
    if known and kind in _EITHER:
        return bool(of_outer or of_inner)
    if known and kind in _TIED | _UNTIED:
        return kind in _TIED if of_outer is None else of_outer
    if remote or of_outer is None:  # remote code builds the text model from its own part
        return of_inner if of_inner is not None else of_outer
    return of_outer


def _as(family: Family, defaults: Defaults, architectures: tuple[str, ...] = ()) -> Family:
    """Return a family of the same matrices, with defaults of its own."""
    return replace(family, architectures=architectures, defaults=defaults)


def _first_of_two(read: Callable[[Fields], Workload]) -> Callable[[Fields], Workload]:
    """Return a reader of ERNIE's two mixtures, for text and for images, that reads the first: lists hold one of each."""

    def of_text(f: Fields) -> Workload:
        values = dict(f.values)
        for name, value in f.values.items():
            if name.startswith("moe_") and isinstance(value, list) and len(value) == 2:
                values[name] = value[0]
        found = read(Fields(values, f.source, f.mtp, f.names))
        return replace(found, assumptions=(*found.assumptions, "the experts of images are not counted"))

    return of_text


_QWEN2, _QWEN3 = llama.FAMILIES["qwen2"], llama.FAMILIES["qwen3"]
_QWEN2_VL = {"num_key_value_heads": 8, "sliding_window": 4096, "max_window_layers": 80}
_ERNIE = replace(
    mixtures.FAMILIES["ernie4_5_moe"],
    read=_first_of_two(mixtures.FAMILIES["ernie4_5_moe"].read),
    architectures=("Ernie4_5_VLMoeForConditionalGeneration", "Ernie4_5_VL_MoeForConditionalGeneration"),
)
FAMILIES = {
    "qwen2_vl": _as(_QWEN2, _QWEN2_VL, ("Qwen2VLForConditionalGeneration",)),
    "qwen2_5_vl": _as(_QWEN2, _QWEN2_VL, ("Qwen2_5_VLForConditionalGeneration",)),
    "qwen2_vl_text": _as(_QWEN2, _QWEN2_VL),
    "qwen2_5_vl_text": _as(_QWEN2, _QWEN2_VL),
    "qwen2_5_omni_text": _as(
        _QWEN2,
        {"num_key_value_heads": 4, "sliding_window": 32768, "max_window_layers": 28, "tie_word_embeddings": True},
    ),
    "qwen3_vl_text": _as(_QWEN3, {"num_key_value_heads": 32, "head_dim": 128}),
    "qwen3_omni_moe_text": _as(
        llama.FAMILIES["qwen3_moe"],
        {"num_key_value_heads": 4, "num_experts": 128, "num_experts_per_tok": 8, "moe_intermediate_size": 768},
    ),
    "glm4v_text": _as(dense.FAMILIES["glm4"], {"num_key_value_heads": 2}),
    "glm4v_moe_text": _as(
        mixtures.FAMILIES["glm4_moe"], {**mixtures.FAMILIES["glm4_moe"].defaults, "attention_bias": True}
    ),
    "gemma4_unified_text": _as(
        gemma.FAMILIES["gemma4_text"],
        {"num_key_value_heads": 4, "head_dim": 256, "sliding_window": 1024, "hidden_size_per_layer_input": 0},
        ("Gemma4UnifiedForCausalLM",),
    ),
    "paddleocr_vl_text": _as(dense.FAMILIES["ernie4_5"], {"num_key_value_heads": 2, "head_dim": 128}),
    "ernie4_5_vl_moe_text": replace(_ERNIE, architectures=()),
    "ernie4_5_vl_moe": _ERNIE,
    "ernie4_5_moe_vl": replace(_ERNIE, architectures=()),
    "phi3_v": _as(dense.FAMILIES["phi3"], {}, ("Phi3VForCausalLM",)),
    "llava_llama": _as(llama.FAMILIES["llama"], {}, ("LlavaLlamaForCausalLM",)),
    "llava_mistral": _as(llama.FAMILIES["mistral"], llama.FAMILIES["mistral"].defaults, ("LlavaMistralForCausalLM",)),
    "llava_qwen": _as(_QWEN2, _QWEN2.defaults, ("LlavaQwenForCausalLM",)),
}
ON_TOP = frozenset(name for name in FAMILIES if not name.endswith("_text"))
"""Types of models that see whose files may have the text model's fields on top."""
