"""What a measurement says, without running one."""

import pytest

from longcat.benchmark.measurement import Measurement
from longcat.benchmark.stage import summarise
from longcat.config import load_config
from longcat.costs.workload import longcat_workload


def test_a_setting_of_the_sweep_is_judged_by_its_own_recomputation():
    timed = Measurement(
        window_seconds=[1.0, 1.0, 2.0], window_steps=2, window_peak_flops=[1e12] * 4, batch_tokens=512, processes=2,
        parallel={"expert": 2}, sequence_length=64, precision="fp32", ffn_experts_per_token=2.0, peak_memory_bytes=1,
        memory={}, breakdown=None, operators=None, collectives=None, micro_batches=1, phase="sparse", device_memory_bytes=10**12, device_kind="cpu", device_name="a CPU",
    )  # fmt: skip
    workload = longcat_workload(load_config("smoke").model, 2.0)
    plain, recomputed = (summarise(workload, timed, kind)[1] for kind in ("none", "full"))
    assert plain.tokens_per_second == 1024
    assert plain.hfu == plain.mfu == recomputed.mfu
    assert recomputed.hfu == pytest.approx(plain.mfu * 4 / 3, rel=0.2)
    assert recomputed.hfu > plain.hfu
