"""The process server of the tests: results, failures, hangs and ends."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest
import torch
import torch.distributed as dist

from longcat.parallel.axes import Degrees
from tests.parallel.ranks import Ranks, RanksFailed
from tests.waiting import all_gone, wait_until

pytestmark = pytest.mark.slow


def rank_and_world():
    return os.environ["RANK"], os.environ["WORLD_SIZE"], os.environ.get("COLOUR")


def total(mesh, factor):
    return float(mesh.sum({"losses": torch.tensor(factor * (mesh.rank + 1))})["losses"])


def fail_on(rank, how):
    if int(os.environ["RANK"]) != rank:
        return
    print("said before the end")
    if how == "raise":
        raise ValueError("this is why")
    if how == "abort":
        os.abort()
    time.sleep(1000)


def wait_for_rank_1(mesh):
    if mesh.rank == 1:
        raise ValueError("this is why")
    dist.all_reduce(torch.ones(1))


def leave_a_trace(file):
    Path(file).write_text(str(os.getpid()))
    time.sleep(1000)


def test_results_come_back_in_the_order_of_ranks(ranks):
    found = ranks.run(3, rank_and_world, environment={"COLOUR": "blue"})
    assert found == [(str(rank), "3", "blue") for rank in range(3)]
    assert ranks.run(1, rank_and_world) == [("0", "1", None)]  # nothing stays from one case to the next


@pytest.mark.parametrize("threads", [False, True])
def test_ranks_have_a_mesh(ranks, threads):
    assert ranks.on_mesh(Degrees(2), total, 2.0, threads=threads) == [6.0, 6.0]


def test_sixteen_ranks_as_threads(ranks):
    assert ranks.on_mesh(Degrees(16, 8), total, 1.0, threads=True) == [136.0] * 16


@pytest.mark.parametrize("threads", [False, True])
def test_a_rank_that_fails_is_named_with_its_reason(ranks, threads):
    with pytest.raises(RanksFailed, match=r"(?s)rank 1\b.*ValueError: this is why"):
        ranks.on_mesh(Degrees(2), wait_for_rank_1, threads=threads)


@pytest.mark.parametrize(
    ("how", "code", "said"),
    [("raise", 1, "ValueError: this is why"), ("abort", -signal.SIGABRT, ""), ("hang", "hung", "in fail_on")],
)
def test_a_rank_that_ends_otherwise_is_shown(ranks, how, code, said):
    with pytest.raises(RanksFailed) as caught:
        ranks.run(2, fail_on, 1, how, limit_s=3)
    assert caught.value.codes == [0, code]
    assert "said before the end" in str(caught.value)
    assert said in str(caught.value)


def process_and_fail(mesh, rank, how):
    if mesh.rank == rank:
        fail_on(rank, how)
    return os.getpid(), float(mesh.sum({"losses": torch.tensor(1.0)})["losses"])


@pytest.fixture(scope="module")
def own():
    """Ranks that no other module has had."""
    with Ranks() as ranks:
        yield ranks


@pytest.mark.parametrize(("how", "code"), [("raise", 1), ("abort", -signal.SIGABRT), ("hang", "hung")])
def test_processes_stay_for_other_layouts_until_one_fails(own, how, code):
    first = own.on_mesh(Degrees(2), process_and_fail, None, None, stay=True)
    again = own.on_mesh(Degrees(2, replicate=2), process_and_fail, None, None, stay=True)
    alone = own.on_mesh(Degrees(2), process_and_fail, None, None)
    assert first == again == [(process, 2.0) for process, _ in first]
    assert not {process for process, _ in alone} & {process for process, _ in first}
    with pytest.raises(RanksFailed, match=r"rank 1\b(?s:.*)said before the end") as caught:
        own.on_mesh(Degrees(2), process_and_fail, 1, how, stay=True, limit_s=4 if how == "hang" else 60, timeout_s=5)
    assert caught.value.codes[1] == code
    later = own.on_mesh(Degrees(2), process_and_fail, None, None, stay=True)
    assert [of for _, of in later] == [2.0, 2.0]
    assert not {process for process, _ in later} & {process for process, _ in first}


def test_ranks_end_with_the_test_session(tmp_path):
    """Killed without a chance to clean up, a session leaves neither server nor ranks."""
    file = tmp_path / "rank"
    program = (
        f"from tests.parallel import ranks, test_ranks\nranks.Ranks().run(1, test_ranks.leave_a_trace, {str(file)!r})"
    )
    session = subprocess.Popen([sys.executable, "-c", program])
    wait_until(lambda: file.exists() and file.read_text(), session)
    children = psutil.Process(session.pid).children(recursive=True)
    assert int(file.read_text()) in [child.pid for child in children]
    session.kill()
    session.wait()
    assert all_gone(children)


def test_after_an_interrupted_case_the_next_one_has_its_own_results(tmp_path):
    file = tmp_path / "rank"
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it

    def interrupt():
        wait_until(lambda: file.exists() and file.read_text())
        os.kill(os.getpid(), signal.SIGINT)

    with Ranks() as own:
        own.run(1, rank_and_world)  # its server takes long to start on a busy machine
        watching = threading.Thread(target=interrupt)
        watching.start()
        with pytest.raises(KeyboardInterrupt):
            own.run(1, leave_a_trace, str(file))
        watching.join()
        signal.signal(signal.SIGINT, before)
        assert own.run(1, rank_and_world) == [("0", "1", None)]
