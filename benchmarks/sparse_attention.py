"""Time of attention per token over the sequence length: dense, and LongCat Sparse Attention with its indexer.

    python benchmarks/sparse_attention.py [--lengths 1024 2048 ...] [--budget 1024] [--repeats 3] [--json] [--plot FILE.png]

bf16, forward and backward, one sequence; 8 heads of 64+32/64, latent of rank 128, an indexer of 4 heads of 64. The lengths
take turns and the medians count. `read` is attention to the chosen keys, `choose` the indexer's scores and top-k: scoring
looks at every key before a query, with a fifth of the dense heads' width and no gradient, as in LongCat-2.0.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch

from longcat.accelerator import choose
from longcat.config import SparseAttentionConfig
from longcat.ops.attention import causal_attention
from longcat.ops.sparse_attention import select_keys, sparse_attention

HEADS, NOPE, ROPE, VALUE, RANK, INDEX_HEADS, INDEX_DIM = 8, 64, 32, 64, 128, 4, 64


def cost(length: int, config: SparseAttentionConfig, device: torch.device) -> dict[str, float]:
    """Measure the seconds of each part for a sequence of `length` tokens."""

    def draw(*shape: int, learns: bool = True) -> torch.Tensor:
        return torch.randn(shape, device=device).bfloat16().requires_grad_(learns)

    def timed(work: Callable[[], object]) -> float:
        began = time.perf_counter()
        work()
        choose().synchronize()
        return time.perf_counter() - began

    def dense() -> None:
        causal_attention(q, k, v).sum().backward()

    q, k = (draw(1, HEADS, length, NOPE + ROPE) for _ in range(2))
    v = draw(1, HEADS, length, VALUE)
    seconds = {"dense": timed(dense)}
    index = draw(1, length, INDEX_HEADS, INDEX_DIM), draw(1, length, INDEX_DIM), draw(1, length, INDEX_HEADS)
    if length > config.index_topk:
        keys = None

        def choose_keys() -> None:
            nonlocal keys
            keys = select_keys(*index, config)

        def read() -> None:
            assert keys is not None
            sparse_attention(query, known, keys, RANK, 0.1)[0].sum().backward()

        query, known = draw(1, length, HEADS, RANK + ROPE), draw(1, length, RANK + ROPE)
        seconds["choose"] = timed(choose_keys)
        seconds["read"] = timed(read)
    return seconds


def plot(rows: list[dict[str, float]], budget: int, path: Path) -> None:
    """Draw microseconds per token over the sequence length."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 4.5))
    lengths = [row["length"] for row in rows]
    axes.plot(lengths, [row["dense"] for row in rows], "o-", color="#b04a3a", label="dense attention")
    sparse = [row for row in rows if "read" in row]
    at = [row["length"] for row in sparse]
    axes.plot(at, [row["read"] for row in sparse], "o-", color="#2a6f97", label=f"sparse: read {budget:,} keys")
    total = [row["read"] + row["choose"] for row in sparse]
    axes.plot(at, total, "o--", color="#2a6f97", label="sparse: choose and read")
    axes.axvline(budget, color="grey", linewidth=0.8, linestyle=":")
    axes.set_xscale("log", base=2)
    axes.set_xticks(lengths, [f"{int(length) // 1024}K" for length in lengths])
    axes.set_ylim(bottom=0)
    axes.set_xlabel("tokens in the sequence")
    axes.set_ylabel("µs per token, forward and backward")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lengths", type=int, nargs="+", default=[1024 * 2**i for i in range(6)])
    parser.add_argument("--budget", type=int, default=1024)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--plot", type=Path)
    arguments = parser.parse_args()

    device = choose().device()
    config = SparseAttentionConfig(index_topk=arguments.budget, index_local_tokens=arguments.budget // 2)
    torch.manual_seed(0)
    seen: dict[int, list[dict[str, float]]] = {length: [] for length in arguments.lengths}
    cost(min(arguments.lengths), config, device)  # warm up
    for _ in range(arguments.repeats):
        for length, runs in seen.items():
            runs.append(cost(length, config, device))
    rows = []
    for length, runs in seen.items():
        micro = {name: statistics.median(run[name] for run in runs) / length * 1e6 for name in runs[0]}
        rows.append({"length": float(length), **micro})
    if arguments.plot:
        plot(rows, arguments.budget, arguments.plot)
    if arguments.json:
        print(json.dumps({"budget": arguments.budget, "microseconds_a_token": rows}, indent=2))
        return
    print(f"{'length':>8}{'dense':>10}{'choose':>10}{'read':>10}{'ratio':>8}   µs per token; ratio: dense over sparse")
    for row in rows:
        parts = "".join(f"{row[name]:10.1f}" if name in row else f"{'-':>10}" for name in ("dense", "choose", "read"))
        ratio = f"{row['dense'] / (row['choose'] + row['read']):8.2f}" if "read" in row else f"{'-':>8}"
        print(f"{int(row['length']):8}{parts}{ratio}")


if __name__ == "__main__":
    main()
