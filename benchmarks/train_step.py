"""Time of a training step of a 61M-parameter LongCat beside transformers' `LongcatFlashForCausalLM` of equal shapes.

    python benchmarks/train_step.py [--json] [--rounds 5] [--steps 2] [--no-compile]

bf16, AdamW, batch 8 x 512, random tokens. Both models live in one process and take turns; the medians count. Ours is the
step of `longcat pretrain` itself (one process: FSDP, gradient norm, clipping and balance included). The fraction of the peak
is causal useful work over the fastest bf16 matrix product measured here in the same turns.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import statistics
import time
from collections.abc import Callable

import torch

SHAPES = {
    "vocab_size": 8192, "hidden_size": 512, "num_layers": 4, "num_attention_heads": 8, "q_lora_rank": 256,
    "kv_lora_rank": 128, "qk_nope_head_dim": 64, "qk_rope_head_dim": 32, "v_head_dim": 64, "ffn_hidden_size": 1024,
    "expert_ffn_hidden_size": 256, "n_routed_experts": 16, "zero_expert_num": 8, "moe_topk": 4,
    "routed_scaling_factor": 6.0, "max_position_embeddings": 2048,
}  # fmt: skip
BATCH, LENGTH = 8, 512


def longcat_step(compiled: bool) -> Callable[[int], dict[str, float]]:
    """Return a function that does one step of longcat's trainer, given a step number."""
    from longcat.accelerator import choose
    from longcat.config import load_config
    from longcat.corpus.shards import Batch
    from longcat.parallel.axes import Degrees
    from longcat.parallel.mesh import join
    from longcat.training.trainer import Trainer

    config = load_config(
        "smoke",
        overrides=[
            *(f"model.{name}={value}" for name, value in SHAPES.items()),
            f"corpus.sequence_length_tokens={LENGTH}",
            f"training.global_batch_sequences={BATCH}",
            "training.processes=1",
            "training.steps=1000000",
            f"training.compile={str(compiled).lower()}",
        ],
    )
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    os.environ |= {
        "RANK": "0",
        "LOCAL_RANK": "0",
        "WORLD_SIZE": "1",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    accelerator = choose()
    trainer = Trainer(config, join(accelerator, Degrees(), 600), accelerator, "bf16")

    def step(number: int) -> dict[str, float]:
        result = trainer.step(number, Batch.of_rows(tokens(number).numpy()))
        accelerator.synchronize()
        routed = result.expert_load[:, : config.model.n_routed_experts].sum() / result.expert_load.sum()
        return {"loss": result.loss, "ffn_experts": config.model.moe_topk * float(routed)}

    return step


def transformers_step(device: torch.device) -> Callable[[int], dict[str, float]]:
    """Return a function that does one step of the transformers model, given a step number."""
    from transformers import LongcatFlashConfig, LongcatFlashForCausalLM

    config = LongcatFlashConfig(
        **SHAPES, num_key_value_heads=SHAPES["num_attention_heads"], head_dim=SHAPES["qk_rope_head_dim"]
    )
    model = LongcatFlashForCausalLM(config).to(device, torch.bfloat16).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.95), weight_decay=0.1, fused=True)

    def step(number: int) -> dict[str, float]:
        rows = tokens(number).to(device)
        loss = model(input_ids=rows[:, :-1], labels=rows[:, :-1], use_cache=False).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return {"loss": float(loss.detach())}

    return step


def tokens(number: int) -> torch.Tensor:
    """Return the batch of a step, `[batch, length + 1]`."""
    generator = torch.Generator().manual_seed(number)
    return torch.randint(3, int(SHAPES["vocab_size"]), (BATCH, LENGTH + 1), generator=generator)


def gemm_flops(device: torch.device) -> float:
    """Measure the FLOP/s of the fastest of a few bf16 matrix products."""
    best = 0.0
    for size in (1024, 2048) if device.type == "cpu" else (4096, 8192):
        a, b = (torch.randn(size, size, device=device).bfloat16() for _ in range(2))
        for _ in range(6):
            began = time.perf_counter()
            (a @ b)[0, 0].item()
            best = max(best, 2 * size**3 / (time.perf_counter() - began))
    return best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=2, help="steps of each in one round")
    parser.add_argument("--no-compile", dest="compiled", action="store_false")
    arguments = parser.parse_args()

    from longcat.accelerator import choose
    from longcat.config import ModelConfig
    from longcat.costs.flops import training_flops_per_token
    from longcat.parallel.mesh import end_process, leave

    torch.manual_seed(0)
    device = choose().device()
    contenders = {"longcat": longcat_step(arguments.compiled), "transformers": transformers_step(device)}
    for step in contenders.values():  # compile, allocate, warm up
        for number in range(2):
            step(number)
    speeds: dict[str, list[float]] = {name: [] for name in contenders}
    peaks, experts = [], []
    for round_ in range(arguments.rounds):
        peaks.append(gemm_flops(device))
        for name, step in contenders.items():
            began = time.perf_counter()
            for number in range(arguments.steps):
                result = step(2 + round_ * arguments.steps + number)
                experts.append(result.get("ffn_experts", 0.0))
            speeds[name].append(arguments.steps * BATCH * LENGTH / (time.perf_counter() - began))
    mean_experts = statistics.fmean(value for value in experts if value)
    flops = sum(training_flops_per_token(ModelConfig(**SHAPES), LENGTH, mean_experts).values())
    median = {name: statistics.median(values) for name, values in speeds.items()}
    peak = statistics.median(peaks)
    outcome = {
        "ratio": median["longcat"] / median["transformers"],
        "ratios": [a / b for a, b in zip(speeds["longcat"], speeds["transformers"], strict=True)],
        "tokens_per_second": median,
        "flops_per_token": flops,
        "ffn_experts_per_token": mean_experts,
        "bf16_gemm_peak_flops": peak,
        "share_of_peak": {name: value * flops / peak for name, value in median.items()},
        "compiled": arguments.compiled,
        "threads": torch.get_num_threads(),
    }
    if arguments.json:
        print(json.dumps(outcome, indent=2))
    else:
        for name, value in median.items():
            print(f"{name:14}{value:8.0f} tokens/s  {outcome['share_of_peak'][name]:6.1%} of {peak / 1e9:.0f} GFLOP/s")
        print(f"ratio {outcome['ratio']:.2f} (rounds: {', '.join(f'{value:.2f}' for value in outcome['ratios'])})")
    leave()
    end_process()


if __name__ == "__main__":
    main()
