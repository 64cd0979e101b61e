"""No private API of torch in product code: it changes without notice from one release to the next."""

import ast

import pytest
import torch
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor

from longcat.provenance import ROOT

EXCEPTIONS = {
    # which kernels a device has registered, and for which dispatch keys, has no public question
    "longcat/emulator/kernels.py": "_C _get_schema _dispatch_get_registrations_for_dispatch_key _dispatch_has_kernel_for_dispatch_key",
    # nor have the name of a private device and a call below autograd
    "longcat/emulator/reference.py": "_C _get_privateuse1_backend_name _SetExcludeDispatchKeyGuard",
    # the operators that torch_npu calls are private in torch itself
    "longcat/emulator/operators/aten.py": "_fft_c2c _fft_r2c _scaled_dot_product_attention_math "
    "_scaled_dot_product_flash_attention_for_cpu _embedding_bag _gather_sparse_backward "
    "_cdist_backward",
    # the name of a private device again, and the process group that an operator names
    "longcat/emulator/operators/dropout.py": "_C _get_privateuse1_backend_name",
    "longcat/emulator/communicators.py": "_C _get_privateuse1_backend_name _world",
    # which operators there are, and what is registered for each
    "longcat/emulator/explain.py": "_C _dispatch_get_all_op_names _dispatch_has_kernel_for_dispatch_key",
    "longcat/emulator/upstream.py": "_C _jit_get_all_schemas _dispatch_has_kernel_for_dispatch_key",
    # what sees every operator, and tensors that have shapes only, have no public names
    "longcat/training/observation.py": "_python_dispatch",
    "longcat/training/dry_run.py": "_subclasses",
    # what a wheel has registered, and which operators its functions call
    "longcat/port/probe.py": "_C _jit_get_all_schemas _dispatch_get_registrations_for_dispatch_key "
    "_dispatch_has_kernel_for_dispatch_key _python_dispatch _pytree _internal",
    # a program is watched below autograd, also where it computes again what it has not kept
    "longcat/port/witness/recorder.py": "_python_dispatch _pytree _get_current_function_mode_stack",
    # attention to tensors that are apart is that of the CPU's kernel
    "longcat/port/witness/stand_in.py": "_scaled_dot_product_flash_attention_for_cpu "
    "_scaled_dot_product_flash_attention_for_cpu_backward",
    # torch's own table of operators and their sample inputs
    "longcat/emulator/conformance.py": "_internal _pytree _python_dispatch",
}
CLASSES = (torch.Tensor, torch.nn.Module, torch.optim.Optimizer, torch.autograd.Function, DeviceMesh, DTensor)


def private_names(tree):
    """Names of torch that begin with an underscore, as modules, attributes or methods of torch's classes."""
    for node in ast.walk(tree):
        match node:
            case ast.ImportFrom(module=str(module), names=names) if module.split(".")[0] == "torch":
                for name in [*module.split("."), *(alias.name for alias in names)]:
                    yield node.lineno, name
            case ast.Import(names=names):
                for alias in names:
                    if alias.name.split(".")[0] == "torch":
                        yield from ((node.lineno, part) for part in alias.name.split("."))
            case ast.Attribute(value=value, attr=attr):
                if ast.unparse(value).split(".")[0] in ("torch", "dist", "F", "nn", "dcp") or (
                    ast.unparse(value) not in ("self", "cls") and any(hasattr(of, attr) for of in CLASSES)
                ):
                    yield node.lineno, attr


def private_uses(text):
    return [(line, name) for line, name in private_names(ast.parse(text)) if name[0] == "_" and name[:2] != "__"]


def test_product_code_uses_public_torch_only():
    found, needed = [], {}
    for file in sorted((ROOT / "longcat").rglob("*.py")):
        path = str(file.relative_to(ROOT))
        allowed = EXCEPTIONS.get(path, "").split()
        uses = private_uses(file.read_text(encoding="utf-8"))
        found += [f"{path}:{line}: {name}" for line, name in uses if name not in allowed]
        if taken := {name for _, name in uses if name in allowed}:
            needed[path] = taken
    assert not found
    assert needed == {path: set(names.split()) for path, names in EXCEPTIONS.items()}, "an exception is not needed"


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("torch._softmax_backward_data(a, b, -1, c)", "_softmax_backward_data"),
        ("import torch._dynamo", "_dynamo"),
        ("from torch.nn.utils.stateless import _reparametrize_module", "_reparametrize_module"),
        ("from torch.distributed._functional_collectives import all_to_all_single_autograd", "_functional_collectives"),
        ("from torch import _C", "_C"),
        ("mesh['data', 'expert']._flatten('world')", "_flatten"),
        ("dist.distributed_c10d._set_pg_timeout(1)", "_set_pg_timeout"),
    ],
)
def test_private_names_are_seen(text, name):
    assert name in {found for _, found in private_uses(text)}
