"""Which rows are fair, what decides, and what is said."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from longcat.accelerator import Accelerator
from longcat.benchmark.comparison import compare
from longcat.benchmark.matching import Subject
from longcat.benchmark.references import references
from longcat.benchmark.verdict import PublishedPeak
from longcat.config import load_config
from longcat.costs.mfu import Speed, utilisation
from longcat.costs.workload import longcat_workload
from longcat.errors import DataError
from longcat.peak import measured_gemm_flops, peak


def device(kind, name):
    return Accelerator(kind, name, count=8, memory_bytes=1, supports_bf16=True)


def test_a_cpus_peak_is_measured_and_said_so(tmp_path):
    found = peak(device("cpu", "some CPU"), "fp32", tmp_path)
    assert found.measured
    assert "measured" in found.source
    assert found.flops == measured_gemm_flops("fp32") > 1e9


def run(row, **changes):
    """A run just like a published row."""
    values = {
        "kind": row.kind, "activated_parameters": row.activated_parameters, "devices": row.devices,
        "sequence_length": row.sequence_length, "precision": row.precision, "tflops_per_device": 312 * row.causal_mfu,
        "mfu_by_convention": {row.convention: row.mfu, "longcat": row.causal_mfu},
        "recomputation": row.recomputation or "none", "several_nodes": row.devices > 8,
    }  # fmt: skip
    return Subject(**(values | changes))


def a_row(**changes):
    row = next(row for row in references() if (row.model, row.devices, row.sequence_length) == ("MPT-7b", 8, 2048))
    return replace(row, **changes)


def a_row_of(mfu, **changes):
    """A row with this MFU by llm-foundry's count, which follows from its speed."""
    row = a_row()
    return a_row(
        published_mfu=mfu, tokens_per_second_per_device=row.tokens_per_second_per_device * mfu / row.mfu, **changes
    )


A100 = [
    row for row in references() if row.mfu and row.device.startswith(("A100", "A800")) and row.task != "fine-tuning"
]


@given(st.sampled_from([row for row in A100 if row.causal_mfu]))
def test_a_published_run_equals_itself(row):
    found = compare(run(row), accelerator=True, count=1, rows=[row])
    guessed = "sequence_length" in row.guessed
    assert found.fair == (not guessed)
    (match,) = found.matches
    assert match.ratio == pytest.approx(1)
    assert match.speed_ratio == pytest.approx(312 / row.peak_tflops)
    if row.kind == "dense" and found.fair:
        assert f"the MFU is 1.00 of that of {row.model} on {row.devices} x {row.device}" in found.verdict


def test_only_rows_like_the_run_are_fair():
    row = a_row()
    found = compare(run(row), accelerator=True, count=6)
    assert found.fair
    for match in found.matches:
        assert match.row.kind == "dense"
        assert match.row.activated_parameters / row.activated_parameters < 4
        assert match.row.sequence_length / row.sequence_length <= 4
        assert match.row.devices / row.devices <= 8


@pytest.mark.parametrize(
    ("changes", "difference"),
    [
        ({"kind": "moe"}, "dense"),
        ({"precision": "fp8"}, "in bf16"),
        ({"activated_parameters": 69e12}, "1/10,"),
        ({"devices": 800}, "1/100 of the devices"),
        ({"devices": 0.5}, "16 x the devices"),
        ({"sequence_length": 2048 * 32}, "1/32 of the sequence length"),
        ({"fine_tuning": True}, "pre-training, not fine-tuning"),
    ],
)
def test_what_makes_a_row_unfair_is_said(changes, difference):
    found = compare(run(a_row(), **changes), accelerator=True, count=2, rows=[a_row()])
    assert not found.fair
    (said,) = found.matches[0].differences
    assert said.startswith(difference)
    if "kind" not in changes:
        assert found.verdict.startswith(
            "no fair A100 row is published: the nearest, MPT-7b on 8 x A100 SXM 80GB, differs: "
        )
        assert "no evidence" in found.verdict


def test_a_guessed_length_and_another_task_are_not_fair():
    for changes, said in (
        ({"guessed": ("sequence_length",)}, "only guessed"), ({"task": "fine-tuning"}, "fine-tuning"),
    ):  # fmt: skip
        (match,) = compare(run(a_row()), accelerator=True, count=2, rows=[a_row(**changes)]).matches
        assert said in match.differences[0]
    tuned = compare(run(a_row(), fine_tuning=True), accelerator=True, count=2, rows=[a_row(task="fine-tuning")])
    assert tuned.fair


def rows_of(*mfus, **changes):
    return [a_row_of(mfu, table=str(number), **changes) for number, mfu in enumerate(mfus)]


def of(mfu, **changes):
    """A run like the row, with another MFU by llm-foundry's count and, as long, causally."""
    row = a_row()
    causal = row.causal_mfu * mfu / row.mfu
    given = {"mfu_by_convention": {row.convention: mfu, "longcat": causal}, "tflops_per_device": 312 * causal}
    return run(row, **(given | changes))


def test_verdicts_are_those_of_the_rows():
    rows = rows_of(0.40, 0.42, 0.50, 0.60)

    def found(mfu, **options):
        return compare(of(mfu), count=4, rows=rows, **options)

    assert found(0.55, accelerator=True).word == "within"
    assert found(0.55, accelerator=True).verdict.startswith("within 15 %")
    assert "4 of 4 say within" in found(0.55, accelerator=True).verdict
    assert found(0.30, accelerator=True).verdict.startswith("outside 15 %")
    assert found(0.40, accelerator=True).verdict.startswith("undecided")
    assert "0.67 to 1.00 over 4 rows" in found(0.40, accelerator=True).verdict


def test_a_cpu_is_compared_with_nothing():
    found = compare(of(0.4), accelerator=False, count=4)
    assert found.verdict.startswith("CPU run")
    assert (found.ratio, found.matches, found.distribution, found.word) == (None, (), None, "none")


@pytest.mark.parametrize("count", [1, 2])
def test_one_or_two_rows_are_no_verdict(count):
    found = compare(of(0.4), accelerator=True, count=6, rows=rows_of(*[0.5] * count))
    assert found.fair
    assert found.ratio == pytest.approx(0.8)
    assert found.word == "none"
    assert found.verdict.startswith("too few fair A100 rows for a verdict")
    assert f"0 of {count} would say within 15 %" in found.verdict


def test_both_runs_are_counted_in_one_way_and_a_straddled_claim_is_said():
    """Half of our FLOP are scores, which 6 N leaves out: one run is 0.80 by the row's count and 1.10 by ours."""
    rows = rows_of(0.5, 0.5, 0.5)
    causal = rows[0].causal_mfu
    ours = of(0.4, mfu_by_convention={"llm_foundry": 0.4, "longcat": 1.1 * causal})
    found = compare(ours, accelerator=True, count=6, rows=rows)
    for match in found.matches:
        assert match.ratio == pytest.approx(1.1)
        assert match.ratio_own_convention == pytest.approx(0.8)
        assert match.says == "straddles"
    assert found.word == "undecided"
    assert "3 straddle the claim" in found.verdict


def test_a_figure_of_ours_does_not_replace_a_published_one():
    """The row prints 0.60; from its speed follows 0.40. Both are read, and neither alone decides."""
    rows = [replace(row, published_mfu=0.60, reason="of another N") for row in rows_of(0.40, 0.40, 0.40)]
    found = compare(of(0.40), accelerator=True, count=6, rows=rows)
    (match, *_) = found.matches
    assert match.ratio == pytest.approx(1, rel=1e-3)
    assert match.ratio_own_convention == pytest.approx(0.40 / 0.60, rel=1e-3)
    assert min(match.ratios) == pytest.approx(0.40 / 0.60, rel=1e-3)
    assert found.word == "undecided"


def test_every_published_peak_has_its_verdict():
    rows = rows_of(0.5, 0.5, 0.5)
    peaks = [
        PublishedPeak(312e12, "cube"),
        PublishedPeak(1.1 * 312e12, "with vector units"),
        PublishedPeak(2 * 312e12, "press"),
    ]
    found = compare(of(0.5), accelerator=True, count=6, rows=rows, peaks=peaks)
    assert [one.word for one in found.verdicts] == ["within", "within", "outside"]
    assert [round(one.ratio, 3) for one in found.verdicts] == [1, 0.909, 0.5]
    assert found.word == "undecided"
    assert "as it depends on the peak" in found.verdict
    agreed = compare(of(0.5), accelerator=True, count=6, rows=rows, peaks=peaks[:2])
    assert agreed.word == "within"


@pytest.mark.parametrize(
    ("changes", "ours", "said"),
    [
        ({"routing": "drops"}, {}, "drops tokens"),
        ({"devices": 16}, {"several_nodes": False, "devices": 8}, "on several nodes"),
        ({"recomputation": "full"}, {}, "recomputation full"),
    ],
)
def test_what_differs_is_shown_and_unfair_only_where_it_decides(changes, ours, said):
    like, unlike = rows_of(0.5, 0.5, 0.5), rows_of(0.3, 0.3, 0.3, **changes)
    both_within = compare(of(0.5, **ours), accelerator=True, count=6, rows=like + unlike)
    assert (both_within.word, len(both_within.matches)) == ("within", 6)
    assert [list(match.differing.values()) for match in both_within.matches] == [[], [], [], [said], [said], [said]]
    decided = compare(of(0.4, **ours), accelerator=True, count=6, rows=like + unlike)
    assert (decided.word, len(decided.matches)) == ("outside", 3)
    alone = compare(of(0.4, **ours), accelerator=True, count=6, rows=unlike)
    assert not alone.fair
    assert alone.matches[0].differences == (f"{said}, which would decide",)


def test_without_enough_a100_rows_other_devices_give_orientation():
    mixture = of(0.4, kind="moe", activated_parameters=3e10, devices=512, sequence_length=4096)
    found = compare(mixture, accelerator=True, count=4)
    assert len(found.other_devices) == 4
    assert all(match.row.kind == "moe" and not match.row.device.startswith("A") for match in found.other_devices)
    assert found.ratio not in [match.ratio for match in found.other_devices], "they are not in the verdict"
    assert compare(mixture, accelerator=False, count=4).other_devices == ()
    assert compare(of(0.6), accelerator=True, count=4).other_devices == ()


def test_a_mixture_has_a_place_and_no_verdict():
    rows = rows_of(0.1, 0.2, 0.3, 0.4, kind="moe")
    ours = of(0.25, kind="moe")
    found = compare(ours, accelerator=True, count=6, rows=rows, tokens_per_second=1000.0)
    among = found.distribution
    assert (found.word, among.percentile, among.below) == ("none", 50, 2)
    assert among.needed_mfu == pytest.approx(0.85 * among.median)
    assert among.needed_tokens_per_second == pytest.approx(1000 * 0.85 * 0.25 / 0.25)
    assert "above 2 of 4 published A100 mixtures (percentile 50" in found.verdict
    assert "850 tokens/s" in found.verdict
    slower = compare(of(0.125, kind="moe"), accelerator=True, count=6, rows=rows, tokens_per_second=500.0)
    assert slower.distribution.needed_tokens_per_second == pytest.approx(850)
    again = [replace(row, precision="fp16") for row in rows]  # the same runs
    assert compare(ours, accelerator=True, count=6, rows=rows + again).distribution.percentile == 50
    assert len(compare(ours, accelerator=True, count=6, rows=rows + again).matches) == 4
    assert "4 of them are like this run, from" in found.verdict
    assert "mixtures lie too far apart to claim it" in found.verdict
    few = compare(ours, accelerator=True, count=6, rows=rows[:1])
    assert "to claim it takes 3 rows like this run" in few.verdict
    far = rows_of(0.1, 0.12, kind="moe", activated_parameters=4e7) + rows_of(0.4, kind="moe", devices=80)
    unlike = compare(ours, accelerator=True, count=6, rows=far)
    assert f"0 of them are like this run, the nearest, MPT-7b on 80, has {far[-1].causal_mfu:.1%};" in unlike.verdict


def test_what_a_mixture_would_need_does_not_hang_on_its_nodes():
    """Nothing decides where there is no verdict: rows on one node and on several stay, and what differs is shown."""
    rows = [*rows_of(0.2, 0.25, kind="moe"), *rows_of(0.4, 0.5, kind="moe", devices=16)]
    one, several = (
        compare(of(0.3, kind="moe", several_nodes=nodes), accelerator=True, count=6, rows=rows)
        for nodes in (False, True)
    )
    assert one.distribution.needed_mfu == several.distribution.needed_mfu
    assert [len(found.matches) for found in (one, several)] == [4, 4]
    assert {"on one node"} == {words for match in several.matches for words in match.differing.values()}


def test_a_doubt_allows_no_verdict():
    found = compare(of(0.5), accelerator=True, count=6, rows=rows_of(0.5, 0.5, 0.5), doubts=("tokens are assumed",))
    assert (found.word, found.verdicts) == ("none", ())
    assert found.verdict == "no verdict, as an input is too uncertain: tokens are assumed"


def test_a_verdict_is_not_one_sources():
    row = a_row()
    near = [replace(row, table=str(number)) for number in range(9)]
    far = [replace(row, source=other, devices=7) for other in ("a", "b")]

    def chosen(rows):
        found = compare(run(row), accelerator=True, count=6, rows=rows)
        return [match.row for match in found.matches], found.verdict

    rows, verdict = chosen(far + near)
    assert rows == near[:4] + far  # three of one source, then the others, and the next nearest fills up
    assert "6 dense rows of 3 sources" in verdict
    rows, verdict = chosen(near)
    assert rows == near[:6]
    assert "6 dense rows of 1 source," in verdict


def test_without_a_peak_there_is_nothing_to_compare():
    found = compare(run(a_row(), mfu_by_convention={}), accelerator=True, count=3)
    assert found.ratio is None
    assert found.verdict.startswith("the peak of this device is not known")
    assert found.matches


def use(recomputation="none", **changes):
    values = {"tokens_per_second": 1e4, "devices": 2, "sequence_length": 256, "peak_flops": 4e11}
    return utilisation(longcat_workload(load_config("tiny").model, 2.0), Speed(**(values | changes)), recomputation)


def test_utilisation_scales_and_refuses_the_impossible():
    one, double = use(), use(tokens_per_second=2e4)
    assert double.mfu == pytest.approx(2 * one.mfu)
    assert one.mfu_full_attention > one.mfu
    assert use(peak_flops=None).mfu is None
    with pytest.raises(DataError, match="impossible"):
        use(tokens_per_second=1e9)


def test_recomputation_counts_for_the_hardware_only():
    none, selective, full = (use(recomputation=kind) for kind in ("none", "selective", "full"))
    assert none.mfu == selective.mfu == full.mfu == none.hfu
    parts = none.flops_per_token
    total = sum(parts.values())
    assert selective.hfu / none.mfu == pytest.approx(1 + parts["attention_scores"] / 3 / total)
    assert full.hfu / none.mfu == pytest.approx(1 + (total - parts["lm_head"]) / 3 / total)
