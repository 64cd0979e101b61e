"""How sizes of a model set its scales: the rules LongCat-Flash publishes (arXiv 2509.01322, section on stability)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from longcat.config import ModelConfig

Role = Literal["embedding", "hidden", "unembedding", "vector"]


def mla_alignment(hidden: int, rank: int) -> float:
    """Return alpha = sqrt(hidden / rank), the factor on the normed compressed query or key-value.

    A product with a matrix of `rank` columns has rank / hidden of the variance that one of `hidden` columns has; alpha
    gives it back, so that the compressed parts have the size of the rotated key, whatever the ranks.
    """
    return float((hidden / rank) ** 0.5)


def variance_compensation(ffn: int, expert_ffn: int) -> float:
    """Return gamma = m, the factor on the sum of experts that are a standard one cut into m = ffn / expert_ffn pieces.

    The router's weights are spread over m times as many experts, which divides the output's variance by m; so does the
    narrower inside of each. gamma^2 = m^2 gives both back. 6 in LongCat-Flash and Flash-Lite.
    """
    return ffn / expert_ffn


def routed_scale(config: ModelConfig) -> float:
    """Return `routed_scaling_factor`, or the variance compensation where it is not set."""
    return config.routed_scale


@dataclass(frozen=True)
class Transfer:
    """Factors on hyper-parameters from a narrow proxy to a wide model."""

    variance: float
    """On the variance of initial weights."""
    learning_rate: float


def transfer(role: Role, width: float) -> Transfer:
    """Carry hyper-parameters over to a model `width` times as wide as the proxy they were found on ("Adam LR full align").

    Embedding: both unchanged. Hidden and unembedding matrices: variance / s and learning rate / s. Vectors (norms,
    biases) keep theirs.
    """
    return Transfer(1.0, 1.0) if role in ("embedding", "vector") else Transfer(1 / width, 1 / width)


def role_of(name: str, dimensions: int) -> Role:
    """Tell a parameter's role from its name in the model and its number of dimensions."""
    if dimensions < 2:
        return "vector"
    if "embed_tokens" in name or "ngram_embeddings.tables" in name:
        return "embedding"
    return "unembedding" if name.startswith("lm_head") else "hidden"


def width_over_proxy(config: ModelConfig) -> float:
    """Divide the model's width by its proxy's; 1 without a proxy."""
    return config.hidden_size / (config.proxy_hidden_size or config.hidden_size)
