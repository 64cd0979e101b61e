"""Every type that the documentation leaves out for a tensor is refused, by the operator's and the tensor's name."""

import json
import sys

import pytest
import torch

from tests.emulator.same import move
from tests.emulator.samples import SAMPLES

pytestmark = [pytest.mark.emulator, pytest.mark.usefixtures("npu")]
OTHERS = (torch.int32, torch.float32, torch.float16, torch.bool, torch.complex64)


def table():
    from longcat.emulator.documented import TABLE

    return json.loads(TABLE.read_text(encoding="utf-8"))


def base(name):
    return name.rpartition("::")[2].partition(".")[0]


def test_the_table_names_operators_arguments_and_types_that_there_are():
    from longcat.emulator.kernels import full_name, schema
    from longcat.emulator.reference import DIFFERENTIABLE, REFERENCES

    known = {}
    for name in {**REFERENCES, **DIFFERENTIABLE}:
        if (full := full_name(name)) is not None:
            known.setdefault(base(name), set()).update(argument.name for argument in schema(full).arguments)
    assert len(table()) > 100
    for operator, arguments in table().items():
        assert arguments.keys() <= known[operator], operator
        for types in arguments.values():
            plain = [name for name in types if not name.startswith("=")]
            assert types and all(isinstance(getattr(torch, name), torch.dtype) for name in plain), operator
            assert {name[1:] for name in types if name.startswith("=")} <= known[operator], operator


@pytest.mark.parametrize("name", sorted(name for name in SAMPLES))
def test_another_type_is_refused_by_name(name):
    from longcat.emulator.kernels import full_name, schema
    from longcat.emulator.reference import operator_of

    documented = table().get(base(name))
    if documented is None:
        pytest.skip("no types are documented")
    order = [argument.name for argument in schema(full_name(name)).arguments]
    arguments, options = SAMPLES[name][0]
    given = dict(zip(order, arguments, strict=False)) | options
    for argument, types in documented.items():
        if not isinstance(given.get(argument), torch.Tensor):
            continue
        other = next((one for one in OTHERS if str(one).removeprefix("torch.") not in types), None)
        if other is None:
            continue
        changed = given | {argument: given[argument].to(other)}
        positional = [move(changed[one]) for one in order[: len(arguments)]]
        named = {one: move(changed[one]) for one in options}
        with pytest.raises(RuntimeError, match=f"{argument}|type|must be"):
            operator_of(name)(*positional, **named)


def test_the_table_has_what_the_installed_wheel_names():
    from benchmarks.documented_types import of_the_wheel
    from benchmarks.documented_types import table as table_of

    for operator, arguments in table_of(of_the_wheel()).items():
        for argument, types in arguments.items():
            # left out where a page names a type that torch has not; which other tensor it is like, all texts have to say
            known = table().get(operator, {}).get(argument)
            assert known is None or {one for one in types if not one.startswith("=")} <= set(known), operator


def test_types_are_read_from_the_documentation(tmp_path, monkeypatch, capsys):
    from benchmarks import documented_types

    texts = documented_types.texts_of([
        "x（Tensor）：必选参数，数据类型支持float16、BF16。",
        "scale: Tensor类型，数据类型支持FLOAT，",
        "    与x的数据类型一致。",
        "eps（float）：数据类型支持float32。",
    ])  # fmt: skip
    assert {name: documented_types.types_in(text) for name, text in texts.items()} == {
        "x": {"float16", "bfloat16"},
        "scale": {"float32"},
    }
    assert documented_types.like_in(texts["scale"], ["x", "scale"]) == {"=x"}
    assert documented_types.types_in("数据类型支持float16、float8_e5m2") is None
    monkeypatch.setattr(sys, "argv", ["documented_types.py", str(tmp_path / "nowhere")])
    with pytest.raises(SystemExit, match="2"):
        documented_types.main()
    assert "is no checkout of op-plugin" in capsys.readouterr().err
