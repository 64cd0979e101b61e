"""Eight clients at once beside one: generated tokens per second of `longcat serve`.

    python benchmarks/serve.py [--json] [--rounds 5] [--clients 8] [--tokens 64]

A server of its own serves a 61M-parameter LongCat with random weights on OMP_NUM_THREADS threads, in fp32 on a CPU. In each round one client asks for a
text, and then all do at once; every text is streamed to its end. The ratio is the clients' tokens per second over those of
one; its median over rounds counts, and has to be 3 for 8 clients.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
from generate import SHAPES

START_S = 300
PROMPT_TOKENS = 32


def write_checkpoint(folder: Path) -> None:
    """Write a model with random weights, and a tokenizer of bytes."""
    from longcat.config import ModelConfig
    from longcat.corpus.tokenizer import train_tokenizer
    from longcat.interchange import save_huggingface
    from longcat.model import LongcatModel

    model = LongcatModel(ModelConfig(**SHAPES, initializer_range=0.1)).eval()
    model.initialize(0)
    save_huggingface(model, folder)
    train_tokenizer(["a text"], 300).save(str(folder / "tokenizer.json"))


@contextlib.contextmanager
def server(folder: Path) -> Iterator[str]:
    """Start a server; yields its address."""
    command = [sys.executable, "-m", "longcat.cli", "serve", "--checkpoint", str(folder), "--port", "0"]
    with subprocess.Popen([*command, "--accelerator", "cpu"], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            address = process.stdout.readline().split()[-1]
            for _ in range(START_S):
                with contextlib.suppress(httpx.TransportError):
                    if httpx.get(address.removesuffix("/v1") + "/health", timeout=START_S).status_code == 200:
                        break
                time.sleep(1)
            yield address
        finally:
            process.terminate()


async def one_text(client: httpx.AsyncClient, seed: int, tokens: int) -> int:
    """Have one text made, and return the number of its tokens."""
    prompt = [3 + (seed * 31 + place * 7) % 250 for place in range(PROMPT_TOKENS)]
    asked: dict[str, Any] = {"prompt": prompt, "max_tokens": tokens, "temperature": 1, "seed": seed, "stream": True}
    asked["stream_options"] = {"include_usage": True}
    made = 0
    async with client.stream("POST", "completions", json=asked) as response:
        response.raise_for_status()
        async for line in response.aiter_lines():
            if line.startswith("data: {"):
                made = (json.loads(line[6:]).get("usage") or {}).get("completion_tokens", made)
    return made


async def speed(address: str, clients: int, tokens: int) -> float:
    """Return the tokens per second of some clients at once, from the first request to the end of the last answer."""
    async with contextlib.AsyncExitStack() as stack:
        apart = [
            await stack.enter_async_context(httpx.AsyncClient(base_url=address, timeout=START_S))
            for _ in range(clients)
        ]
        began = time.perf_counter()
        made = await asyncio.gather(*(one_text(client, seed, tokens) for seed, client in enumerate(apart)))
        return sum(made) / (time.perf_counter() - began)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=64, help="of each text")
    arguments = parser.parse_args()

    with tempfile.TemporaryDirectory() as folder:
        write_checkpoint(Path(folder))
        with server(Path(folder)) as address:
            asyncio.run(speed(address, arguments.clients, 4))  # warm up
            rounds = [
                [asyncio.run(speed(address, clients, arguments.tokens)) for clients in (1, arguments.clients)]
                for _ in range(arguments.rounds)
            ]
    ratios = [together / alone for alone, together in rounds]
    alone, together = (statistics.median(values) for values in zip(*rounds, strict=True))
    outcome = {
        "clients": arguments.clients,
        "ratio": statistics.median(ratios),
        "ratios": ratios,
        "tokens_per_second": {"one": alone, "all": together},
    }
    if arguments.json:
        print(json.dumps(outcome, indent=2))
        return
    print(f"tokens/s: one client {alone:.1f}, {arguments.clients} clients {together:.1f}")
    print(f"ratio {outcome['ratio']:.2f} (rounds: {', '.join(f'{ratio:.2f}' for ratio in ratios)})")


if __name__ == "__main__":
    main()
