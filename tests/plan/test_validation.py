"""The bars that predictions are held to, on rows that nothing was fitted on (`benchmarks/plan_validation.py` prints all)."""

import os
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
ROWS = os.environ.get("LONGCAT_PLAN_ROWS")
"""Folder with the tables of the A100 sweep, which name no licence and are no part of the repository."""


@pytest.fixture(scope="module")
def validation():
    sys.path.insert(0, str(BENCHMARKS))
    try:
        import plan_validation

        yield plan_validation
    finally:
        sys.path.remove(str(BENCHMARKS))


@pytest.fixture(scope="module")
def report(validation):
    return validation.report(Path(ROWS) if ROWS else None)


def test_b200_rows_that_were_not_fitted_are_met(report):
    found, everything = report
    held = found["b200"]["time"]["held out"]
    assert held["rows"] == 11
    assert held["median_error"] <= 0.08
    assert held["p90_error"] <= 0.20
    assert held["rank"] >= 0.9
    assert 0.8 <= held["covered"] <= 1
    assert found["b200"]["memory"]["largest_error"] <= 0.05
    assert all(one.judged.fits for one in everything["b200"]), "all of them ran"


def test_the_table_says_which_rows_were_fitted(validation):
    rows = validation.plan_rows.b200_rows()
    path = Path(__file__).parents[2] / "data/reference/plan/b200.csv"
    said = [line.rsplit(",", 1)[1] for line in path.read_text().splitlines()[1:]]
    assert said == ["fit" if row.fitted else "held out" for row in rows]


@pytest.mark.skipif(not ROWS, reason="LONGCAT_PLAN_ROWS names no folder")
def test_a100_rows_that_were_not_fitted_are_met(report):
    found, _ = report
    time, memory = found["a100"]["time"], found["a100"]["memory"]
    assert time["held out"]["median_error"] <= 0.08
    assert time["held out"]["p90_error"] <= 0.20
    assert all(one["rank"] >= 0.9 for one in time.values())
    assert memory["all"]["right"] >= 0.95
    assert memory["held out"]["false_fits"] <= 0.03
    assert memory["all"]["false_fits"] <= 0.03


def test_ranks_and_quantiles_by_hand(validation):
    assert validation.ranks([3.0, 1.0, 3.0]) == [1.5, 0.0, 1.5]
    assert validation.rank_correlation([1, 2, 3, 4], [10, 20, 30, 40]) == pytest.approx(1)
    assert validation.rank_correlation([1, 2, 3, 4], [4, 3, 2, 1]) == pytest.approx(-1)
    assert validation.quantile([0.0, 1.0, 2.0], 0.75) == pytest.approx(1.5)


def test_the_picture_is_a_png(validation, report):
    assert validation.picture(report[1]).startswith(b"\x89PNG")


def _ends(validation, monkeypatch, capsys, *arguments):
    """Return how the script ends, and what it says on the way out."""
    monkeypatch.setattr(sys, "argv", ["plan_validation.py", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        validation.main()
    return ended.value.code, capsys.readouterr().err


def test_what_cannot_be_read_or_written_is_said_in_one_line(validation, monkeypatch, capsys, tmp_path):
    code, said = _ends(validation, monkeypatch, capsys, "--rows", tmp_path / "absent")
    assert code == 2 and "it has to hold aleph_alpha_a100_layout_sweep.csv" in said
    (tmp_path / "aleph_alpha_a100_layout_sweep.csv").write_text("model,seq\n13B,2048\n")
    code, said = _ends(validation, monkeypatch, capsys, "--rows", tmp_path)
    assert code == 2 and "line 2: 'Average Step Time' is not what the sweep has there" in said
    code, said = _ends(validation, monkeypatch, capsys, "--picture", tmp_path / "absent/picture.png")
    assert code == 2 and "picture.png: No such file or directory" in said
