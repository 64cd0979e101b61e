"""The tables of hardware and of published runs: exact names, sources, and every figure rederived."""

import csv
from pathlib import Path

import pytest

from longcat.accelerator import Accelerator
from longcat.benchmark.references import KNOWN_CONVENTIONS, references
from longcat.costs.families import from_config
from longcat.costs.hardware import find_hardware, hardware_table, require_hardware
from longcat.errors import ConfigError
from longcat.peak import peak
from longcat.provenance import ROOT


def test_names_match_exactly_or_not_at_all():
    for name, tflops in {
        "NVIDIA H200": 989, "NVIDIA H20": 148, "nvidia a100-sxm4-80gb": 312, "Ascend910B1": 373.88,
        "Ascend910B2": 353.8944, "Ascend910B3": 294.912, "Ascend910B4": 245.76, "NVIDIA H800": 989,
        "A100-SXM4-40GB": 312, "NVIDIA A100-SXM-80GB": 312, "NVIDIA GH200 120GB": 989, "TPU v5 lite": 197, "TPU v5": 459,
    }.items():  # fmt: skip
        assert find_hardware(name).peak_flops("bf16") == tflops * 1e12
    for unknown in ("H20 something", "H2", "Ascend910B", "NVIDIA", ""):
        assert find_hardware(unknown) is None
    names = [name.lower() for row in hardware_table() for name in (row.name, *row.aliases)]
    assert len(names) == len(set(names))


@pytest.mark.parametrize(
    ("driver", "tflops", "per_package", "node"),
    [
        ("Ascend910_9391", 353.8944, 2, 16), ("Ascend910_9392", 353.8944, 2, 16), ("Ascend910_9381", 353.8944, 2, 16),
        ("Ascend910_9382", 353.8944, 2, 16), ("Ascend910_9372", 294.912, 2, 16), ("Ascend910_9362", 245.76, 2, 16),
        ("Ascend910B4-1", 245.76, 1, 8), ("ascend-910c-package", 707.7888, 1, 8),
        ("Ascend950PR", 432, 1, None), ("Ascend950DT", 486, 1, None), ("Ascend950DT_9582", 432.5376, 1, None),
        ("NVIDIA A100-SXM-64GB", 312, 1, 4), ("NVIDIA A800-SXM4-40GB", 312, 1, 8), ("NVIDIA H20-3e", 148, 1, 8),
        ("NVIDIA GB200", 2500, 1, 4), ("NVIDIA GB300", 2500, 1, 4), ("NVIDIA B300 SXM6 AC", 2250, 1, 8),
        ("NVIDIA L40S", 362, 1, 8), ("NVIDIA L20", 119.5, 1, 8), ("NVIDIA GH200 480GB", 989, 1, None),
        ("NVIDIA GeForce RTX 4090", 165.2, 1, None), ("NVIDIA GeForce RTX 5090", 209.5, 1, None),
        ("AMD Instinct MI325X", 1307.4, 1, 8), ("AMD Instinct MI355X", 2516.6, 1, 8), ("AMD Instinct MI300A", 980.6, 1, 4),
        ("AMD Instinct MI250X", 191.5, 2, 8), ("AMD Instinct MI250", 181.05, 2, 8), ("mi250-card", 362.1, 1, 4),
        ("GAUDI2", 432, 1, 8), ("Gaudi 3", 1677, 1, 8), ("trn2", 667, 1, 16), ("tpu7x", 2307, 1, 4),
        ("MetaX C500", 280, 1, 8), ("br100", 1024, 1, 8), ("A100 SXM, memory not stated", 312, 1, 8),
    ],
)  # fmt: skip
def test_peaks_by_the_names_that_drivers_report(driver, tflops, per_package, node):
    row = find_hardware(driver)
    assert row.peak_flops("bf16") == tflops * 1e12
    assert (row.per_package, row.devices_per_node) == (per_package, node)


@pytest.mark.parametrize("name", ["Ascend910ProA", "Tesla V100-PCIE-32GB", "Tesla V100-SXM2-16GB", "Iluvatar BI-V150"])
def test_devices_with_fp16_alone(name):
    row = find_hardware(name)
    assert row.peak_flops("bf16") is None
    assert row.peak_flops("fp16")


def test_other_peaks_in_use_are_kept_with_what_they_are():
    row = find_hardware("Ascend910B2")
    assert row.other_bf16_flops == (
        (376e12, "cube and vector units"),
        (400e12, "printed for the 910B without model"),
    )
    for row in hardware_table():
        for flops, meaning in row.other_bf16_flops:
            assert meaning
            assert flops != row.peak_flops("bf16")
            assert 0.5 < flops / row.peak_flops("bf16") < 1.5
    assert all(row.other_bf16_flops for row in hardware_table() if row.name.startswith(("Ascend 910B", "Ascend 910C")))


@pytest.mark.parametrize(
    ("wanted", "right", "wrong"),
    [
        ("A100-80", "a100-80gb", "H100"),
        ("GB30", "GB300", "B200"),
        ("GB300 NVL", "GB300", "H200"),
        ("Ascend910_93", "Ascend910_9382", "950"),
        ("Ascend910B2C", "Ascend 910B2", "9392"),  # its clock is not known
        ("Ascend910B", "Ascend 910B2", "9392"),  # an old chip's name, which people use for all of the 910B
        ("Ascend910C", "Ascend 910C package", "950"),
        ("rtx 409", "RTX 4090", "RTX 3090"),
    ],
)
def test_a_near_miss_is_told_the_nearest_names(wanted, right, wrong):
    with pytest.raises(ConfigError, match="is not in the table of hardware; did you mean") as found:
        require_hardware(wanted)
    assert right in str(found.value)
    assert wrong not in str(found.value)


def test_a_device_without_bf16_has_no_bf16_peak():
    for name, fp16 in (("Ascend910A", 256e12), ("Tesla V100-SXM2-32GB", 125e12)):
        assert find_hardware(name).peak_flops("bf16") is None
        assert find_hardware(name).peak_flops("fp16") == fp16
    assert peak(Accelerator("npu", "Ascend910A", 8, 1, False), "bf16", Path()) is None
    assert peak(Accelerator("cuda", "NVIDIA H100 80GB HBM3", 8, 1, True), "fp32", Path()).flops == pytest.approx(
        66.9e12
    )


@pytest.mark.parametrize(
    "wanted", ["A100", "A800", "H100", "H800", "H200", "H20", "B200", "MI300X", "MI250X", "Ascend 910", "Ascend 910A",
               "Ascend 910B1", "Ascend 910B4", "Ascend 910C", "Kunlun", "Hygon", "Cambricon", "Moore Threads", "TPU"]
)  # fmt: skip
def test_what_people_ask_for_is_there(wanted):
    assert any(row.name.startswith(wanted) for row in hardware_table())


@pytest.mark.parametrize("row", hardware_table(), ids=lambda row: row.name)
def test_hardware_is_cited_and_plausible(row):
    assert row.source
    assert row.confidence in ("high", "medium", "low")
    assert row.flops
    assert all(1e13 < value < 1e16 for value in row.flops.values())
    if row.measured_gemm_flops is not None:
        assert row.measured_source
        assert 0.4 * row.flops["bf16"] < row.measured_gemm_flops < row.flops["bf16"]
    for bandwidth, most in ((row.memory_bandwidth, 1e13), (row.interconnect_bandwidth, 2e12)):
        assert bandwidth is None or 1e10 < bandwidth < most


def off(row):
    """Whether the rederived MFU or HFU differs from the published one by more than 2 points."""
    pairs = [(row.published_mfu, row.rederived_mfu), (row.published_hfu, row.rederived_hfu)]
    if row.published_tflops and row.peak_tflops and row.published_mfu is None and row.published_hfu is None:
        recomputed = row.convention == "megatron_2021" and row.recomputation == "full"
        pairs.append((row.published_tflops / row.peak_tflops, row.rederived_hfu if recomputed else row.rederived_mfu))
    return any(
        published is not None and rederived is not None and abs(published - rederived) > 0.02
        for published, rederived in pairs
    )


def test_rows_that_cannot_be_rederived_say_why():
    """Each row that is off has its reason, and no other row has one."""
    named = [(row.model, row.device, row.devices, row.sequence_length) for row in references() if off(row)]
    explained = [(row.model, row.device, row.devices, row.sequence_length) for row in references() if row.reason]
    assert named == explained


def test_most_rows_are_rederived():
    rows = references()
    rederived = [row for row in rows if row.rederived_mfu is not None or row.rederived_hfu is not None]
    assert len(rows) > 250
    assert len(rederived) > 0.9 * len(rows)
    for kind in ("dense", "moe"):
        assert any(row.kind == kind and row.device.startswith(("A100", "A800")) for row in rows)


@pytest.mark.parametrize("row", references(), ids=lambda row: f"{row.model}-{row.devices}-{row.sequence_length}")
def test_runs_are_cited_and_plausible(row):
    assert row.source
    assert row.table
    assert 0 < (row.mfu or 0.1) < 0.75
    assert row.published_hfu is None or row.mfu <= row.published_hfu + 1e-9
    assert row.convention in (*KNOWN_CONVENTIONS, "unknown")
    assert row.recomputation in ("none", "selective", "full", "")
    assert row.activated_parameters <= row.total_parameters
    hardware = find_hardware(row.device)
    assert hardware is not None or "not stated" in row.device
    if row.peak_tflops is not None:
        # DeepSeek-V3 sets fp8 products against the peak of bf16
        assert row.peak_tflops * 1e12 in (hardware.peak_flops(row.precision), hardware.peak_flops("bf16"))
    if row.device.startswith(("A100", "A800")):
        assert row.devices
        assert row.sequence_length
        assert row.precision in ("bf16", "fp16")


@pytest.mark.parametrize(
    ("model", "devices", "mfu", "hfu"),
    [
        ("GPT-22B", 8, 0.415, 0.437),  # selective: the scores once more
        ("MPT-70b", 64, 0.5333, 0.711),  # full: the forward pass once more
        ("Llama-3.1-405B", 1024, 827 / 1979, None),  # only FLOP/s are published, and they are useful ones
        ("MegaScale-MoE-352B", 240, 0.3248, None),  # Megatron's: half the scores, no embedding
    ],
)
def test_conventions_give_published_figures_back(model, devices, mfu, hfu):
    row = next(row for row in references() if (row.model, row.devices) == (model, devices))
    assert row.mfu == pytest.approx(mfu)
    assert row.rederived_mfu == pytest.approx(mfu, abs=0.02)
    if hfu is not None:
        assert row.rederived_hfu == pytest.approx(hfu, abs=0.002)


def test_an_mfu_that_follows_from_hfu():
    """GPT-175B-like rows of 2021 print 48 % of the peak with recomputation, three quarters of which are useful."""
    (row,) = (row for row in references() if row.model == "GPT-145.6B")
    assert row.published_mfu is None
    assert row.mfu == pytest.approx(0.47 * 0.75, abs=0.01)


@pytest.mark.parametrize(
    ("model", "config"),
    [
        ("MPT-7b", {"model_type": "mpt", "d_model": 4096, "n_layers": 32, "n_heads": 32, "vocab_size": 50368}),  # tied: nothing is only looked up
        (
            "LLaMA-13B",  # vocabulary of 128,000, head apart
            {"model_type": "llama", "hidden_size": 5120, "intermediate_size": 13824, "num_hidden_layers": 40,
             "num_attention_heads": 40, "vocab_size": 128000},
        ),
        (
            "Llama-3-8B",
            {"model_type": "llama", "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
             "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 128256},
        ),
    ],
)  # fmt: skip
def test_a_row_counts_like_the_configuration_of_its_model(model, config):
    for row in references():
        if row.model == model and row.vocabulary == config["vocab_size"]:
            ours = from_config(config, "test").training_flops(row.sequence_length)
            assert row.flops_per_token("longcat") == pytest.approx(ours, rel=1e-3)


def test_a_published_mfu_is_carried_over_to_our_count():
    rows = {(row.model, row.devices): row for row in references()}
    row = rows["GPT-145.6B", 1536]  # only TFLOP/s with recomputation, over the whole square of scores
    assert row.rederived_causal_mfu is None
    scores = 6 * 80 * 12288 * 2048
    assert row.causal_mfu == pytest.approx(
        row.mfu * (6 * row.activated_parameters + scores) / row.flops_per_token("megatron_2021"), rel=1e-3
    )
    row = rows["Skywork-MoE-146B", 1536]  # speed and MFU disagree
    assert row.causal_mfu == pytest.approx(
        row.published_mfu * row.flops_per_token("longcat") / row.flops_per_token("palm")
    )
    assert row.rederived_causal_mfu == pytest.approx(
        row.rederived_mfu * row.flops_per_token("longcat") / row.flops_per_token("palm")
    )
    row = rows["DeepSeek-V3", 2048]  # no formula, but a speed
    assert row.causal_mfu == row.rederived_causal_mfu > 0.3
    assert all(row.causal_mfu is None for row in references() if row.model == "Mixtral-8x22B")  # neither


def test_a_table_without_the_optional_columns_is_read(tmp_path):
    optional = ("lookup_parameters", "attention_width", "task", "routing", "guessed")
    with (ROOT / "data/reference/mfu.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    with (tmp_path / "old.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, [name for name in rows[0] if name not in optional], extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    old = references(tmp_path / "old.csv")
    references.cache_clear()
    assert len(old) == len(rows)
    row = next(row for row in old if row.model == "Llama-3-8B")
    assert (row.lookup_parameters, row.attention_width) == (128256 * 4096, 32 * 4096)
    assert (row.task, row.routing, row.guessed) == ("pre-training", "", ())


def test_vendor_reported_ratios_are_those_of_their_figures():
    """What MindSpeed-LLM's READMEs print beside each other; kept apart, as neither device is named for a row."""
    with (ROOT / "data/reference/vendor_reported.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) > 50
    for row in rows:
        ours = float(row["npu_tokens_per_second_per_device"]) / float(row["reference_tokens_per_second_per_device"])
        assert float(row["ratio"]) == pytest.approx(ours, abs=6e-4)
        assert row["source"]
