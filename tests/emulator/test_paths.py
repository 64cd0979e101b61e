"""The paths of `longcat.ops` for NPUs: right, called as torch_npu declares, of the shapes its meta kernels give."""

import ast
from contextlib import contextmanager

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._pytree import tree_leaves, tree_map

from longcat.ops.operators import OPERATORS
from longcat.ops.registry import SampleInputs, check
from longcat.provenance import ROOT

pytestmark = pytest.mark.emulator
NPU = "npu:0"  # a device only where torch_npu is
PATHS = {name: of.implementations["npu"] for name, of in OPERATORS.items() if "npu" in of.implementations}


def named_operators():
    """torch_npu's operators that the package names."""
    for file in sorted((ROOT / "longcat").rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            match node:
                case ast.Call(func=ast.Name(id="npu_operator"), args=[ast.Constant(value=str(name))]):
                    yield name


@contextmanager
def recorded(monkeypatch):
    """All calls of torch_npu's operators: name, arguments and results."""
    calls = []

    def recording(name):
        function = getattr(torch.ops.npu, name)

        def call(*args, **kwargs):
            result = function(*args, **kwargs)
            calls.append((name, args, kwargs, result))
            return result

        return call

    with monkeypatch.context() as patch:
        for module in {OPERATORS[name].implementations["npu"].function.__module__ for name in PATHS}:
            found = __import__(module, fromlist=["_"])
            if hasattr(found, "npu_operator"):
                patch.setattr(found, "npu_operator", recording)
        yield calls


def inputs_of(name, dtype):
    for arguments in OPERATORS[name].sample_inputs(SampleInputs(dtype)):
        yield [value.detach().to(NPU) if isinstance(value, torch.Tensor) else value for value in arguments]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", PATHS)
def test_values_and_gradients_are_those_of_the_reference(name, dtype):
    ask = PATHS[name].unsupported_reason
    reasons = [ask(*arguments) for arguments in inputs_of(name, dtype)] if ask is not None else []
    if any(f"{dtype}, not 16 bits wide" in str(reason) for reason in reasons):
        pytest.skip(reasons[0])
    check(OPERATORS[name], PATHS[name], torch.device(NPU), dtype)


def run_all(monkeypatch):
    with recorded(monkeypatch) as calls:
        for name, path in PATHS.items():
            for arguments in inputs_of(name, torch.bfloat16):
                leaves = [
                    value.requires_grad_()
                    for value in arguments
                    if isinstance(value, torch.Tensor) and value.is_floating_point()
                ]
                results = path.function(*arguments)
                learnable = [value for value in tree_leaves(results) if value.requires_grad]
                if learnable:
                    total = sum(value.float().sum() for value in learnable)
                    torch.autograd.grad(total, leaves, allow_unused=True)
    return calls


@pytest.fixture(scope="module")
def calls():
    patch = pytest.MonkeyPatch()
    yield run_all(patch)
    patch.undo()


def test_every_operator_that_the_package_names_was_called(calls):
    assert {name for name, *_ in calls} == set(named_operators())


def test_calls_are_as_the_wheel_declares(calls):
    """The dispatcher would take a whole number for a float, or a list for a tensor's: here every type is looked at."""
    for name, args, kwargs, _ in calls:
        declared = {argument.name: argument for argument in getattr(torch.ops.npu, name).default._schema.arguments}
        given = dict(zip(declared, args, strict=False)) | kwargs
        assert given.keys() <= declared.keys(), name
        required = {key for key, argument in declared.items() if not argument.has_default_value()}
        assert required - given.keys() <= {key for key in required if str(declared[key].type).startswith("Optional")}, (
            name
        )
        for key, value in given.items():
            assert fits(value, str(declared[key].type)), (name, key, value, declared[key].type)


def fits(value, declared):
    if declared.startswith("Optional["):
        return value is None or fits(value, declared[len("Optional[") : -1])
    if declared.startswith("List["):
        return isinstance(value, (list, tuple)) and all(fits(item, declared[len("List[") : -1]) for item in value)
    kind = {"Tensor": torch.Tensor, "int": int, "float": float, "bool": bool, "str": str}[
        declared.replace("SymInt", "int")
    ]
    return isinstance(value, kind) and not (kind is int and isinstance(value, bool))


def test_shapes_and_types_are_those_of_the_meta_kernels(calls):
    looked_at = set()
    for name, args, kwargs, result in calls:
        with FakeTensorMode(allow_non_fake_inputs=True) as mode:

            def place(value, mode=mode):
                return mode.from_tensor(value.detach()) if isinstance(value, torch.Tensor) else value

            expected = getattr(torch.ops.npu, name)(*tree_map(place, args), **tree_map(place, kwargs))
        for found, meta in zip(tree_leaves(result), tree_leaves(expected), strict=True):
            if isinstance(meta, torch.Tensor):
                assert (found.shape, found.dtype, found.device) == (meta.shape, meta.dtype, meta.device), name
        looked_at.add(name)
    assert looked_at == set(named_operators())
