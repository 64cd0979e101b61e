"""`longcat plan` as it is called: its JSON, its page, its refusals."""

import json
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from longcat.cli import app
from longcat.errors import UserError
from longcat.plan.device import read_link
from tests.plan.models import LLAMA_13B

ONE = ("--layout", "tensor=2,pipeline=2", "--micro-batch", "1", "--global-batch", "2048", "--sequence-length", "2048")


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "config.json"
    path.write_text(json.dumps(LLAMA_13B))
    return str(path)


def run(*arguments):
    return CliRunner().invoke(app, ["plan", *arguments])


def answer(*arguments):
    done = run(*arguments, "--json")
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def refused(*arguments):
    done = run(*arguments)
    assert isinstance(done.exception, UserError), done.output
    assert done.exception.exit_code == 2
    return str(done.exception)


def test_one_layout_is_judged(config):
    found = answer("--model", config, "--device", "a100-80gb", "--devices", "64", *ONE, "--tokens", "1e12")
    assert {
        "step_seconds",
        "step_seconds_low",
        "step_seconds_high",
        "peak_bytes",
        "fits",
        "mfu",
        "parts",
    } <= found.keys()
    assert found["step_seconds_low"] < found["step_seconds"] < found["step_seconds_high"]
    assert found["layout"]["shard"] == 16
    assert found["fits"] is True
    assert sum(part["seconds"] for part in found["parts"]) == pytest.approx(found["step_seconds"])
    steps = 1e12 / (2048 * 2048)
    assert found["days"] == pytest.approx(steps * found["step_seconds"] / 86400)
    assert found["device_hours"] == pytest.approx(24 * 64 * found["days"])
    again = answer("--model", config, "--device", "A100 SXM 80GB", "--devices", "64", *ONE, "--recompute", "full")
    assert again["peak_bytes"] < found["peak_bytes"]
    assert again["step_seconds"] > found["step_seconds"]


@pytest.mark.parametrize("model", ["llama", "medium"])
def test_the_best_of_a_search_is_judged_alike_when_it_is_named(config, model):
    given = ("--model", config if model == "llama" else model, "--device", "a100-80gb", "--devices", "16")
    given += ("--global-batch", "64", "--sequence-length", "2048", "--tokens", "1e12")
    for best in answer(*given)["best"]:
        said = best["layout"]
        axes = ",".join(f"{name}={said[name]}" for name in said if name not in ("micro_batch", "recompute"))
        size = ("--micro-batch", str(said["micro_batch"]), "--recompute", said["recompute"])
        named = answer(*given, "--layout", axes, *size)
        assert {name: named[name] for name in best if name not in ("sentence", "reason")}.items() <= best.items()


def test_names_of_devices_and_axes_have_several_forms(config):
    forms = [
        answer("--model", config, "--device", device, "--devices", "64", "--layout", layout)["step_seconds"]
        for device, layout in (("ascend-910b2", "tp2,pp2"), ("Ascend910B2", "tensor=2, pipeline=2, data=16"))
    ]
    assert forms[0] == forms[1]


def test_the_best_layouts_come_with_the_reason_why_the_next_loses(config, tmp_path):
    page = tmp_path / "plan.html"
    found = answer("--model", config, "--device", "a100-80gb", "--devices", "64", "--html", str(page))
    assert len(found["best"]) == 5
    assert found["best"][0]["reason"] == ""
    assert all("slower" in row["reason"] for row in found["best"][1:])
    front = [one for one in found["layouts"] if one["pareto"]]
    assert front[0]["step_seconds"] == found["best"][0]["step_seconds"]
    text = page.read_text()
    assert "Time against memory" in text
    assert "Where the numbers come from" in text


@pytest.mark.parametrize("columns", [40, 80])
def test_the_table_keeps_to_the_width(config, columns, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(columns))
    done = run("--model", config, "--device", "a100-80gb", "--devices", "64", *ONE)
    assert done.exit_code == 0
    tables = [line for line in done.stdout.splitlines() if not line.startswith("Assumed")]  # the reader's to wrap
    assert max(map(len, tables)) <= columns
    assert "MFU" in done.stdout


def test_links_change_what_travels_between_nodes(config):
    slow, fast = (
        answer("--model", config, "--device", "a100-80gb", "--devices", "64", *ONE, "--link", link)["step_seconds"]
        for link in ("100Gbit", "between=50")
    )
    assert slow > fast


@pytest.mark.parametrize(("link", "bits"), [("25GBps", 1), ("25GB/s", 1), ("25Gbps", 8), ("25Gb/s", 8), ("25gbit", 8)])
def test_a_byte_has_eight_bits(link, bits):
    assert read_link(link) == (None, 25e9 / bits)


def test_data_parallel_is_replicas_times_shards(config):
    given = ("--model", "tiny", "--device", "a100-80gb", "--devices", "8", "--global-batch", "64", "--micro-batch", "1")
    found = answer(*given, "--layout", "data=8,replicate=2")
    assert (found["layout"]["replicate"], found["layout"]["shard"]) == (2, 4)
    for axes, nearest in (("data=1,replicate=2", 2), ("data=5,replicate=2", 4), ("data=8,replicate=2,shard=2", 4)):
        assert f"data={nearest} would fit" in refused(*given, "--layout", axes)


@pytest.mark.slow
def test_two_kinds_of_devices_are_compared_with_one(config):
    both = answer("--model", config, "--device", "ascend-910b2", "--devices", "64", "--also", "ascend-910b4-1:64")
    ways = {way["way"]: way["step_seconds"] for way in both["mixed"]["ways"]}
    assert ways["rows shared"] < ways["Ascend 910B2 alone"]
    assert both["mixed"]["verdict"].startswith("Use both")
    worse = answer("--model", config, "--device", "b200", "--devices", "64", "--also", "a100-80gb:8", "--link", "1")
    assert worse["mixed"]["verdict"].startswith("Leave A100 SXM 80GB out")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--device", "b20000"), "not in the table of hardware"),
        (("--device", "a100-80g"), "did you mean"),
        (("--devices", "0"), "--devices must be above 0"),
        (("--layout", "tensor=3"), "--devices 64"),
        (("--layout", "tensr=2"), "did you mean tensor"),
        (("--layout", "tensor=2,tp=2"), "twice"),
        (("--layout", "pipeline=64"), "more than layers 40"),
        (("--layout", "tensor=64"), "does not divide num_attention_heads=40"),
        (("--layout", "data=7"), "64"),
        (("--layout", "data=4,shard=16,tensor=4"), "data=4 contradicts replicate=1 x shard=16"),
        (("--layout", "replicate=2"), "replicate=2 is of LongCat's own models"),
        (("--layout", "tensor=0"), "'tensor=0' is no axis"),
        (("--layout", "tensor=2", "--micro-batch", "3"), "--micro-batch 3"),
        (("--layout", "tensor=2", "--recompute", "some"), "none, selective and full"),
        (("--micro-batch", "2"), "--layout"),
        (("--kernels", "flash3"), "did you mean flash2"),
        (("--stack", "megatrn"), "did you mean megatron"),
        (("--link", "fast"), "no link such as 25"),
        (("--link", "25gb/s"), "no link such as 25"),
        (("--link", "25,between=50"), "--link 25,between=50 has between twice"),
        (("--link", "9" * 400), "no link such as 25"),
        (("--devices", "1048577"), "at most 1,048,576, found 1,048,577"),
        (("--also", "b200"), "ascend-910b4:32"),
        (("--tokens", "-1"), "--tokens must be above 0"),
        (("--calibration", "nowhere"), "--calibration nowhere"),
        (("--layout", "tensor=2", "--global-batch", "63"), "--global-batch 63"),
    ],
)
def test_bad_input_is_refused_in_one_line(config, arguments, said):
    given = {"--model": config, "--device": "a100-80gb", "--devices": "64"}
    rest = []
    for name, value in zip(arguments[::2], arguments[1::2], strict=True):
        if name in given:
            given[name] = value
        else:
            rest += [name, value]
    message = refused(*[part for pair in given.items() for part in pair], *rest)
    assert said in message
    assert "\n" not in message


def test_unknown_models_are_refused(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "lama", "hidden_size": 8}')
    message = refused("--model", str(tmp_path), "--device", "b200", "--devices", "8")
    assert "nearest known" in message and "longcat mfu takes their sizes instead" in message
    assert "did you mean longcat-flash" in refused("--model", "longcat-flsh", "--device", "b200", "--devices", "8")


@pytest.mark.slow
def test_a_model_that_fits_nowhere_is_told_what_is_missing():
    message = refused("--model", "longcat-flash", "--device", "a100-40gb", "--devices", "8")
    assert "does not fit on 8 x A100 SXM 40GB in any layout" in message
    assert "would do" in message


@pytest.mark.slow
def test_no_torch_is_loaded(config):
    code = (
        "import sys; from typer.testing import CliRunner; from longcat.cli import app; "
        f"r = CliRunner().invoke(app, ['plan', '--model', {config!r}, '--device', 'b200', '--devices', '8', '--json']); "
        "assert r.exit_code == 0, r.output; assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_a_second_kind_where_the_first_alone_does_not_have_the_memory(tmp_path):
    file = tmp_path / "config.json"
    file.write_text(json.dumps(LLAMA_70B))
    found = answer("--model", str(file), "--device", "ascend-910b2", "--devices", "16", "--also", "ascend-910b4-1:16")
    assert found["fits"] is False and "best" not in found
    assert "alone does not have the memory" in found["mixed"]["verdict"]
    page = tmp_path / "plan.html"
    done = run(
        "--model", str(file), "--device", "ascend-910b2", "--devices", "16", "--also", "ascend-910b4-1:16",
        "--html", str(page),
    )  # fmt: skip
    assert done.exit_code == 0 and "does not fit" in done.stdout and "does not fit" in page.read_text()


def test_the_nearest_number_of_devices_that_would_do(config, tmp_path):
    file = tmp_path / "70b.json"
    file.write_text(json.dumps(LLAMA_70B))
    assert "--devices 24 would do" in refused("--model", str(file), "--device", "a100-80gb", "--devices", "16")
    assert "--devices 4 would do" in refused("--model", config, "--device", "a100-80gb", "--devices", "3")
    file.write_text(json.dumps(LLAMA_70B | {"num_hidden_layers": 10**9}))
    message = refused("--model", str(file), "--device", "a100-80gb", "--devices", "8")
    assert message.endswith("none of the numbers of devices up to 1,024 that were tried would do")


LLAMA_70B = {
    "model_type": "llama", "hidden_size": 8192, "intermediate_size": 28672, "num_hidden_layers": 80,
    "num_attention_heads": 64, "num_key_value_heads": 8, "vocab_size": 128256,
}  # fmt: skip


def test_sequences_that_are_long_for_the_width_have_a_wide_interval_and_little_confidence(tmp_path):
    file = tmp_path / "config.json"
    file.write_text(json.dumps(LLAMA_70B | {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 16}))
    widths = {}
    for length in (2048, 4096):
        found = answer(
            "--model", str(file), "--device", "a100-80gb", "--devices", "8", "--sequence-length", str(length)
        )
        best = found["best"][0]
        widths[length] = best["step_seconds_high"] / best["step_seconds_low"], found["confidence"]
        assert ("are long for a width of 1,024" in " ".join(found["assumptions"])) == (length == 4096)
    assert widths[2048][0] < 1.5 < 2.5 < widths[4096][0]
    assert (widths[2048][1], widths[4096][1]) == ("high", "low")


def test_parts_of_memory_beyond_the_peak_are_explained(tmp_path):
    """The table of a device with 63 GB adds up to 71 GB, and the plan says that it fits."""
    question = ("--model", "longcat-flash", "--device", "ascend-910b2", "--devices", "2048")
    best = answer(*question)["best"][0]
    assert sum(best["memory"].values()) > best["memory_bytes"] - best["reserve_bytes"] and best["fits"]
    page = tmp_path / "page.html"
    text = run(*question, "--html", str(page)).stdout
    said = "Not all of it lives at once: the parts add up to more than the peak."
    assert said in text and said in page.read_text()
    assert said not in run("--model", "tiny", "--device", "ascend-910b2", "--devices", "1").stdout


def test_an_unknown_model_is_told_in_one_sentence():
    asked = ("--device", "ascend-910b2", "--devices", "8")
    assert refused("--model", "tinyy", *asked).startswith(
        "--model tinyy is neither a file nor a preset; did you mean tiny?; the presets are longcat-2.0, "
    )
    assert "nor a preset; the presets are longcat-2.0, " in refused("--model", "zzz", *asked)
