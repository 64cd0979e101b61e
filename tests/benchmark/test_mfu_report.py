"""The pages: whole, standing alone, and with what was measured in them."""

from html.parser import HTMLParser

import pytest

from longcat.benchmark import plots
from longcat.benchmark.mfu_answer import Run, answer
from longcat.benchmark.report import html, markdown, published, write
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
            "plain_seconds": [1.6, 1.5, 1.7], "profiled_seconds": [1.9, 2.1],
            "step_seconds": 2.0, "steps": 2, "hidden_communication": 0.1,
            "parts": {"compute": 1.0, "exposed_communication": 0.5, "optimizer": 0.25, "data_wait": 0.05, "other": 0.2},
            "timelines": [{
                "rank": 0, "stage": 0, "seconds": 2.0, "computing": [[0.0, 1.0]], "updating": [[1.5, 1.75]],
                "sending": {"shard": [[0.5, 1.4]]}, "waiting": {"shard": [[1.0, 1.4]]}, "waiting_shares": {"shard": 0.2},
            }],
        },
        "operators": {
            "bandwidth": 1e12,
            "kernels": [
                {"name": "GEMM 512", "shape": "512", "seconds": 0.25, "flops_per_second": 1e14, "intensity": 170.0},
                {"name": "attention, forward", "shape": "4", "seconds": 2e-3, "flops_per_second": 1e13, "intensity": 9.0},
            ],
        },
        "collectives": {
            "needs": [{"axis": "shard", "name": "all_gather", "splits": "even", "ranks": 2, "messages": 2, "bytes": 2**21, "link_bytes": 2e6}],
            "measured": [{"axis": "shard", "name": "all_gather", "splits": "even", "bytes": 2**20, "ranks": 2, "bus_bandwidth": 3.21e9}],
        },
        "axes": [{
            "axis": "shard", "ranks": 2, "scope": "inside a node", "messages": 2, "link_bytes": 2e6, "formula_bytes": None,
            "seconds": 0.0123, "bus_bandwidth": 3.21e9, "step_share": 0.0456, "exposed_share": 0.0789,
        }],
        "layout": {
            "degrees": {"processes": 2, "expert": 2},
            "whole": {"layers": 4, "rows": 8, "tokens": 64, "heads": 2, "experts": 4, "table_rows": 0},
        },
        "step_seconds": 0.27, "bottleneck": "The bottleneck is the axis shard.",
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


@pytest.fixture
def judged(given_run):
    """A run of a mixture with all that a comparison can say."""
    rows = [
        ("Mixture-A, 8 experts", 0.344, 1536, "A800 SXM 80GB", "Someone et al. 2024 (arXiv 1)", True),
        ("Mixture-B", 0.385, 8, "A800 SXM 80GB", "an/owner, README.md", True),
        ("Mixture-C", 0.079, 8, "A100 SXM, memory not stated", "an/owner, README.md", False),
        ("Mixture-D", 0.206, None, "A100 SXM 40GB", "another/owner, README.md", False),
    ]
    named = [
        {"model": model, "mfu": mfu, "devices": devices, "device": device, "source": source, "fair": fair}
        for model, mfu, devices, device, source, fair in rows
    ]
    first, second, *_ = given_run["comparison"]["matches"]
    own = {"row_mfu_own_convention": 0.381, "own_mfu_own_convention": 0.32, "ratio_own_convention": 0.84}
    matches = [
        first | own | {"ratio": 1.12, "says": "straddles", "differences": [], "notes": ["recomputation full"], "convention": "palm"},
        second | own | {"ratio": 0.7, "says": "outside", "differences": ["in <fp8>"], "notes": [], "convention": "six_n_all"},
    ]  # fmt: skip
    verdicts = [
        {"peak_flops": peak, "peak_source": source, "mfu": mfu, "ratio": ratio, "word": word, "within": 1}
        for peak, source, mfu, ratio, word in (
            (353.9e12, "cube units", 0.31, 0.96, "within"), (400e12, "a data sheet", 0.274, 0.84, "outside"),
        )
    ]  # fmt: skip
    distribution = {
        "kind": "moe", "rows": named, "own_mfu": 0.31, "percentile": 50.0, "median": 0.275, "low": 0.079, "high": 0.385,
        "needed_mfu": 0.23375, "needed_tokens_per_second": 18123.4, "median_of": "the fair rows",
    }  # fmt: skip
    return given_run | {
        "kind": "moe",
        "comparison": given_run["comparison"] | {
            "fair": True, "matches": matches, "verdicts": verdicts, "distribution": distribution,
        },
        "doubts": ["the log's <MFU> and ours are 42 times apart"],
        "assumptions": ["each sample has 4096 tokens"],
        "cross_check": {
            "told": "MFU 1.2 %", "told_tflops": 3.7, "own_tflops": 156.6, "convention": "palm", "ratio": 41.8,
            "cause": "the <sequence> length",
        },
        "log": {"kind": "Megatron", "readings": 12, "spread": 0.034, "tokens_from": "batch x length"},
        "remarks": ["a device is one of the 2 dies"],
    }  # fmt: skip


class Outline(HTMLParser):
    """Headings, anchors, links to them and to elsewhere, and tags left open."""

    def __init__(self, page):
        super().__init__()
        self.headings, self.outside, self.open, self.anchors, self.links = [], [], [], [], []
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        for name, value in attributes:
            if name == "id":
                self.anchors.append(value)
            elif name == "href" and value.startswith("#"):
                self.links.append(value[1:])
            elif name in ("src", "srcset", "href") and not value.startswith("data:"):
                self.outside.append(value)
        if tag not in ("meta", "img", "br", "source"):
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
    for heading in (
        "Time of a training step",
        "Timeline of a step",
        "Layout: which rank holds what",
        "Speed of the kernels",
        "Communication by axis",
        "Sweep of settings",
    ):
        assert heading in outline.headings
    assert page.count("data:image/svg+xml;base64,") == 2 * 9
    assert "an &lt;A100&gt;" in page and "<A100>" not in page
    assert "out of &lt;memory&gt;" in page
    for figure in (
        "3.21 GB/s",
        "12.3 ms",
        "4.6%",
        "7.9%",
        "83",
        "25.0%",
        "1,500",
    ):  # an axis; exposed fraction; weights in MB
        assert figure in page


def test_a_run_of_which_only_the_speed_is_known(given_run):
    page = html(given_run)
    outline = Outline(page)
    assert outline.open == []
    assert not {"Communication by axis", "Timeline of a step"} & set(outline.headings)
    assert page.count("data:image/svg+xml;base64,") == 2
    for row in given_run["comparison"]["matches"]:
        assert row["model"] in page
        assert row["source"] in page


def test_a_verdict_leads_to_its_rows(judged):
    page = html(judged)
    outline = Outline(page)
    assert outline.outside == outline.open == []
    assert {"row-1", "row-2", "source-1", "verdict", "distribution"} <= set(outline.anchors)
    assert len(outline.anchors) == len(set(outline.anchors))
    assert set(outline.links) <= set(outline.anchors), "every link has its place on the page"
    assert {"row-1", "row-2"} <= set(outline.links)


def test_the_table_of_contents_has_every_section(measured, judged):
    for result in (measured, judged):
        outline = Outline(html(result))
        contents = [link for link in outline.links if not link.startswith(("row-", "source-"))]
        sections = [anchor for anchor in outline.anchors if not anchor.startswith(("row-", "other-", "source-"))]
        sections += [anchor for anchor in outline.anchors if anchor == "other-devices"]
        assert sorted(contents) == sorted(sections)
        assert len(outline.headings) == len(contents)


def test_what_a_comparison_says_is_on_both_pages(judged):
    page, short = html(judged), markdown(judged, b"")
    for text in (page, short):
        for figure in (
            "353.9",
            "400",
            "27.4%",
            "outside 15 %",
            "percentile 50",
            "23.4%",
            "18,123 tokens/s",
            "each sample has 4096",
        ):
            assert figure in text, figure
        assert "MFU 1.2 %" in text and "156.6 TFLOP/s" in text and "length" in text and "41.8 times" in text
        assert "one of the 2 dies" in text
    assert "42 times apart" in short
    # what the verdict itself says is not said twice
    doubted = judged | {"comparison": judged["comparison"] | {"verdict": f"no verdict: {judged['doubts'][0]}"}}
    assert html(doubted).count("42 times apart") == markdown(doubted, b"").count("42 times apart") == 1
    # a row: causal ratio, that of its own convention, what it says, differences and notes
    for figure in ("1.12", "0.84", "38.1%", "depends on the count", "in &lt;fp8&gt;", "recomputation full", "palm"):
        assert figure in page, figure
    assert "median of 12 readings" in page
    assert "the log&#39;s &lt;MFU&gt; and ours" in page


def test_a_page_without_what_a_comparison_could_say(judged):
    bare = {
        key: value
        for key, value in judged.items()
        if key not in ("doubts", "assumptions", "cross_check", "log", "remarks")
    }
    rows = [
        {name: value for name, value in row.items() if name not in ("says", "notes", "ratio_own_convention")}
        for row in judged["comparison"]["matches"]
    ]
    for missing in ("distribution", "verdicts"):
        comparison = judged["comparison"] | {missing: None, "matches": rows}
        assert Outline(html(bare | {"comparison": comparison})).open == []
        del comparison[missing]
        assert Outline(html(bare | {"comparison": comparison})).open == []
        assert markdown(bare | {"comparison": comparison}, b"")


def test_a_run_on_a_cpu_is_not_set_beside_a100s(measured):
    nothing = {"fair": False, "matches": [], "other_devices": [], "ratio": None, "ratio_low": None, "ratio_high": None}
    products = {
        "alone": 0.359e12, "alone_name": "head (4 x 5 x 6)", "together": 0.2e12, "processes": 2, "moments": None,
        "disagreement": "the products disagree by more than 25 %",
    }  # fmt: skip
    measured |= {"comparison": nothing | {"verdict": "CPU run"}, "peak_measured": True, "measured_gemm_flops": 0.359e12}
    page = html(measured | {"products": products})
    outline = Outline(page)
    assert "row-1" not in outline.anchors
    assert "This run is left out" in page
    assert "ratio" not in {cell.strip() for cell in page.replace("<", ">").split(">")}
    assert "0.359 TFLOP/s by one process alone, head (4 x 5 x 6); 0.2 TFLOP/s by 2 processes at once" in page
    assert "The products disagree by more than 25 %." in page
    axes = published(measured).axes[0]
    assert "this run" not in axes.get_legend_handles_labels()[1]
    assert "| A100 run" not in markdown(measured, b"")
    assert "| shard | 2 | 2 MB | 12.3 ms | 4.6% | 7.9% |" in markdown(measured, b"")


def test_the_profiler_is_compared_with_steps_of_the_same_minute(measured):
    page = html(measured)
    assert "2 steps under the profiler and 3 plain steps took turns: 2,000.0 ms with it, 1,600.0 ms without" in page
    assert "a ratio of 1.25" in page
    # windows of [1.0, 1.1] seconds and 4 steps
    assert "took 262.5 ms per step: more than 25 % apart" in page
    assert "apart from the plain" not in html(measured | {"window_steps": 1, "window_seconds": [1.5, 1.6]})


def test_a_distribution_names_few_rows_and_counts_many(judged):
    found = judged["comparison"]["distribution"]
    few = plots.distribution(found).axes[0]
    names = {text.get_text() for text in few.texts}
    assert {"Mixture-A, 8 experts, 1536 × A800", "Mixture-D, A100", "this run, 31.0 %"} <= names
    band = next(patch for patch in few.patches if patch.get_label().startswith("within"))
    assert band.get_x() == pytest.approx(23.375)
    many = [
        row | {"source": f"source {number % 12}", "mfu": 0.3 + number / 1000}
        for number in range(100)
        for row in found["rows"][:1]
    ]
    axes = plots.distribution(found | {"rows": many}).axes[0]
    assert sum(patch.get_height() for patch in axes.patches if patch is not axes.patches[0]) == 100
    labels = axes.get_legend_handles_labels()[1]
    assert any(label.startswith("other sources (") for label in labels), "twelve sources share seven colours"
    narrow = plots.distribution(found, narrow=True)
    assert narrow.get_figwidth() < plots.distribution(found).get_figwidth()
    assert "this run" not in str(plots.distribution(found | {"own_mfu": None}).axes[0].texts)


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
