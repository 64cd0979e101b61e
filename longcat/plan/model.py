"""The model that is planned for: a preset, or any config.json whose family is known."""

from __future__ import annotations

import math
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path

from longcat.benchmark.mfu_inputs import find_workload
from longcat.config import PipelineConfig, load_config, preset_names
from longcat.config.config_json import read_json_object, read_longcat
from longcat.costs.attention import Attention
from longcat.costs.families import LONGCAT
from longcat.costs.products import Product
from longcat.costs.workload import Workload
from longcat.errors import ConfigError


@dataclass(frozen=True, eq=False)
class Model:
    """A model, and the configuration that this repository would train it with if it is one of its own."""

    name: str
    workload: Workload
    own: PipelineConfig | None
    """Of a LongCat model; None for one of another family."""

    @cached_property
    def products(self) -> tuple[Product, ...]:
        """Matrices by shape."""
        return self.workload.products()

    @property
    def layers(self) -> int:
        """Layers that a pipeline divides."""
        return self.workload.layers

    @property
    def hidden(self) -> int:
        """Width of the residual stream."""
        return self.workload.hidden_size

    @property
    def experts(self) -> int:
        """Routed experts of a layer, 1 where there are none."""
        return max((one.copies for one in self.products), default=1)

    @cached_property
    def attentions(self) -> tuple[Attention, ...]:
        """Layers of softmax attention by shape."""
        return tuple(one for one in self.workload.mixers if isinstance(one, Attention))

    @cached_property
    def widths(self) -> tuple[tuple[str, int], ...]:
        """What processes that share heads have to divide."""
        heads = math.gcd(*(one.heads for one in self.attentions)) if self.attentions else 0
        inner = math.gcd(
            *(one.inputs for one in self.products if one.component == "dense_ffn" and one.divided == "inputs")
        )
        found = (("num_attention_heads", heads), ("width of the feed-forward network", inner))
        return tuple((name, size) for name, size in found if size)

    @cached_property
    def sublayers(self) -> float:
        """Norms of the residual stream: before each attention and each feed-forward network."""
        return sum(one.layers for one in self.products if _ends(one))

    @cached_property
    def key_numbers(self) -> float:
        """Numbers of a token's keys and values in a layer, on average."""
        total = 0.0
        for one in self.attentions:
            made = [p.outputs - one.heads * one.key_dim for p in self.products if _makes_keys(p, one)]
            total += one.layers * (made[0] if made else one.heads * (one.key_dim + one.value_dim))
        return total / self.layers


def _ends(product: Product) -> bool:
    """Whether its results are added to the residual stream; the shared and the routed experts of a layer have one norm."""
    return product.divided == "inputs" and product.component != "shared_experts"


def _makes_keys(product: Product, attention: Attention) -> bool:
    own = product.component == "attention_projections" and product.kept and product.divided == "outputs"
    return own and product.outputs > attention.heads * attention.key_dim


def read_model(name: str) -> Model:
    """Return the model of a preset, a config.json or a folder with one.

    Raises:
        ConfigError: it is not found, or its family is not known.
    """
    if name in preset_names():
        return Model(name, find_workload(name), load_config(name))
    path = Path(name).expanduser()
    if not path.exists():
        close = get_close_matches(name, preset_names(), n=1)
        hint = f"did you mean {close[0]}?; " if close else ""
        raise ConfigError(
            f"--model {name} is neither a file nor a preset; {hint}the presets are {', '.join(preset_names())}"
        )
    workload = find_workload(name)
    own = None
    if workload.family in LONGCAT:
        file = path / "config.json" if path.is_dir() else path
        preset = load_config("longcat-flash")
        read = read_longcat(read_json_object(file), str(file)).model
        own = preset.model_copy(update={"model": read})
    return Model(path.stem if path.name != "config.json" else (path.parent.name or path.stem), workload, own)
