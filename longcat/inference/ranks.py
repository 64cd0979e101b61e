"""`python -m longcat.inference.ranks JOB.json`: a share of the batches of likelihoods, in one of several processes.

Every process opens the model and makes the same plan of batches; process r of n takes the batches r, r + n, ... They send
each other nothing. On CPUs the processes share the threads, so that results equal those of one process to 1e-5.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NoReturn

import numpy as np

from longcat.accelerator import Kind, choose, environment
from longcat.disk import replacing
from longcat.errors import TrainingError
from longcat.inference.batches import Batch, Fitted, plan
from longcat.inference.likelihoods import Score, Scorer
from longcat.inference.opening import OpenCheckpoint, Precision, open_checkpoint
from longcat.processes.child import follow
from longcat.processes.failure import report_failure
from longcat.processes.launch import launch
from longcat.processes.orders import Order
from longcat.unpacking import parse_json

REQUESTS, JOB = "requests.npz", "job.json"
_GRACE_S, _MEETING_S, _DEADLINE_S = 5.0, 300.0, 7 * 24 * 3600.0


@dataclass(frozen=True)
class Limits:
    """How batches are made, see `longcat.inference.batches.plan`."""

    rows: int
    tokens: int
    alone_from: int


@dataclass(frozen=True)
class _Job:
    checkpoint: str
    accelerator: Kind
    precision: Precision
    limits: Limits
    directory: str


def score_over_ranks(
    checkpoint: OpenCheckpoint,
    fitted: Sequence[Fitted],
    limits: Limits,
    processes: int,
    on_done: Callable[[int], None],
) -> dict[int, Score]:
    """Score requests in several processes of this machine, one on each device.

    Args:
        checkpoint: of a folder, which every process opens.
        fitted: requests that `longcat.inference.batches.fit` has cut.
        limits: of the batches.
        processes: how many.
        on_done: hears how many requests are answered.

    Returns:
        The score of each request that is not empty, by its number.

    Raises:
        TrainingError: a process failed; the message has its rank and the cause.
        UserError: the cause is a mistake of the user's.
    """
    directory = Path(tempfile.mkdtemp(prefix="longcat-likelihoods-"))
    try:
        scores = _launch(checkpoint, fitted, limits, processes, on_done, directory)
    except TrainingError:  # what the processes have said is left to be read
        raise
    except BaseException:
        shutil.rmtree(directory, ignore_errors=True)
        raise
    shutil.rmtree(directory, ignore_errors=True)
    return scores


def _launch(
    checkpoint: OpenCheckpoint,
    fitted: Sequence[Fitted],
    limits: Limits,
    processes: int,
    on_done: Callable[[int], None],
    directory: Path,
) -> dict[int, Score]:
    kind: Kind = checkpoint.device.type  # type: ignore[assignment]
    job = _Job(str(checkpoint.path), kind, checkpoint.precision, limits, str(directory))
    _write_requests(directory, fitted)
    (directory / JOB).write_text(json.dumps(asdict(job)), encoding="utf-8")
    order = Order(
        module=__name__,
        arguments=(str(directory / JOB),),
        directory=str(directory),
        processes=processes,
        environment=environment(kind, processes),
        grace_s=_GRACE_S,
        timeout_s=_MEETING_S,
    )
    launch(order, deadline_s=_DEADLINE_S, poll=lambda: on_done(_done(directory)), work="evaluation")
    scores: dict[int, Score] = {}
    for rank in range(processes):
        with np.load(directory / f"scores-{rank}.npz") as found:
            columns = (found[name].tolist() for name in ("numbers", "nats", "greedy"))
            scores |= {number: (nats, greedy) for number, nats, greedy in zip(*columns, strict=True)}
    on_done(len(scores))
    return scores


def _write_requests(directory: Path, fitted: Sequence[Fitted]) -> None:
    tokens = [token for context, continuation, _ in fitted for token in (*context, *continuation)]
    np.savez(
        directory / REQUESTS,
        tokens=np.array(tokens, np.int64),
        lengths=np.array([(len(context), len(of)) for context, of, _ in fitted], np.int64),
    )


def _read_requests(directory: Path) -> list[Fitted]:
    found: list[Fitted] = []
    with np.load(directory / REQUESTS) as stored:
        tokens, at = stored["tokens"].tolist(), 0
        for context, continuation in stored["lengths"].tolist():
            middle, end = at + context, at + context + continuation
            found.append((tuple(tokens[at:middle]), tuple(tokens[middle:end]), 0))
            at = end
    return found


def _done(directory: Path) -> int:
    return sum(int(path.read_text() or 0) for path in directory.glob("done-*"))


def _share(job: _Job, rank: int, processes: int) -> None:
    """Score this process' batches."""
    directory, limits = Path(job.directory), job.limits
    checkpoint = open_checkpoint(
        job.checkpoint, None, choose(job.accelerator), job.precision, int(os.environ["LOCAL_RANK"])
    )
    batches: list[Batch] = plan(_read_requests(directory), limits.rows, limits.tokens, limits.alone_from)
    scorer, scores = Scorer(checkpoint, limits.tokens), dict[int, Score]()
    for batch in batches[rank::processes]:
        scores |= scorer.scores(batch)
        with replacing(directory / f"done-{rank}") as stream:
            stream.write(str(len(scores)).encode())
    np.savez(
        directory / f"scores-{rank}.npz",
        numbers=np.array(list(scores), np.int64),
        nats=np.array([nats for nats, _ in scores.values()], np.float64),
        greedy=np.array([greedy for _, greedy in scores.values()], np.bool_),
    )


def main() -> NoReturn:
    """Do a process' share; a failure is written down first."""
    follow()
    content = parse_json(Path(sys.argv[1]).read_bytes())
    job = _Job(**{**content, "limits": Limits(**content["limits"])})
    rank = int(os.environ["RANK"])
    try:
        _share(job, rank, int(os.environ["WORLD_SIZE"]))
    except BaseException as error:
        sys.exit(report_failure(Path(job.directory), rank, error))
    sys.exit(0)


if __name__ == "__main__":
    main()
