"""Generation by a 61M-parameter LongCat beside transformers' `LongcatFlashForCausalLM` with the same exported weights.

    python benchmarks/generate.py [--json] [--rounds 7] [--tokens 24] [--prompts 16 512]

fp32, greedy, one sequence, with a cache, on OMP_NUM_THREADS threads. Both models live in one process and take turns at every
token; medians over rounds count. A ratio is ours over transformers' tokens per second of the tokens that follow the first one;
the prompt's forward pass is timed apart.
Both models have to choose the same tokens.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

SHAPES = {
    "vocab_size": 8192, "eos_token_id": 2, "hidden_size": 512, "num_layers": 4, "num_attention_heads": 8,
    "q_lora_rank": 256, "kv_lora_rank": 128, "qk_nope_head_dim": 64, "qk_rope_head_dim": 32, "v_head_dim": 64,
    "ffn_hidden_size": 1024, "expert_ffn_hidden_size": 256, "n_routed_experts": 16, "zero_expert_num": 8, "moe_topk": 4,
    "routed_scaling_factor": 6.0, "max_position_embeddings": 2048,
}  # fmt: skip

Generator = Callable[[list[int], int], Iterator[int]]
Seconds = dict[str, float]
Made = dict[str, list[int]]


def models() -> dict[str, Generator]:
    """Return both models as functions of prompt and token count that yield tokens."""
    from transformers import LongcatFlashForCausalLM

    from longcat.config import ModelConfig
    from longcat.interchange import save_huggingface
    from longcat.interchange.convert import export
    from longcat.model import LongcatModel

    ours = LongcatModel(ModelConfig(**SHAPES, initializer_range=0.1)).eval()
    ours.initialize(0)
    with tempfile.TemporaryDirectory() as folder:
        save_huggingface(ours, Path(folder) / "ours/huggingface")
        export(Path(folder) / "ours", Path(folder) / "theirs")
        theirs = LongcatFlashForCausalLM.from_pretrained(Path(folder) / "theirs", dtype=torch.float32).eval()

    def by_longcat(prompt: list[int], count: int) -> Iterator[int]:
        tokens, cache = torch.tensor([prompt]), ours.new_cache()
        for _ in range(count):
            with torch.inference_mode():
                tokens = ours.next_logits(tokens, cache).argmax(-1, keepdim=True)
            yield int(tokens)

    def by_transformers(prompt: list[int], count: int) -> Iterator[int]:
        rows, cache = torch.tensor([prompt]), None
        for _ in range(count):
            with torch.inference_mode():
                out: Any = theirs(input_ids=rows, past_key_values=cache, use_cache=True, logits_to_keep=1)
                cache, token = out.past_key_values, int(out.logits[0, -1].argmax())
            yield token
            rows = torch.tensor([[token]])

    return {"longcat": by_longcat, "transformers": by_transformers}


def one_round(contenders: dict[str, Generator], prompt: list[int], count: int) -> tuple[Seconds, Seconds, Made]:
    """Generate with all contenders, which take turns at every token: a busy moment of the machine hits both.

    Args:
        contenders: by name.
        prompt: tokens to continue.
        count: tokens after the first one.

    Returns:
        Seconds to the first token, seconds of the others, and the tokens; of each contender.
    """
    running = {name: generator(prompt, count + 1) for name, generator in contenders.items()}
    first, others = dict.fromkeys(running, 0.0), dict.fromkeys(running, 0.0)
    made: Made = {name: [] for name in running}
    for number in range(count + 1):
        for name, tokens in running.items():
            began = time.perf_counter()
            made[name].append(next(tokens))
            (others if number else first)[name] += time.perf_counter() - began
    return first, others, made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--tokens", type=int, default=24, help="timed tokens of each in one round")
    parser.add_argument("--prompts", type=int, nargs="+", default=[16, 512], help="lengths in tokens")
    arguments = parser.parse_args()

    contenders = models()
    draws = torch.Generator().manual_seed(0)
    outcome: dict[str, Any] = {"threads": torch.get_num_threads(), "prompts": {}}
    for length in arguments.prompts:
        prompt = torch.randint(3, SHAPES["vocab_size"], (length,), generator=draws).tolist()
        made = one_round(contenders, prompt, 4)[2]  # warm up
        if made["longcat"] != made["transformers"]:
            raise SystemExit(f"the models choose different tokens: {made}")
        rounds = [one_round(contenders, prompt, arguments.tokens)[:2] for _ in range(arguments.rounds)]
        ratios = [others["transformers"] / others["longcat"] for _, others in rounds]
        outcome["prompts"][length] = {
            "ratio": statistics.median(ratios),
            "ratios": ratios,
            "tokens_per_second": {
                name: arguments.tokens / statistics.median(others[name] for _, others in rounds) for name in contenders
            },
            "prompt_ratio": statistics.median(first["transformers"] / first["longcat"] for first, _ in rounds),
        }
    if arguments.json:
        print(json.dumps(outcome, indent=2))
        return
    for length, found in outcome["prompts"].items():
        speeds = ", ".join(f"{name} {value:.1f}" for name, value in found["tokens_per_second"].items())
        rounds = ", ".join(f"{value:.2f}" for value in found["ratios"])
        print(f"prompt of {length}: tokens/s {speeds}; ratio {found['ratio']:.2f} (rounds: {rounds})")
        print(f"  the prompt itself: ratio {found['prompt_ratio']:.2f}")


if __name__ == "__main__":
    main()
