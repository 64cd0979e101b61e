"""Where what a process printed is, and how it is cited."""

import pytest

from longcat.processes.logs import cite, log_of_rank, logs_of, new_start, pattern_of


def test_starts_are_counted_on_and_keep_what_was_printed(tmp_path):
    assert new_start(tmp_path) == 1
    log_of_rank(logs_of(tmp_path, 1), 0, "").write_text("said\n")
    log_of_rank(logs_of(tmp_path, 1), 1, "").touch()
    (tmp_path / "logs/start-of-somebody-else").mkdir()
    assert new_start(tmp_path) == 2
    assert [file.name for file in logs_of(tmp_path, 1).iterdir()] == ["rank-0.log"]
    (tmp_path / "logs/start-10000").mkdir()
    assert new_start(tmp_path) == 10001


def test_the_node_of_a_rank_is_looked_up(tmp_path):
    for name in ("rank-1-a-1.log", "rank-11-b.log", "rank-2.log"):
        (tmp_path / name).touch()
    assert log_of_rank(tmp_path, 1, "").name == "rank-1-a-1.log"
    assert log_of_rank(tmp_path, 2, "").name == "rank-2.log"
    assert log_of_rank(tmp_path, 2, "b").name == "rank-2-b.log"
    assert pattern_of(tmp_path, "b") == f"{tmp_path}/*-b.log"


@pytest.mark.parametrize(
    ("text", "cited"),
    [
        (b"", " (nothing was printed)"),
        (b"\n \n", " (nothing was printed)"),
        (b"one\n\n  two  \n", ", which ends with: one | two"),
        (b"x" * 5000 + b"\n1\n2\n3", ", which ends with: 1 | 2 | 3"),
        (b"y" * 5000, f", which ends with: {'y' * 200}"),
        (b"\xff", ", which ends with: \ufffd"),
    ],
)
def test_the_last_lines_are_cited_in_one_line(tmp_path, text, cited):
    (tmp_path / "log").write_bytes(text)
    assert cite(tmp_path / "log") == f"see {tmp_path}/log{cited}"


def test_a_log_that_is_not_there_is_named(tmp_path):
    assert cite(tmp_path / "none") == f"see {tmp_path}/none"
