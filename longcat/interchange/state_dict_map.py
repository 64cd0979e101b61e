"""Where each tensor of a Hugging Face folder lies in the model.

Names differ where we stack: on disk every routed expert has its own gate, up and down matrix, and every n-gram branch
its own table and projection.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch

from longcat.config import ModelConfig, NgramConfig
from longcat.config.config_json import is_v2
from longcat.model.transformer import LongcatModel

Region = tuple[int | slice, ...]


@dataclass(frozen=True)
class StoredTensor:
    """One tensor on disk."""

    name: str
    """As it is written."""
    parameter: str | None
    """Name in our state dict; none is a tensor of zeros that transformers' loader asks for and nothing uses."""
    region: Region
    """Its place in that parameter; empty is the whole."""
    shape: tuple[int, ...]
    aliases: tuple[str, ...] = ()
    """Other names under which it is found when read."""
    duplicate: bool = False
    """Whether it holds the word embedding again: written for other programs, not needed when read."""


_MTP = {
    "eh_proj.": "layers.0.eh_proj.",
    "enorm.": "layers.0.enorm.m.",
    "hnorm.": "layers.0.hnorm.m.",
    "input_layernorm.": "layers.0.input_layernorm.",
    "self_attn.": "layers.0.self_attn.",
    "post_attention_layernorm.": "layers.0.post_attention_layernorm.",
    "mlp.": "layers.0.transformer_layer.mlp.",
    "norm.": "norm.",
}
_LEFT_OUT = {
    "copies of the word embedding": re.compile(
        r"model\.(ngram_embeddings\.word_embeddings|oe_word_embeddings)\.weight"
    ),
    "biases of routers, which nothing adds": re.compile(r".*\.router\.classifier\.bias"),
    "frequencies of the rotary embedding": re.compile(r".*\.rotary_emb\.inv_freq"),
    "tensors of model.mtp": re.compile(r"model\.mtp\..*"),
}
_EXPERT = re.compile(r"model\.layers\.\d+\.mlp\.experts\.(\d+)\.(gate|up|down)_proj\.weight(_scale(_inv)?)?")
_EMBEDDING = "model.embed_tokens.weight"
_ALIASES = {_EMBEDDING: ("model.ngram_embeddings.word_embeddings.weight",)}
HEAD = "lm_head.weight"
"""Name of the head; a folder with tied embeddings may do without it."""
MTP = "model.mtp."
"""What the names of multi-token prediction begin with."""


def state_dict_map(config: ModelConfig) -> Iterator[StoredTensor]:
    """Yield all tensors of a model, with routed experts only, in the order of its state dict."""
    shapes = parameter_shapes(config)
    for name, shape in shapes.items():
        prefix, _, last = name.rpartition(".")
        if last == "gate_up_proj":
            inner = shape[1] // 2
            for expert in range(shape[0]):
                for number, matrix in enumerate(("gate", "up")):
                    rows = slice(number * inner, (number + 1) * inner)
                    yield StoredTensor(
                        f"{prefix}.{expert}.{matrix}_proj.weight", name, (expert, rows), (inner, shape[2])
                    )
        elif last == "down_proj":
            for expert in range(shape[0]):
                yield StoredTensor(f"{prefix}.{expert}.down_proj.weight", name, (expert,), shape[1:])
        elif ".ngram_embeddings." in name and config.ngram is not None:
            yield from _ngram(name, shape, config, config.ngram)
        elif name.startswith(MTP):
            rest = name.removeprefix(MTP)
            theirs = next(new + rest.removeprefix(old) for old, new in _MTP.items() if rest.startswith(old))
            yield StoredTensor(f"model.mtp.{theirs}", name, (), shape)
        else:
            yield StoredTensor(name, name, (), shape, _ALIASES.get(name, ()))
    if config.mtp_num_layers:
        yield StoredTensor(f"{MTP}embed_tokens.weight", _EMBEDDING, (), shapes[_EMBEDDING], duplicate=True)


def parameter_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Return the shape of each parameter and buffer of a model, in the order of its state dict."""
    with torch.device("meta"):
        return {name: tuple(value.shape) for name, value in LongcatModel(config).state_dict().items()}


def _ngram(name: str, shape: tuple[int, ...], config: ModelConfig, ngram: NgramConfig) -> Iterator[StoredTensor]:
    tables = ".tables." in name
    begin, width = 0, shape[1] // ngram.branches
    for branch, rows in enumerate(ngram.rows(config.vocabulary)):
        lite = f"model.ngram_embeddings.{'embedders' if tables else 'post_projs'}.{branch}.weight"
        v2 = f"model.oe_embed_{'tokens' if tables else 'proj'}{branch}.weight"
        first, other = (v2, lite) if is_v2(config) else (lite, v2)
        if tables:
            yield StoredTensor(first, name, (slice(begin, begin + rows),), (rows, shape[1]), (other,))
        else:
            columns = slice(branch * width, (branch + 1) * width)
            yield StoredTensor(first, name, (slice(None), columns), (shape[0], width), (other,))
        begin += rows


def zero_expert_matrices(config: ModelConfig) -> Iterator[StoredTensor]:
    """Yield gate and up matrices of zero-computation experts, which nothing uses but transformers' loader asks for."""
    shape = (config.expert_ffn_hidden_size, config.hidden_size)
    for layer in range(config.num_layers):
        for expert in range(config.n_routed_experts, config.n_routed_experts + config.zero_expert_num):
            for matrix in ("gate", "up"):
                yield StoredTensor(f"model.layers.{layer}.mlp.experts.{expert}.{matrix}_proj.weight", None, (), shape)


def count_parameters(tensors: Iterable[StoredTensor]) -> int:
    """Count the trained numbers in some tensors of `state_dict_map`; a router's selection bias is none."""
    return sum(
        math.prod(tensor.shape)
        for tensor in tensors
        if not tensor.duplicate and not tensor.name.endswith("correction_bias")
    )


def left_out_kind(name: str, config: ModelConfig) -> str | None:
    """Say what a tensor that `state_dict_map` does not have is, where the model does without it; none where it does not."""
    expert = _EXPERT.fullmatch(name)
    if expert is not None:
        phantom = config.n_routed_experts <= int(expert[1]) < config.n_routed_experts + config.zero_expert_num
        return "matrices of zero-computation experts" if phantom else None
    return next((kind for kind, pattern in _LEFT_OUT.items() if pattern.fullmatch(name)), None)
