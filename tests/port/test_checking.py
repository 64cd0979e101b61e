"""What is compared of two runs: losses, printed figures, operators in order."""

import json
import os
import subprocess
import sys

import pytest

from longcat.emulator import command
from longcat.errors import UserError
from longcat.port import checking
from longcat.port.checking import Run, _judge, _printed, check, relative
from longcat.port.comparing_operators import first_difference
from longcat.port.support import Support

SUPPORT = Support("torch_npu 9", frozenset({"digamma"}), frozenset({"mm", "histc"}), {})


def operator(name, shape, size, dtype="float32"):
    return {"kind": "operator", "name": f"aten::{name}", "results": [[shape, dtype, size / 2, size]]}


def run(*losses, code=0, errors="", output="", rows=({"kind": "device", "device": "npu"},)):
    found = [
        {"kind": "loss", "step": step, "value": value, "dtype": "torch.float32"} for step, value in enumerate(losses)
    ]
    steps = [{"kind": "step", "step": step + 1} for step in range(len(losses))]
    return Run(code, 1.0, output, errors, False, {0: [*rows, *found, *steps]})


def test_operators_are_aligned_where_one_device_has_more_of_them():
    before = [operator("t_like", [3], 1.0), operator("addmm", [2, 2], 5.0), operator("tanh", [2, 2], 3.0)]
    after = [operator("linear", [2, 2], 5.0), operator("npu_extra", [7], 9.0), operator("tanh", [2, 2], 3.3)]
    found = first_difference({0: before}, {0: after}, 1e-4, False)
    assert (found["name"], found["number"]) == ("aten::tanh", 3)
    assert first_difference({0: before}, {0: [*after[:2], operator("tanh", [2, 2], 3.0)]}, 1e-4, False) is None


def test_rounding_of_half_precision_is_no_difference():
    before, after = [operator("mm", [4], 10.0, "bfloat16")], [operator("mm", [4], 10.1, "bfloat16")]
    assert first_difference({0: before}, {0: after}, 0.03, True) is None
    assert first_difference({0: before}, {0: [operator("mm", [4], 12.0, "bfloat16")]}, 0.03, True) is not None
    assert first_difference(
        {0: before}, {0: [operator("mm", [4], 1.0) | {"results": [[[4], "float32", None, None]]}]}, 0.03, True
    )


def test_verdicts():
    assert _judge(run(1.0, 2.0), run(1.0, 2.00001), None, 60, SUPPORT, [])["verdict"] == "same"
    assert _judge(run(1.0, 2.0), run(1.0, 2.1), None, 60, SUPPORT, [])["verdict"] == "differs"
    assert _judge(run(1.0, 2.0), run(1.0, 2.1), 0.2, 60, SUPPORT, [])["verdict"] == "same"
    assert _judge(run(1.0, None), run(1.0, None), None, 60, SUPPORT, [])["verdict"] == "same"  # both are not finite
    assert _judge(run(1.0, 2.0), run(1.0), None, 60, SUPPORT, [])["verdict"] == "differs"
    failed = _judge(
        run(1.0), run(code=1, errors="Traceback\nNotImplementedError: no kernel for aten::histc"), None, 60, SUPPORT, []
    )
    assert failed["verdict"] == "fails"
    assert failed["missing"] == "Missing operator: aten::histc; torch_npu 9 registers it."
    warned = "The operator 'aten::digamma.out' is not currently supported on the NPU backend and will fall back"
    assert "aten::digamma.out" in _judge(run(1.0), run(1.0, errors=warned), None, 60, SUPPORT, [])["notes"][0]


def test_what_ran_on_the_host_alone_shows_nothing():
    result = _judge(run(1.0, 2.0), run(1.0, 2.0, rows=()), None, 60, SUPPORT, [])
    assert result["verdict"] == "unknown" and "no operator ran on the emulated Ascend" in result["why"]
    assert _judge(run(1.0), run(2.0, rows=()), None, 60, SUPPORT, [])["verdict"] == "differs"
    assert _judge(run(), run(), None, 60, SUPPORT, [])["verdict"] == "unknown"  # nothing was compared


def test_an_error_whose_reason_stands_in_the_next_line():
    errors = "Traceback\nRuntimeError: \n\n  python value of type 'str' cannot be used\n  File x\n"
    assert run(code=1, errors=errors).error(9) == "RuntimeError: python value of type 'str' cannot be used"
    assert run(code=1, errors="ValueError: no\nafter\n").error(9) == "ValueError: no"


def test_printed_figures_are_matched_line_by_line_without_times():
    before = "start\nstep 1 loss 2.5000 in 10.5 ms, mem 3.0\n{'grad_norm': '0.5', 'epoch': 1}\nloss: nan\n"
    after = "start\nstep 1 loss 2.5010 in 99.1 ms, mem 8.0\n{'grad_norm': '0.5', 'epoch': 1}\nloss: nan\n"
    rows = _printed(before, after)
    assert [(row["what"], row["original"], row["rewrite"]) for row in rows] == [
        ("loss", 2.5, 2.501),
        ("grad_norm", 0.5, 0.5),
    ]


@pytest.mark.parametrize(
    ("one", "other", "expected"), [(1.0, 1.0, 0.0), (2.0, 1.0, 0.5), (0.0, 0.0, 0.0), (None, 1.0, None)]
)
def test_relative(one, other, expected):
    assert relative(one, other) == expected


def test_folders_that_are_no_rewrite(tmp_path):
    with pytest.raises(UserError, match="no such folder"):
        check(tmp_path / "no", ["python"])
    with pytest.raises(UserError, match="--original"):
        check(tmp_path, ["python"])
    (tmp_path / "longcat-port.json").write_text("{")
    with pytest.raises(UserError, match="not the record"):
        check(tmp_path, ["python"])
    (tmp_path / "longcat-port.json").write_text(json.dumps({"root": str(tmp_path / "gone")}))
    with pytest.raises(UserError, match="not there any more"):
        check(tmp_path, ["python"])


def test_start_up_codes_call_each_other_in_order_and_once(tmp_path):
    (tmp_path / "sitecustomize.py").write_text("print('own')")
    places = [str(checking._SITE), str(command.SITE), str(tmp_path)]
    for path in (places, [places[1], places[0], places[2]], [places[0], places[0], places[2]]):
        variables = {**os.environ, "PYTHONPATH": os.pathsep.join(path)}
        run = subprocess.run(
            [sys.executable, "-c", ""], capture_output=True, text=True, timeout=60, check=False, env=variables
        )
        assert (run.stdout, run.stderr) == ("own\n", "")
