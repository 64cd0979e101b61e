"""A training step on a CUDA device with and without the fused steps of operators (`longcat/ops/fusion.py`), in turns.

    python benchmarks/fused_steps.py [--preset medium] [--rounds 5] [--steps 2] [--json] [--set a.b=c ...]

One trainer, the layers compiled in both; random tokens, one process. Prints the median tokens/s of each, their ratio, and the
MFU by the device's published peak.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time

import torch


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="medium")
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="a.b=c")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=2, help="steps of each in one round")
    parser.add_argument("--accelerator", default="cuda", help="cpu tries the script out, and says nothing of a GPU")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()

    from longcat.accelerator import choose
    from longcat.config import load_config
    from longcat.corpus.shards import Batch
    from longcat.costs.flops import training_flops_per_token
    from longcat.errors import DeviceError
    from longcat.ops.fusion import fusing
    from longcat.parallel.axes import Degrees
    from longcat.parallel.mesh import end_process, join, leave
    from longcat.peak import device_peak
    from longcat.processes.child import free_port
    from longcat.training.trainer import Trainer

    try:
        accelerator = choose(arguments.accelerator)
    except DeviceError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    settings = ["training.processes=1", "training.compile=true", "training.steps=1000000", *arguments.overrides]
    config = load_config(arguments.preset, overrides=settings)
    precision = "bf16" if accelerator.supports_bf16 else "fp32"
    os.environ |= {
        "RANK": "0",
        "LOCAL_RANK": "0",
        "WORLD_SIZE": "1",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
    }
    trainer = Trainer(config, join(accelerator, Degrees(), 600), accelerator, precision)
    rows, length = config.training.global_batch_sequences, config.corpus.sequence_length_tokens
    model, routed = config.model, []

    def step(number: int) -> None:
        generator = torch.Generator().manual_seed(number)
        tokens = torch.randint(
            3, int(model.vocab_size or config.corpus.vocabulary_size), (rows, length + 1), generator=generator
        )
        load = trainer.step(number, Batch.of_rows(tokens.numpy())).expert_load
        accelerator.synchronize()
        routed.append(float(load[:, : model.n_routed_experts].sum() / load.sum()) * model.moe_topk)

    speeds: dict[str, list[float]] = {"fused": [], "plain": []}
    number = 0
    for round_ in range(arguments.rounds + 1):
        for name, values in speeds.items():
            with fusing(name == "fused"):
                began = time.perf_counter()
                for _ in range(arguments.steps):
                    step(number)
                    number += 1
                if round_:  # the first one compiles and allocates
                    values.append(arguments.steps * rows * length / (time.perf_counter() - began))
    median = {name: statistics.median(values) for name, values in speeds.items()}
    flops = sum(training_flops_per_token(model, length, statistics.fmean(routed)).values())
    peak = device_peak(accelerator.name, precision)
    outcome = {
        "device": accelerator.name,
        "torch": torch.__version__,
        "tokens_per_second": median,
        "ratio": median["fused"] / median["plain"],
        "ratios": [a / b for a, b in zip(speeds["fused"], speeds["plain"], strict=True)],
        "mfu": None if peak is None else {name: value * flops / peak.of(1) for name, value in median.items()},
        "peak_memory_bytes": accelerator.peak_memory_bytes(),
    }
    if arguments.json:
        print(json.dumps(outcome, indent=2))
    else:
        for name, value in median.items():
            mfu = "" if outcome["mfu"] is None else f"  MFU {outcome['mfu'][name]:.1%}"
            print(f"{name:8}{value:10,.0f} tokens/s{mfu}")
        print(f"ratio {outcome['ratio']:.3f} (rounds: {', '.join(f'{value:.3f}' for value in outcome['ratios'])})")
    leave()
    end_process()


if __name__ == "__main__":
    main()
