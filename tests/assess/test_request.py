"""What is asked: options, a file, prices, and what is said of mistakes."""

import pytest

from longcat.assess.request import read_request
from longcat.errors import ConfigError
from longcat.provenance import ROOT


def test_options_are_over_the_file_and_paths_are_relative_to_it(tmp_path):
    (tmp_path / "ask.yaml").write_text("log: train.log\ndevices: 8\nprice: {a100-80gb: 2 USD}\nto: ascend-910b2:128\n")
    found = read_request(tmp_path / "ask.yaml", {"devices": 64, "model": None}, ["ascend-910b2=12.5 CNY"])
    assert found.log == tmp_path / "train.log" and found.devices == 64
    assert found.price == {"a100-80gb": "2 USD", "ascend-910b2": "12.5 CNY"}
    assert found.target == ("ascend-910b2", 128)


@pytest.mark.parametrize("name", ["longcat-2.0", "qwen-max", "ernie-4.0"])
def test_the_examples_are_read(name):
    found = read_request(ROOT / f"docs/examples/{name}.yaml", {})
    assert found.stack and found.known and found.not_known


@pytest.mark.parametrize(
    ("text", "given", "prices", "said"),
    [
        ("modle: tiny\n", {}, [], "unknown field 'modle'; did you mean 'model'"),
        ("- a\n", {}, [], "expected a mapping of fields, found list"),
        ("a: [\n", {}, [], "ask.yaml"),
        ("devices: 0\n", {}, [], "devices: Input should be greater than or equal to 1, found 0"),
        ("{}", {}, ["ascend"], "--price ascend: give a device and what an hour of it costs"),
        ("price: {a100-80gb: cheap}", {}, [], "price of a100-80gb: 'cheap' is no amount"),
        ("price: {a100-80gb: '1,000 CNY'}", {}, [], "price of a100-80gb: '1,000 CNY' is no amount"),
        ("{}", {}, ["b200=1e3 CNY"], "--price b200=1e3 CNY: give a device"),
        ("{}", {}, ["b200=1,000 CNY"], "--price b200=1,000 CNY: give a device"),
        ("{}", {}, ["b200=" + "9" * 400], "is no amount"),
        ("{}", {}, ["b200=1 CNY", "b200=2 CNY"], "--price b200 is given twice"),
        ("{}", {"devices": 0}, [], "--devices: Input should be greater than or equal to 1, found 0"),
        ("devices: 8", {"sequence_length": -1}, [], "--sequence-length: "),
        ("{}", {"tokens": float("inf")}, [], "--tokens: "),
        ("mlflow_run: r", {"log": "train.log"}, [], "--log and --mlflow-run both tell of today's run"),
    ],
)
def test_mistakes(tmp_path, text, given, prices, said):
    (tmp_path / "ask.yaml").write_text(text)
    with pytest.raises(ConfigError) as caught:
        read_request(tmp_path / "ask.yaml", given, prices)
    assert said in str(caught.value)


@pytest.mark.parametrize("target", ["ascend-910b2", "ascend-910b2:0", "ascend-910b2:1048577"])
def test_a_target_without_a_number_that_can_be(target):
    with pytest.raises(ConfigError, match=f"--to {target}: give a device and how many"):
        _ = read_request(None, {"to": target}).target
