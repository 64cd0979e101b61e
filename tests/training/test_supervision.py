"""How often training is launched again."""

import pytest

from longcat.config import load_config
from longcat.errors import DataError, TrainingError, WorkspaceBusyError
from longcat.lease import lease
from longcat.progress import no_progress
from longcat.training import launchers, supervision
from longcat.training.job import RESULT, Job
from longcat.training.layout import settle_layout
from longcat.training.life import read_events


@pytest.fixture
def supervise(monkeypatch, tmp_path):
    """Supervises attempts that do what the test says: `(steps of the checkpoint that they leave, how they end)`."""

    def run(*attempts, max_restarts=2, on_settled=lambda job: None):
        from longcat.accelerator import choose

        config = load_config("smoke", None, ["training.processes=1", f"training.max_restarts={max_restarts}"])
        job = Job(config.model_dump(mode="json"), settle_layout(config, choose("cpu")), "tokens", str(tmp_path))
        begun = []

        def launch(order, **_):
            begun.append(order.attempt)
            step, end = attempts[len(begun) - 1]
            if step:
                (tmp_path / "checkpoints" / f"step-{step:08d}").mkdir(parents=True, exist_ok=True)
            if end == "done":
                (tmp_path / RESULT).touch()
            elif end is not None:
                raise end

        monkeypatch.setattr(launchers, "launch", launch)
        try:
            supervision.supervise("module", job, config, no_progress, lambda _: None, on_settled)
        except Exception as error:
            return begun, error
        return begun, None

    return run


def failure(number):
    return TrainingError(f"failure {number}")


def test_failures_in_a_row_without_a_newer_checkpoint_end_a_run(supervise):
    begun, error = supervise((4, failure(1)), (0, failure(2)), (0, failure(3)), (4, failure(4)))
    assert begun == [0, 1, 2, 3]
    assert str(error) == "failure 4"


def test_a_newer_checkpoint_makes_up_for_failures(supervise):
    ends = [(step, failure(step)) for number in range(1, 6) for step in (number, 0, 0)]
    begun, error = supervise(*ends, (0, "done"))
    assert len(begun) == 16
    assert error is None


def test_two_losses_in_one_start_up_do_not_end_a_run(supervise):
    assert supervise((0, failure(1)), (0, failure(2)), (0, "done"))[1] is None


def test_processes_that_somebody_asks_to_leave_are_launched_again(supervise):
    assert supervise((3, None), (0, None), (0, "done")) == ([0, 1, 2], None)


def test_every_attempt_is_told_before_it_begins(supervise):
    told = []
    assert supervise((3, None), (0, "done"), on_settled=lambda job: told.append(job.attempt)) == ([0, 1], None)
    assert told == [0, 1]


def test_processes_that_always_leave_end_a_run(supervise):
    begun, error = supervise((0, None), (0, None), max_restarts=1)
    assert begun == [0, 1]
    assert "asked to leave before its last step" in str(error)


def test_a_user_error_ends_a_run_at_once(supervise):
    begun, error = supervise((4, DataError("bad")))
    assert begun == [0]
    assert type(error) is DataError


def test_whoever_has_lost_the_workspace_starts_nothing_again(supervise, tmp_path):
    def lose(job):
        (tmp_path / ".lease").write_text('{"token": "theirs", "pid": 1, "host": "elsewhere"}')

    with lease(tmp_path / ".lease"):
        begun, error = supervise((0, failure(1)), (0, "done"), on_settled=lose)
    assert begun == [0]
    assert isinstance(error, WorkspaceBusyError)
    assert read_events(tmp_path) == []


def test_a_failure_after_the_result_is_none(supervise, tmp_path):
    (tmp_path / RESULT).touch()
    assert supervise() == ([], None)
