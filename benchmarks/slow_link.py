"""How much of a training step waits for tokens on their way to experts, over a slow link between two nodes.

    python benchmarks/slow_link.py [--json] [--rounds 5] [--rate-mbit 400] [--devices 1] [--tokens 4096] [--model-link]
                                   [--plot FILE [--from JSON]]

Two nodes of `--devices` processes each hold one set of experts between them and do whole steps of `longcat pretrain` (fp32,
AdamW, FSDP over all of them). As root on Linux the nodes are network namespaces joined by a veth pair, which `tc tbf` limits in both
directions; they end with this program, however it ends. Elsewhere, or with `--model-link`, each process delays its
exchanges as long as that link would be busy with them. The ways to send take turns in every round; medians count:

    sequential   each exchange is waited for where it begins
    overlapped   an exchange runs beside the dense sublayers
    chunked      the same in two parts
    two_level    overlapped, and a token crosses once to the other node

Waiting is the time in which a process can do nothing but wait for rows or their counts, as a mean over processes. Bytes are
what a node sends to the other one in a step: of the exchange, by `longcat.costs.exchange`, and in all, with the weights
and gradients that are the same for each way. `--plot` draws the step of each way, of an earlier run's output with `--from`.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

SHAPES = {
    "vocab_size": 512, "hidden_size": 256, "num_layers": 2, "num_attention_heads": 4, "q_lora_rank": 128,
    "kv_lora_rank": 64, "qk_nope_head_dim": 64, "qk_rope_head_dim": 32, "v_head_dim": 64, "ffn_hidden_size": 1024,
    "expert_ffn_hidden_size": 256, "n_routed_experts": 16, "zero_expert_num": 8, "moe_topk": 6,
    "max_position_embeddings": 512,
}  # fmt: skip
LENGTH = 512
ADDRESSES = "10.173.0.1", "10.173.0.2"
INTERFACE = "longcat"
LIMIT_S = 1800
WAYS: dict[str, dict[str, Any]] = {
    "sequential": {}, "overlapped": {}, "chunked": {"chunks": 2}, "two_level": {"two_level": True},
}  # fmt: skip


class Link:
    """Stands between the training step and torch's all-to-all: measures what is waited for, and counts what crosses."""

    def __init__(self, devices: int, bytes_per_s: float | None) -> None:
        self.devices, self.bytes_per_s = devices, bytes_per_s
        self.blocking = False
        """Whether each exchange is waited for where it begins."""
        self.waited_s = self.free_at = 0.0
        self.crossed = 0
        """Bytes of rows that this process has sent to the other node."""
        self._exchange = dist.all_to_all_single
        dist.all_to_all_single = self.all_to_all_single

    def all_to_all_single(
        self, output: torch.Tensor, input: torch.Tensor, received: Any = None, sent: Any = None,
        group: Any = None, async_op: bool = False,
    ) -> Any:  # fmt: skip
        """Do what torch's does."""
        node = dist.get_rank() // self.devices
        ranks = dist.get_process_group_ranks(group)
        splits = sent or [len(input) // len(ranks)] * len(ranks)
        rows = sum(count for rank, count in zip(ranks, splits, strict=True) if rank // self.devices != node)
        size = rows * input[:1].nbytes if rows else 0
        if sent is not None:  # counts are no rows
            self.crossed += size
        if self.bytes_per_s:
            self.free_at = max(self.free_at, time.perf_counter()) + size / self.bytes_per_s
        work = Transfer(self._exchange(output, input, received, sent, group=group, async_op=True), self)
        if self.blocking or not async_op:
            work.wait()
        return work if async_op else None


class Transfer:
    """An exchange in work."""

    def __init__(self, work: Any, link: Link) -> None:
        self.work, self.link, self.over_at = work, link, link.free_at if link.bytes_per_s else 0.0

    def wait(self) -> None:
        """Wait, once."""
        began = time.perf_counter()
        if self.work is not None:
            self.work.wait()
            time.sleep(max(0.0, self.over_at - time.perf_counter()))
            self.work = None
        self.link.waited_s += time.perf_counter() - began


def work(arguments: argparse.Namespace) -> None:
    """Be one process: do the steps, and print the outcome on rank 0."""
    from longcat.accelerator import choose
    from longcat.config import load_config
    from longcat.config.parallel import ParallelConfig
    from longcat.corpus.shards import Batch
    from longcat.costs.exchange import Exchange
    from longcat.parallel.axes import Degrees
    from longcat.parallel.mesh import end_process, join, leave
    from longcat.parallel.parallelize import dispatcher
    from longcat.processes.child import die_with_parent
    from longcat.training.trainer import Trainer

    die_with_parent(signal.SIGKILL)
    torch.set_num_threads(1)
    processes = 2 * arguments.devices
    sequences = arguments.tokens // LENGTH
    config = load_config(
        "smoke",
        overrides=[
            *(f"model.{name}={value}" for name, value in SHAPES.items()),
            f"corpus.sequence_length_tokens={LENGTH}",
            f"training.global_batch_sequences={sequences * processes}",
            f"training.processes={processes}",
            "training.steps=1000000",
        ],
    )
    accelerator = choose("cpu")
    mesh = join(accelerator, Degrees(processes=processes, expert=processes), 600)
    trainer = Trainer(config, mesh, accelerator, "fp32")
    ways = {
        name: dispatcher(mesh, ParallelConfig(**settings, devices_per_node=arguments.devices))
        for name, settings in WAYS.items()
    }
    link = Link(arguments.devices, arguments.rate_mbit * 125_000 if arguments.model_link else None)
    drawn = torch.randint(
        3, SHAPES["vocab_size"], (sequences, LENGTH + 1), generator=torch.Generator().manual_seed(mesh.rank)
    )
    batch = Batch.of_rows(drawn.numpy())
    records: dict[str, list[list[float]]] = {name: [] for name in ways}
    slots = []
    for round_ in range(1 + arguments.rounds):
        order = list(ways)
        for name in order[round_ % len(order) :] + order[: round_ % len(order)]:
            for layer in trainer.model.blocks:
                layer.mlp.dispatcher = ways[name]
            link.blocking = name == "sequential"
            dist.barrier()
            link.waited_s, link.crossed, in_all = 0.0, 0, sent_bytes()
            began = time.perf_counter()
            result = trainer.step(0, batch)
            seconds = time.perf_counter() - began
            record = [seconds, link.waited_s, link.crossed, sent_bytes() - in_all]
            everyone: list[Any] = [None] * processes
            dist.all_gather_object(everyone, record)
            means = [statistics.fmean(column) for column in zip(*everyone, strict=True)]
            routed = result.expert_load[:, : SHAPES["n_routed_experts"]].sum() / result.expert_load.sum()
            if round_:  # the first one warms up
                records[name].append(means)
                slots.append(SHAPES["moe_topk"] * float(routed))
    if mesh.rank == 0:
        exchange = Exchange(statistics.fmean(slots), SHAPES["moe_topk"], 2, SHAPES["hidden_size"], 4)
        outcome: dict[str, Any] = {}
        for name, measured in records.items():
            seconds, waited, crossed, in_all = (statistics.median(column) for column in zip(*measured, strict=True))
            tokens = sequences * LENGTH * arguments.devices * SHAPES["num_layers"]
            outcome[name] = {
                "step_s": seconds,
                "waiting_s": waited,
                "waiting_share": statistics.median(row[1] / row[0] for row in measured),
                "exchange_bytes": crossed * arguments.devices,
                "formula_bytes": tokens * exchange.link_bytes(WAYS[name].get("two_level", False)),
                "link_bytes": None if arguments.model_link else in_all,
            }
        outcome["routed_experts_per_token"] = exchange.slots
        print(json.dumps(outcome), flush=True)
    leave()
    end_process()


def sent_bytes() -> int:
    """Bytes that this node has sent over the throttled interface."""
    for line in Path("/proc/self/net/dev").read_text().splitlines():
        name, _, numbers = line.partition(":")
        if name.strip().startswith(INTERFACE):
            return int(numbers.split()[8])
    return 0


@contextlib.contextmanager
def two_nodes(rate_mbit: float) -> Iterator[list[list[str]]]:
    """Open two network namespaces, joined by a limited link; yields the words that run a command in each.

    A namespace lives as long as a process in it: one that reads from this program, and so ends with it.
    """
    with contextlib.ExitStack() as opened:
        keepers = [subprocess.Popen(["unshare", "--net", "cat"], stdin=subprocess.PIPE) for _ in ADDRESSES]
        for keeper in keepers:
            opened.callback(keeper.wait)
            opened.callback(keeper.stdin.close)  # type: ignore[union-attr]
        ours = Path("/proc/self/ns/net").readlink()
        end = time.monotonic() + 10
        while any(Path(f"/proc/{keeper.pid}/ns/net").readlink() == ours for keeper in keepers):
            if time.monotonic() > end or any(keeper.poll() is not None for keeper in keepers):
                raise RuntimeError("no network namespace could be opened")
            time.sleep(0.01)
        ends = [f"{INTERFACE}{number}" for number in range(2)]
        _, second = keepers
        inside = [["nsenter", "--target", str(keeper.pid), "--net"] for keeper in keepers]
        run(
            [
                *inside[0],
                "ip",
                "link",
                "add",
                ends[0],
                "type",
                "veth",
                "peer",
                "name",
                ends[1],
                "netns",
                str(second.pid),
            ]
        )
        for words, name, address in zip(inside, ends, ADDRESSES, strict=True):
            run([*words, "ip", "address", "add", f"{address}/24", "dev", name])
            run([*words, "ip", "link", "set", "lo", "up"])
            run([*words, "ip", "link", "set", name, "up"])
            limit = ["tbf", "rate", f"{rate_mbit}mbit", "burst", "256kb", "latency", "200ms"]
            run([*words, "tc", "qdisc", "replace", "dev", name, "root", *limit])
        yield inside


def run(command: list[str]) -> None:
    """Run a command; what it says becomes the error."""
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=20)
    if result.returncode:
        raise RuntimeError(f"{' '.join(command)}: {result.stderr.strip()}")


def measure(arguments: argparse.Namespace, inside: list[list[str]], address: str) -> dict[str, Any]:
    """Start the processes of both nodes and return what the first one printed."""
    from longcat.processes.child import free_port

    processes = 2 * arguments.devices
    given = [
        f"--{name.replace('_', '-')}={getattr(arguments, name)}"
        for name in ("rounds", "rate_mbit", "devices", "tokens")
    ]
    given += ["--model-link"] if arguments.model_link else []
    shared = {"WORLD_SIZE": str(processes), "LOCAL_WORLD_SIZE": str(arguments.devices), "MASTER_ADDR": address,
              "MASTER_PORT": str(free_port()), "OMP_NUM_THREADS": "1"}  # fmt: skip
    started: list[subprocess.Popen[str]] = []
    try:
        for rank in range(processes):
            node = rank // arguments.devices
            interface = {"GLOO_SOCKET_IFNAME": "lo" if arguments.model_link else f"{INTERFACE}{node}"}
            own = {"RANK": str(rank), "LOCAL_RANK": str(rank % arguments.devices)}
            command = [*inside[node], sys.executable, __file__, "--worker", *given]
            environment = {**os.environ, **shared, **interface, **own}
            started.append(subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True))
        printed, _ = started[0].communicate(timeout=LIMIT_S)
        if started[0].returncode:
            raise RuntimeError(f"a process ended with {started[0].returncode}")
        found: dict[str, Any] = json.loads(printed.splitlines()[-1])
        return found
    finally:
        for process in started:
            process.kill()
            process.wait()


def measured(arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure every way over a throttled link, or over one that is modelled."""
    tools = all(map(shutil.which, ("unshare", "nsenter", "ip", "tc")))
    arguments.model_link = arguments.model_link or not (tools and os.geteuid() == 0)
    if arguments.model_link:
        outcome = measure(arguments, [[], []], "127.0.0.1")
    else:
        with two_nodes(arguments.rate_mbit) as inside:
            outcome = measure(arguments, inside, ADDRESSES[0])
    return outcome | {"link": "modelled" if arguments.model_link else "throttled veth", **{
        name: getattr(arguments, name) for name in ("rate_mbit", "devices", "tokens", "rounds")
    }}  # fmt: skip


def plot(outcome: dict[str, Any], file: Path) -> None:
    """Draw the step of each way: what waits for rows, and the rest."""
    from longcat.benchmark.axis_plots import exposed
    from longcat.figures import png

    ways = {name: outcome[name] for name in WAYS}
    nodes = f"2 nodes of {outcome['devices']}, {outcome['rate_mbit']:g} Mbit/s between them"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(png(exposed(ways, nodes)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--rate-mbit", type=float, default=400, help="of the link, in each direction")
    parser.add_argument("--devices", type=int, default=1, help="processes on each node")
    parser.add_argument("--tokens", type=int, default=4096, help="of each process in a step")
    parser.add_argument("--model-link", action="store_true", help="delay exchanges instead of throttling a link")
    parser.add_argument("--plot", type=Path, metavar="FILE")
    parser.add_argument(
        "--from", dest="earlier", type=Path, metavar="JSON", help="output of --json to plot, instead of a run"
    )
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        return work(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    outcome = json.loads(arguments.earlier.read_text()) if arguments.earlier else measured(arguments)
    if arguments.plot:
        plot(outcome, arguments.plot)
    if arguments.json:
        print(json.dumps(outcome, indent=2))
        return None
    print(
        f"2 nodes of {arguments.devices}, {arguments.rate_mbit:g} Mbit/s ({outcome['link']}), medians of {arguments.rounds}"
    )
    print(f"{'':12}{'step':>8}{'waiting':>10}{'of step':>9}{'exchange':>13}{'formula':>12}{'whole link':>13}")
    for name in WAYS:
        row = outcome[name]
        whole = "" if row["link_bytes"] is None else f"{row['link_bytes'] / 1e6:10.1f} MB"
        print(
            f"{name:12}{row['step_s']:6.2f} s{row['waiting_s']:8.3f} s{row['waiting_share']:9.1%}"
            f"{row['exchange_bytes'] / 1e6:10.1f} MB{row['formula_bytes'] / 1e6:9.1f} MB{whole}"
        )
    return None


if __name__ == "__main__":
    main()
