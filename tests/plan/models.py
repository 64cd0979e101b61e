"""Models and layouts that the tests of the planner share."""

from typing import Any

from longcat.costs.families import from_config
from longcat.plan.device import find_device
from longcat.plan.judge import Setting, setting
from longcat.plan.layout import Batch, Layout, read_layout, settle
from longcat.plan.model import Model

LLAMA_13B: dict[str, Any] = {
    "model_type": "llama", "hidden_size": 5120, "num_hidden_layers": 40, "num_attention_heads": 40,
    "num_key_value_heads": 40, "intermediate_size": 13824, "vocab_size": 128_000, "tie_word_embeddings": False,
}  # fmt: skip
MIXTRAL: dict[str, Any] = {
    "model_type": "mixtral", "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32,
    "num_key_value_heads": 8, "intermediate_size": 14336, "vocab_size": 32_000, "num_local_experts": 8,
    "num_experts_per_tok": 2, "tie_word_embeddings": False,
}  # fmt: skip
LLAMA = Model("llama", from_config(LLAMA_13B), None)
MIXTURE = Model("mixtral", from_config(MIXTRAL), None)


def of(model: Model = LLAMA, device: str = "a100-80gb", stack: str = "auto") -> Setting:
    return setting(model, find_device(device), stack)


def laid(
    axes: str = "", *, model: Model = LLAMA, devices: int = 64, batch: int = 512, length: int = 2048, micro: int = 1,
    recompute: Any = "none",
) -> Layout:  # fmt: skip
    return settle(model, devices, Batch(batch, length), read_layout(axes), micro, recompute)
