"""Cost of heartbeats, of judging steps and of searching for corruption, as a fraction of a step's time.

    python benchmarks/health_overhead.py [--steps 40] [--processes 2] [--preset tiny] [--json]

Two training processes, or more, do each step twice on the same rows, one time as `longcat pretrain` does it, with signs of life at
every layer and collective, its judgement and its share in the comparison of step times, one time without; which comes first
alternates, and the median of the differences counts. On a CPU the processor's time of a process is compared, which other programs on the
machine disturb less; the time on the clock is printed beside it. `beats_s` is what the signs of life of a step cost by
themselves, timed in a loop. Searches for corruption are timed whole and divided by `training.check_every_steps`.
"""

import argparse
import contextlib
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

LIMIT_S = 1800
BEATS = 20_000
CHECKS = 3


def work(folder: Path, steps: int) -> None:
    """Be one process: do the steps, and write the outcome on rank 0."""
    import torch
    import torch.distributed as dist

    from longcat.accelerator import choose
    from longcat.parallel.mesh import end_process, join, leave
    from longcat.processes.child import die_with_parent
    from longcat.training.heartbeat import Heartbeat
    from longcat.training.job import Job
    from longcat.training.worker import Worker

    class NoHeart(Heartbeat):
        """A heart that is not heard."""

        region = staticmethod(torch.profiler.record_function)

        def beat(self) -> None: ...
        def begin_step(self, step: int) -> None: ...
        def follow(self, trainer: object) -> None: ...

    die_with_parent(signal.SIGKILL)
    job = Job.read(folder / "job.json")
    accelerator = choose(job.layout.accelerator)
    mesh = join(accelerator, job.layout.degrees, 600)
    (folder / "plain").mkdir(exist_ok=True)
    workers = {
        "watched": Worker(job, mesh, accelerator, Heartbeat(folder, mesh.rank)),
        "plain": Worker(job, mesh, accelerator, NoHeart(folder / "plain", mesh.rank)),
    }
    heart = workers["watched"].heart
    clock = time.process_time if accelerator.kind == "cpu" else time.perf_counter
    seconds, on_the_clock = ({name: [] for name in workers} for _ in range(2))
    beats = []
    for step in range(steps + 2):  # the first two warm up
        for name in list(workers)[:: 1 if step % 2 else -1]:
            worker, watched = workers[name], name == "watched"
            dist.barrier()
            before = heart._beats
            began, since = clock(), time.perf_counter()
            with heart.collectives(mesh) if watched else contextlib.nullcontext():
                result = worker.step(step)
                if watched:
                    worker._judged(step, result)
                    if step % 10 == 9:
                        worker._step_times(step)
            accelerator.synchronize()
            if step > 1:
                seconds[name].append(clock() - began)
                on_the_clock[name].append(time.perf_counter() - since)
                beats += [heart._beats - before] if watched else []
    began = time.perf_counter()
    for _ in range(BEATS):
        heart._layer(1, False)
    beat_s = (time.perf_counter() - began) / BEATS
    searches = []
    for _ in range(1 + CHECKS):
        dist.barrier()
        began = clock()
        assert not workers["watched"]._look_for_corruption(workers["watched"].corruption, steps)
        searches.append(clock() - began)
    if mesh.rank == 0:
        step_s, more = compared(seconds)
        clock_s, clock_more = compared(on_the_clock)
        every, search = job.pipeline.training.check_every_steps, statistics.median(searches[1:])
        fractions = {"watching": more / step_s, "checks": search / every / step_s}
        outcome = {
            "step_s": step_s,
            "more_s": more,
            "clock": {"step_s": clock_s, "more_s": clock_more},
            "beats": statistics.median(beats),
            "beats_s": statistics.median(beats) * beat_s,
            "check_s": search,
            "check_every_steps": every,
            "fractions": {**fractions, "total": sum(fractions.values())},
            "beats_fraction": statistics.median(beats) * beat_s / step_s,
        }
        (folder / "outcome.json").write_text(json.dumps(outcome))
    dist.barrier()
    leave()
    end_process()


def compared(seconds: dict[str, list[float]]) -> tuple[float, float]:
    """Return the median of plain steps, and of how much more the watched ones take."""
    pairs = zip(seconds["watched"], seconds["plain"], strict=True)
    return statistics.median(seconds["plain"]), statistics.median(watched - plain for watched, plain in pairs)


def measure(preset: str, processes: int, steps: int, folder: Path) -> dict:
    """Make tokens, start the processes, and return what they found."""
    from longcat.accelerator import choose, environment
    from longcat.artifact import Workspace
    from longcat.config import load_config
    from longcat.corpus.stage import preprocess
    from longcat.processes.child import free_port, supervised
    from longcat.training.job import Job
    from longcat.training.layout import settle_layout

    overrides = [
        "corpus.sources=[{kind: stdlib, max_documents: 300}]",
        f"training.processes={processes}",
        f"training.steps={steps + 2}",
    ]
    config = load_config(preset, None, overrides)
    tokens = preprocess(config, workspace=Workspace(folder / "space"))
    layout = settle_layout(config, choose(config.accelerator))
    Job(config.model_dump(mode="json"), layout, str(tokens.path), str(folder)).write()
    command = [
        sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={processes}", "--master-addr=127.0.0.1",
        f"--master-port={free_port()}", __file__, "--steps", str(steps), "--work", str(folder),
    ]  # fmt: skip
    variables = {
        "GLOO_SOCKET_IFNAME": "lo",
        "PYTHONPATH": os.pathsep.join(sys.path),
        **environment(layout.accelerator, processes),
    }
    log = folder / "processes.log"
    with supervised(command, log=log, environment=variables) as process:
        try:
            process.wait(LIMIT_S)
        except subprocess.TimeoutExpired:
            raise SystemExit(f"not done after {LIMIT_S} s") from None
    if process.returncode:
        raise SystemExit(log.read_text()[-4000:])
    return json.loads((folder / "outcome.json").read_text())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--preset", default="tiny")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.work:
        work(arguments.work, arguments.steps)
    with tempfile.TemporaryDirectory() as folder:
        outcome = measure(arguments.preset, arguments.processes, arguments.steps, Path(folder))
    if arguments.json:
        print(json.dumps(outcome))
        return
    of = outcome["fractions"]
    print(
        f"a step takes {outcome['step_s'] * 1e3:.0f} ms; watching it {outcome['more_s'] * 1e3:.2f} ms more ({of['watching']:.2%})"
    )
    print(
        f"{outcome['beats']:.0f} signs of life in a step take {outcome['beats_s'] * 1e3:.2f} ms ({outcome['beats_fraction']:.3%})"
    )
    print(f"a search takes {outcome['check_s']:.2f} s, {of['checks']:.2%} every {outcome['check_every_steps']} steps")
    print(f"together {of['total']:.2%}")


if __name__ == "__main__":
    main()
