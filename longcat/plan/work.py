"""Time of a micro-batch in a stage: products by shape, attention, elementwise work, in the forward and the backward pass."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from longcat.costs.products import Product
from longcat.plan.device import Device
from longcat.plan.efficiency import NUMBER_BYTES, Speeds
from longcat.plan.layout import Layout
from longcat.plan.model import Model
from longcat.plan.stacks import Kernels, Stack

_FLASH_BACKWARD = 2.5
"""Work of the backward pass of fused attention for that of its forward pass: five products for two."""
_HEAD_PASSES = 12
"""Bytes that the loss reads and writes for each logit."""


class Passes(NamedTuple):
    """Seconds of a forward and a backward pass, and of what of the forward pass is made again."""

    forward: float
    backward: float
    again: float = 0.0

    def __add__(self, other: object) -> Passes:
        assert isinstance(other, Passes)
        return Passes(*(one + two for one, two in zip(self[:], other[:], strict=True)))

    def times(self, factor: float) -> Passes:
        """Multiply all by a factor."""
        return Passes(*(factor * one for one in self[:]))

    @property
    def whole(self) -> float:
        """Return the seconds of all."""
        return self.forward + self.backward + self.again


@dataclass(frozen=True)
class Place:
    """What a process of the pipeline has of the model."""

    layers: float
    """Share of all layers."""
    head: float
    """Share of the head: 1 where it is, or what evens out the stages."""
    multi_token: float = 0.0
    """Share of multi-token prediction."""


@dataclass(frozen=True)
class Shape:
    """A product as one process computes it."""

    component: str
    m: float
    k: float
    n: float
    count: float
    """In all layers of the model."""
    grouped: bool

    def seconds(self, speeds: Speeds) -> Passes:
        """Return the time of one: in the backward pass a product for the gradient of each factor."""
        share = speeds.of.grouped if self.grouped else 1.0
        forward = speeds.product_seconds(self.m, self.k, self.n, share)
        backward = speeds.product_seconds(self.m, self.n, self.k, share)
        backward += speeds.product_seconds(self.k, self.m, self.n, share)
        return Passes(forward, backward)


def shapes(products: tuple[Product, ...], layout: Layout, stack: Stack) -> Iterator[Shape]:
    """Return the products of a model as a process computes them for a micro-batch."""
    tensor = layout.degrees.tensor
    own = layout.tokens / tensor if stack.tokens_divided else layout.tokens
    for one in products:
        m, k, n, count = layout.tokens, float(one.inputs), float(one.outputs), one.layers
        if one.routed:
            local = max(1.0, one.copies / layout.degrees.expert)
            rows = layout.tokens / tensor * one.chosen * layout.degrees.expert / min(layout.degrees.expert, one.copies)
            m, count = rows / local, count * local
        elif one.divided == "outputs":
            n /= tensor
        elif one.divided == "inputs":
            k /= tensor
        else:
            m = own
        yield Shape(one.component, m, k, n, count, one.routed)


def _head(component: str) -> bool:
    return component in ("lm_head", "ngram_projection")


def whole_passes(model: Model, layout: Layout, device: Device, stack: Stack, kernels: Kernels) -> dict[str, Passes]:
    """Return the time of all layers of the model, and of its head, for a micro-batch in the processes of a stage, by part."""
    found = _times(
        model.products, _mixing(model, layout.batch.sequence_length), _of(model), layout, device.speeds, stack, kernels
    )
    again = _AGAIN["own selective" if model.own and layout.recompute == "selective" else layout.recompute]
    return {name: part._replace(again=part.forward * again.get(name, 0.0)) for name, part in found.items()}


def at(passes: dict[str, Passes], place: Place) -> dict[str, Passes]:
    """Return what of the whole model's time a place of the pipeline takes."""
    shares = {"lm_head": place.head, "mtp": place.multi_token}
    return {name: part.times(shares.get(name, place.layers)) for name, part in passes.items()}


@dataclass(frozen=True)
class _Sizes:
    """What elementwise work and attention depend on."""

    hidden: int
    vocabulary: int
    sublayers: float
    heads: tuple[tuple[float, int], ...]
    """Layers and heads of each attention."""


@lru_cache(maxsize=64)
def _of(model: Model) -> _Sizes:
    heads = tuple((one.layers, one.heads) for one in model.attentions)
    return _Sizes(model.hidden, model.workload.vocabulary, model.sublayers, heads)


@lru_cache(maxsize=256)
def _mixing(model: Model, sequence_length: int) -> tuple[float, float]:
    """Return the FLOP of a token, forward and of a causal square, in products of activations: scores of attention and indexers."""
    causal = model.workload.flops(sequence_length, "causal")
    full = model.workload.flops(sequence_length, "full")
    return (
        sum(part.forward - part.weight_gradient for part in causal.values()),
        sum(part.forward - part.weight_gradient for part in full.values()),
    )


def _times(
    products: tuple[Product, ...],
    mixing: tuple[float, float],
    sizes: _Sizes,
    layout: Layout,
    speeds: Speeds,
    stack: Stack,
    kernels: Kernels,
) -> dict[str, Passes]:
    tensor, tokens = layout.degrees.tensor, layout.tokens
    own = tokens / tensor if stack.tokens_divided else tokens
    found: dict[str, Passes] = {}
    kept = 0.0
    for shape, product in zip(shapes(products, layout, stack), products, strict=True):
        part = "lm_head" if _head(shape.component) else shape.component
        found[part] = found.get(part, Passes(0, 0)) + shape.seconds(speeds).times(shape.count)
        if product.kept and not _head(shape.component):
            kept += shape.m * shape.n * shape.count
        if product.routed:  # rows are sorted by expert, and back
            kept += shape.m * (shape.k if product.kept else shape.n) * shape.count
    found["attention"] = _attention(mixing, sizes, layout, speeds, kernels)
    stream = sizes.sublayers * own * sizes.hidden * (kernels.norm_passes + 3) + 1.5 * kept
    found["elementwise"] = Passes(*(speeds.stream_seconds(NUMBER_BYTES * stream * more) for more in (1, 1.5)))
    words = sizes.vocabulary if stack.logits_whole_bytes else sizes.vocabulary / tensor
    loss = speeds.stream_seconds(_HEAD_PASSES * tokens * words / 2)
    if "lm_head" in found:
        found["lm_head"] += Passes(loss, loss)
    return found


_AGAIN: dict[str, dict[str, float]] = {
    "none": {},
    "selective": {"attention": 1.0},
    "full": dict.fromkeys(
        (
            "attention_projections", "indexer_projections", "dense_ffn", "shared_experts", "routed_experts", "router",
            "latent_projections", "attention", "elementwise", "linear_layers", "mtp",
        ),
        1.0,
    ),
    "own selective": {
        "attention_projections": 0.75, "indexer_projections": 1.0, "dense_ffn": 2 / 3, "routed_experts": 2 / 3,
        "elementwise": 0.75, "mtp": 0.5,
    },
}  # fmt: skip
"""Share of the forward pass of each part that the backward pass makes again."""


def _attention(mixing: tuple[float, float], sizes: _Sizes, layout: Layout, speeds: Speeds, kernels: Kernels) -> Passes:
    causal, full = mixing
    tokens = layout.tokens / layout.degrees.tensor
    if kernels.attention != "products":
        seconds = causal * tokens / (speeds.flops * getattr(speeds.of, kernels.attention))
        launches = sum(layers for layers, _ in sizes.heads) * speeds.of.launch_s
        return Passes(seconds + launches, _FLASH_BACKWARD * seconds + launches)
    scores = sum(layers * heads for layers, heads in sizes.heads) * tokens * layout.batch.sequence_length
    traffic = speeds.stream_seconds(NUMBER_BYTES * scores * kernels.score_passes)
    computed = full * tokens / (speeds.flops * speeds.of.products * 0.8)
    return Passes(computed + traffic, 2 * computed + 1.5 * traffic)
