"""The pages: whole, standing alone, and with what was measured in them."""

from html.parser import HTMLParser

import pytest

from longcat.benchmark.mfu_answer import Run, answer
from longcat.benchmark.report import html, markdown, write
from longcat.costs.decoder import sized_workload

WORKLOAD = sized_workload(7e9, layers=32, hidden_size=4096, vocabulary=32000)


@pytest.fixture
def given_run():
    found = answer(WORKLOAD, Run("a100-80gb", devices=8, sequence_length=2048), 24e3)
    return found | {"device_name": "an <A100>"}


@pytest.fixture
def measured(given_run):
    row = {
        "micro_batch_sequences": 0,
        "sequence_length_tokens": 2048,
        "activation_checkpointing": "none",
        "processes": 2,
    }
    return given_run | {
        "processes": 2, "batch_tokens": 4096, "window_seconds": [1.0, 1.1], "window_steps": 4, "spread": 0.1,
        "device_kind": "cpu", "peak_memory_bytes": 5e9,
        "breakdown": {
            "step_seconds": 2.0, "steps": 2, "hidden_communication": 0.1,
            "parts": {"compute": 1.0, "exposed_communication": 0.5, "optimizer": 0.25, "data_wait": 0.05, "other": 0.2},
        },
        "operators": {
            "bandwidth": 1e12,
            "kernels": [
                {"name": "GEMM 512", "shape": "512", "seconds": 0.25, "flops_per_second": 1e14, "intensity": 170.0},
                {"name": "attention, forward", "shape": "4", "seconds": 2e-3, "flops_per_second": 1e13, "intensity": 9.0},
            ],
        },
        "collectives": [
            {"name": "all_reduce", "bytes": 2**20, "ranks": 2, "seconds": 1e-3, "scope": "inside a node", "bus_bandwidth": 3.21e9}
        ],
        "memory": {"weights": 1_500_000_000, "rest": 500_000_000, "peak": 2_000_000_000},
        "sweep": [
            row | {"tokens_per_second": 100.0, "mfu": 0.3, "peak_memory_bytes": 2e9, "pareto": True},
            row | {"activation_checkpointing": "full", "error": "out of <memory>", "pareto": False},
        ],
        "scaling": [
            {"processes": 1, "tokens_per_second": 60.0, "efficiency": 1.0},
            {"processes": 2, "tokens_per_second": 100.0, "efficiency": 0.833},
        ],
    }  # fmt: skip


class Outline(HTMLParser):
    """Headings, links to elsewhere, and tags left open."""

    def __init__(self, page):
        super().__init__()
        self.headings, self.outside, self.open = [], [], []
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        for name, value in attributes:
            if name in ("src", "href") and not value.startswith("data:"):
                self.outside.append(value)
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] == "h2":
            self.headings.append(data)


def test_a_measured_run(measured):
    page = html(measured)
    outline = Outline(page)
    assert outline.outside == outline.open == []
    for heading in ("Time of a training step", "Speed of the kernels", "Collectives", "Sweep of settings"):
        assert heading in outline.headings
    assert page.count("data:image/svg+xml;base64,") == 6
    assert "an &lt;A100&gt;" in page and "<A100>" not in page
    assert "out of &lt;memory&gt;" in page
    for figure in ("3.21", "83", "25.0%", "1,500"):  # bus GB/s; exposed fraction; weights in MB
        assert figure in page


def test_a_run_of_which_only_the_speed_is_known(given_run):
    page = html(given_run)
    outline = Outline(page)
    assert outline.open == []
    assert "Collectives" not in outline.headings
    assert page.count("data:image/svg+xml;base64,") == 1
    for row in given_run["comparison"]["matches"]:
        assert row["model"] in page
        assert row["source"] in page


def test_without_a_peak(given_run):
    unknown = given_run | {"mfu": None, "mfu_full_attention": None, "hfu": None, "peak_flops": None}
    unknown |= {"mfu_by_convention": {}, "comparison": given_run["comparison"] | {"matches": [], "verdict": "no peak"}}
    assert "not known for this device" in html(unknown)
    assert "| n/a |" in markdown(unknown, b"")


def test_the_same_result_gives_the_same_page(measured, tmp_path):
    assert html(measured) == html(measured)
    write(measured, tmp_path)
    assert (tmp_path / "mfu.png").read_bytes().startswith(b"\x89PNG")
    text = (tmp_path / "report.md").read_text()
    assert "| exposed communication | 25.0% |" in text
    assert measured["comparison"]["verdict"][1:] in text
    assert "![MFU](data:image/png;base64,iVBOR" in text
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert max(map(len, rows)) < 120, "Prefect breaks no lines of a table: what is behind the edge is not seen"
