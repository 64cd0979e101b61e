"""Hardware by exact name, published rows worked out again, and verdicts."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from longcat.accelerator import Accelerator
from longcat.benchmark.comparison import Subject, compare
from longcat.benchmark.references import references
from longcat.config import load_config
from longcat.costs.mfu import Speed, utilisation
from longcat.costs.workload import longcat_workload
from longcat.errors import DataError
from longcat.peak import measured_gemm_flops, peak


def device(kind, name):
    return Accelerator(kind, name, count=8, memory_bytes=1, supports_bf16=True)


def test_a_cpus_peak_is_measured_and_said_so():
    found = peak(device("cpu", "some CPU"), "fp32")
    assert found.measured
    assert "measured" in found.source
    assert found.flops == measured_gemm_flops("fp32") > 1e9


def run(row, **changes):
    """A run just like a published row."""
    values = {
        "kind": row.kind, "activated_parameters": row.activated_parameters, "devices": row.devices,
        "sequence_length": row.sequence_length, "precision": row.precision, "tflops_per_device": 312 * row.comparable_mfu,
        "mfu_by_convention": {name: row.comparable_mfu for name in (row.convention, "longcat") if name != "unknown"},
    }  # fmt: skip
    return Subject(**(values | changes))


def a_row(**changes):
    row = next(row for row in references() if (row.model, row.devices, row.sequence_length) == ("MPT-7b", 8, 2048))
    return replace(row, **changes)


@given(st.sampled_from([row for row in references() if row.mfu and row.device.startswith("A100")]))
def test_a_published_run_equals_itself(row):
    found = compare(run(row), accelerator=True, count=1, rows=[row])
    assert found.fair == (row.convention != "unknown")
    if found.fair:
        assert found.ratio == pytest.approx(1)
        assert found.matches[0].speed_ratio == pytest.approx(312 / row.peak_tflops)
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
    ],
)
def test_what_makes_a_row_unfair_is_said(changes, difference):
    found = compare(run(a_row(), **changes), accelerator=True, count=2, rows=[a_row()])
    assert not found.fair
    (said,) = found.matches[0].differences
    assert said.startswith(difference)
    assert found.verdict.startswith("no fair A100 row is published: the nearest, MPT-7b on 8")
    assert "proves nothing" in found.verdict


def test_verdicts_are_those_of_the_rows():
    rows = [a_row(published_mfu=mfu) for mfu in (0.40, 0.42, 0.50, 0.60)]

    def verdict(mfu, **options):
        found = compare(run(rows[0], mfu_by_convention={rows[0].convention: mfu}), count=4, rows=rows, **options)
        return found.verdict

    assert verdict(0.55, accelerator=True).startswith("within 15 %")
    assert "4 of 4 say within" in verdict(0.55, accelerator=True)
    assert verdict(0.30, accelerator=True).startswith("outside 15 %")
    assert verdict(0.40, accelerator=True).startswith("undecided")
    assert "0.67 to 1.00 over 4 rows" in verdict(0.40, accelerator=True)
    assert verdict(0.55, accelerator=False).startswith("not an accelerator")


@pytest.mark.parametrize("count", [1, 2])
def test_one_or_two_rows_are_no_verdict(count):
    row = a_row(published_mfu=0.5)
    found = compare(run(row, mfu_by_convention={row.convention: 0.4}), accelerator=True, count=6, rows=[row] * count)
    assert found.fair
    assert found.ratio == pytest.approx(0.8)
    assert found.verdict.startswith("too few fair A100 rows for a verdict")
    assert f"0 of {count} would say within 15 %" in found.verdict


def test_without_enough_a100_rows_other_devices_give_orientation():
    mixture = run(a_row(), kind="moe", activated_parameters=3e10, devices=512, sequence_length=4096)
    found = compare(mixture, accelerator=True, count=4)
    assert "verdict" in found.verdict or "no fair" in found.verdict
    assert len(found.others) == 4
    assert all(match.row.kind == "moe" and not match.row.device.startswith("A") for match in found.others)
    assert found.ratio not in [match.ratio for match in found.others], "they are not in the verdict"
    assert compare(mixture, accelerator=False, count=4).others == ()
    assert compare(run(a_row()), accelerator=True, count=4).others == ()


def test_a_verdict_is_not_one_sources():
    row = a_row(published_mfu=0.5)
    near = [replace(row, table=str(number)) for number in range(9)]
    far = [replace(row, source=other, devices=32) for other in ("a", "b")]

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
    assert found.verdict.startswith("no peak is known")
    assert found.matches


def test_a_ratio_is_of_like_with_like():
    """A row in a convention that counts more than ours is met with our own figure in that convention."""
    row = a_row(convention="six_n", published_mfu=0.5)
    found = compare(run(row, mfu_by_convention={"six_n": 0.4, "longcat": 0.6}), accelerator=True, count=1, rows=[row])
    assert found.ratio == pytest.approx(0.8)
    unknown = compare(run(row, mfu_by_convention={"longcat": 0.6}), accelerator=True, count=1, rows=[row])
    assert not unknown.fair
    assert unknown.ratio is None


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
