"""Figures that other projects and papers print of their runs, worked out again from their speeds."""

import pytest

from tests.benchmark.published import MODELS, TOLERANCE, figures

FIGURES = figures()


def owner(source):
    """Name the repository or the paper; FlagPerf's READMEs are one source."""
    return source.split(",")[0]


def test_there_are_enough_of_enough_sources():
    assert len(FIGURES) >= 40
    assert len({owner(figure.source) for figure in FIGURES}) >= 12
    assert {figure.model for figure in FIGURES} == set(MODELS)


@pytest.mark.parametrize("figure", FIGURES, ids=lambda figure: f"{figure.model}-{figure.convention}-{figure.printed}")
def test_a_published_figure_is_ours_or_explained(figure):
    assert figure.unit in ("TFLOP/s", "MFU", "HFU")
    assert figure.source
    assert (abs(figure.off) > TOLERANCE) == bool(figure.explained), f"{figure.off:+.2%}"


def test_most_figures_need_no_explanation():
    assert sum(not figure.explained for figure in FIGURES) >= 0.75 * len(FIGURES)
