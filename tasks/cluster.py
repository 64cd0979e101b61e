"""Preprocessing on a cluster: every block is a Prefect task, scheduled by the task runner of Dask or Ray.

All machines need longcat, and see the workspace and the corpus under the same paths. Whoever can reach such a cluster can
run code on it, so it is trusted as the network between nodes is.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.context import TaskRunContext
from prefect.task_runners import TaskRunner

from longcat.config import CorpusConfig
from longcat.corpus.mapping import Mapper, in_order, processes
from longcat.distribution import install_command
from longcat.errors import ConfigError
from longcat.processes.child import without_script

_PENDING = 256
"""Blocks submitted at once, so that the workers of the cluster always have some queued."""


@task(name="block", cache_policy=NO_CACHE, persist_result=False)
def _call(work: Callable[[], Any]) -> Any:
    return work()


@contextmanager
def mapper_for(corpus: CorpusConfig) -> Iterator[Mapper]:
    """Open the mapper that `corpus.runner` names.

    Raises:
        ConfigError: the package of that runner is not installed.
    """
    if corpus.runner == "processes":
        with processes(corpus.workers, corpus.hang_timeout_s) as mapper:
            yield mapper
        return
    with without_script(), _runner(corpus) as runner:  # Dask's processes would run it, also those that replace others

        def mapper(function: Callable[[Any], Any], items: Iterable[Any]) -> Generator[Any, None, None]:
            return in_order(lambda item: _submit(runner, function, item), items, _PENDING)

        yield mapper


def _submit(runner: TaskRunner[Any], function: Callable[[Any], Any], item: Any) -> Any:
    # Prefect would send the parameters of the task that this one is started by, an open tracker among them
    hidden = TaskRunContext.__var__.set(None)
    try:
        # as one callable: Prefect and Dask would take an item apart and look for futures in it
        return runner.submit(_call, parameters={"work": partial(function, item)})
    finally:
        TaskRunContext.__var__.reset(hidden)


def _watch_dask(hang_timeout_s: float) -> None:
    """Have the scheduler of a cluster that is started here replace workers that it no longer hears of; 0 never."""
    import dask

    dask.config.set({"distributed.scheduler.worker-ttl": f"{hang_timeout_s} s" if hang_timeout_s else None})


def _runner(corpus: CorpusConfig) -> TaskRunner[Any]:
    try:
        if corpus.runner == "dask":
            from prefect_dask.task_runners import DaskTaskRunner

            if corpus.cluster:
                return DaskTaskRunner(address=corpus.cluster)
            _watch_dask(corpus.hang_timeout_s)
            return DaskTaskRunner(
                cluster_kwargs={"n_workers": corpus.workers or None, "threads_per_worker": 1, "dashboard_address": None}
            )
        from prefect_ray.task_runners import RayTaskRunner

        return RayTaskRunner(address=corpus.cluster, init_kwargs={"num_cpus": corpus.workers or None})
    except ImportError as error:
        raise ConfigError(
            f"corpus.runner={corpus.runner} needs a package that is missing ({error}): {install_command(corpus.runner)}"
        ) from None
