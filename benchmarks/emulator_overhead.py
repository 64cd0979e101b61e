"""Time of a training step under the emulated Ascend NPU, relative to the same step on the CPU.

    longcat emulate -- python benchmarks/emulator_overhead.py [--preset tiny-2.0] [--devices 8] [--steps 10] [--json]

One model in two copies, AdamW and gradient clipping; steps alternate. Without a preset it is a plain GPT of torch's own
layers; with one LongCat in bf16, which takes its fused operators on the NPU and its CPU paths on the CPU. With several
devices there is a process for each, and both copies are data parallel: over HCCL on emulated NPUs, over gloo on the CPU.
Prints the median of each and their ratio. It says nothing about an Ascend: both run on the CPU.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

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


def measure(rank: int, options: argparse.Namespace, folder: str) -> None:
    """Alternate the steps of both copies in this process, of so many; the first one writes the result into the folder."""
    devices = options.devices
    if devices > 1:
        os.environ.update(MASTER_ADDR="127.0.0.1")
        torch.set_num_threads(1)
        torch.npu.set_device(rank)
        store = dist.FileStore(str(Path(folder) / "store"), devices)
        limit = timedelta(minutes=5)
        dist.init_process_group("cpu:gloo,npu:hccl", store=store, rank=rank, world_size=devices, timeout=limit)
    torch.manual_seed(0)
    model = LongCat(options.preset) if options.preset else Decoder(options.layers, options.hidden)
    vocabulary = model.config.model.vocabulary if isinstance(model, LongCat) else VOCABULARY
    tokens = torch.randint(0, vocabulary, (devices, options.batch, options.tokens + 1))[rank]
    steps = {}
    for name, device in (("cpu", "cpu"), ("emulated", "npu")):
        copied: nn.Module = copy.deepcopy(model).to(device)
        if devices > 1:
            copied = DistributedDataParallel(copied, find_unused_parameters=options.preset is not None)
        steps[name] = step_of(copied, tokens.to(device))
    times: dict[str, list[float]] = {name: [] for name in steps}
    losses: dict[str, float] = {}
    for round_ in range(options.steps + 2):
        for name, step in steps.items():
            if devices > 1:
                dist.barrier(device_ids=[rank])
            began = time.perf_counter()
            losses[name] = step()
            if round_ >= 2:  # the first ones make optimizer states and fill caches
                times[name].append(time.perf_counter() - began)
    if rank == 0:
        median = {name: statistics.median(values) for name, values in times.items()}
        result = {
            "seconds": median,
            "ratio": median["emulated"] / median["cpu"],
            "last_loss": losses,
            "devices": devices,
        }
        (Path(folder) / "result.json").write_text(json.dumps(result))
    if devices > 1:
        dist.destroy_process_group()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", help="of LongCat")
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--hidden", type=int, default=256)
    parser.add_argument("--tokens", type=int, default=256, help="of a sequence")
    parser.add_argument("--batch", type=int, default=4, help="sequences of each device")
    parser.add_argument("--devices", type=int, default=1, help="a process for each; more than one: data parallel")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if options.devices > 1:
            mp.spawn(measure, (options, folder), nprocs=options.devices)
        else:
            measure(0, options, folder)
        result = json.loads((Path(folder) / "result.json").read_text())
    if options.json:
        print(json.dumps(result))
        return
    for name, seconds in result["seconds"].items():
        print(f"{name:9} {seconds * 1e3:9.1f} ms a step, last loss {result['last_loss'][name]:.6f}")
    print(f"ratio     {result['ratio']:9.2f}")


if __name__ == "__main__":
    main()
