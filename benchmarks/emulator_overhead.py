"""Time of a training step under the emulated Ascend NPU, relative to the same step on the CPU.

    longcat emulate -- python benchmarks/emulator_overhead.py [--preset tiny-2.0] [--layers 4] [--hidden 256] [--steps 10]

One model in two copies, AdamW and gradient clipping; steps alternate. Without a preset it is a plain GPT of torch's own
layers; with one LongCat in bf16, which takes its fused operators on the NPU and its CPU paths on the CPU. Prints the median of
each and their ratio. It says nothing about an Ascend: both run on the CPU.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from longcat.config import load_config
from longcat.model import LongcatModel

VOCABULARY, HEAD_SIZE = 4096, 64


class Decoder(nn.Module):
    """A plain GPT decoder."""

    def __init__(self, layers: int, hidden: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, hidden)
        layer = nn.TransformerEncoderLayer(
            hidden, hidden // HEAD_SIZE, 4 * hidden, dropout=0.0, batch_first=True, norm_first=True
        )
        self.layers = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.head = nn.Linear(hidden, VOCABULARY, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """Mean loss of the next tokens of `[batch, tokens]`."""
        inputs, targets = tokens[:, :-1], tokens[:, 1:]
        mask = nn.Transformer.generate_square_subsequent_mask(inputs.shape[1], device=tokens.device)
        hidden = self.layers(self.embedding(inputs), mask=mask, is_causal=True)
        return F.cross_entropy(self.head(hidden).flatten(0, 1), targets.flatten())


class LongCat(nn.Module):
    """The LongCat model of a preset."""

    def __init__(self, preset: str) -> None:
        super().__init__()
        self.config = load_config(preset)
        self.model = LongcatModel(self.config.model).bfloat16()
        self.model.initialize(0)

    def forward(self, tokens: Tensor) -> Tensor:
        """Mean loss of the next tokens of `[batch, tokens]`."""
        inputs, targets = tokens[:, :-1], tokens[:, 1:]
        found = self.model.sums(inputs, targets)
        return (found.language_model + found.mtp + found.indexer) / targets.numel()


def step_of(model: nn.Module, tokens: Tensor) -> Callable[[], float]:
    """Return a function that does one training step and returns its loss."""
    optimizer = torch.optim.AdamW(model.parameters(), 1e-4)

    def step() -> float:
        optimizer.zero_grad()
        loss = model(tokens)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        return float(loss.item())

    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", help="of LongCat")
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--hidden", type=int, default=256)
    parser.add_argument("--tokens", type=int, default=256, help="of a sequence")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    torch.manual_seed(0)
    model = LongCat(options.preset) if options.preset else Decoder(options.layers, options.hidden)
    vocabulary = model.config.model.vocabulary if isinstance(model, LongCat) else VOCABULARY
    tokens = torch.randint(0, vocabulary, (options.batch, options.tokens + 1))
    steps = {
        "cpu": step_of(copy.deepcopy(model), tokens),
        "emulated": step_of(copy.deepcopy(model).to("npu"), tokens.to("npu")),
    }
    times: dict[str, list[float]] = {name: [] for name in steps}
    losses: dict[str, float] = {}
    for round_ in range(options.steps + 2):
        for name, step in steps.items():
            began = time.perf_counter()
            losses[name] = step()
            if round_ >= 2:  # the first ones make optimizer states and fill caches
                times[name].append(time.perf_counter() - began)
    median = {name: statistics.median(values) for name, values in times.items()}
    ratio = median["emulated"] / median["cpu"]
    if options.json:
        print(json.dumps({"seconds": median, "ratio": ratio, "last_loss": losses}))
        return
    for name, seconds in median.items():
        print(f"{name:9} {seconds * 1e3:9.1f} ms a step, last loss {losses[name]:.6f}")
    print(f"ratio     {ratio:9.2f}")


if __name__ == "__main__":
    main()
