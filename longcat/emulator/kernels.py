"""Kernels of the emulated device, which replace those of torch_npu that would call an NPU."""

from __future__ import annotations

import importlib
import pkgutil
from pathlib import Path
from typing import Any

import torch

from longcat.emulator import documented, operators
from longcat.emulator.build import KERNELS
from longcat.emulator.reference import DIFFERENTIABLE, FACTORIES, REFERENCES, kernel

FUSED = ("npu", "atb")
"""Namespaces of torch_npu's own operators."""

_MEMORY = {
    "empty", "empty_strided", "empty_like", "new_empty_strided", "set_", "resize_", "resize_as_", "_resize_output_",
    "record_stream", "is_pinned", "_pin_memory", "pin_memory", "_to_copy", "to", "is_set_to", "_lazy_clone",
    "_copy_from_and_resize", "from_blob", "_has_compatible_shallow_copy_type", "_nested_view_from_buffer",
}  # fmt: skip
"""aten operators that allocate, describe or move memory: torch_npu's code for them needs no device kernel."""

_HOST = {
    "get_npu_format", "get_storage_size", "npu_change_data_ptr", "npu_format_cast", "npu_format_cast_",
    "_npu_format_cast", "set_op_timeout_ms", "copy_memory_", "npu_prefetch", "print_npugraph_tensor",
    "save_npugraph_tensor", "super_kernel_scope_begin", "super_kernel_scope_end",
}  # fmt: skip
"""torch_npu's own operators of this kind."""

_ON_BOTH = ("_pack_padded_sequence",)
"""Operators with results on the device and on the host: torch composes them from others."""

_COMPUTED = ("CPU", "CompositeExplicitAutograd", "CompositeExplicitAutogradNonFunctional", "CompositeImplicitAutograd")
"""Dispatch keys under which the CPU's kernel of an operator is registered."""

_CPU_ATTENTION = ("_scaled_dot_product_flash_attention_for_cpu", "_scaled_dot_product_flash_attention_for_cpu_backward")
"""aten operators that the emulated attention is computed with."""

_REFERENCE = "PrivateUse2"
"""Dispatch key of the references, as kernels.cpp looks for them: another backend's, which nobody has."""

_libraries: list[torch.library.Library] = []


def install(folder: str) -> None:
    """Replace torch_npu's kernels in this process; `folder` is what `build` made."""
    torch.ops.load_library(str(Path(folder) / KERNELS))
    for module in pkgutil.iter_modules(operators.__path__):
        importlib.import_module(f"{operators.__name__}.{module.name}")
    ours = torch.ops.longcat_emulator
    device = torch._C._dispatch_get_registrations_for_dispatch_key("PrivateUse1")
    autograd = torch._C._dispatch_get_registrations_for_dispatch_key("AutogradPrivateUse1")
    ours.install_cpu_kernels([name for name in device if computes(name) and has_kernel(name)])
    ours.install_cpu_kernels([f"aten::{name}" for name in _CPU_ATTENTION])
    ours.install_composite_kernels([f"aten::{name}" for name in _ON_BOTH])
    ours.install_composites([name for name in autograd if name.startswith("aten::") and composed(name)])
    refused = [name for name in device if not has_kernel(name)]
    ours.install_refusals(refused)
    ours.install_references([full for name in REFERENCES if (full := full_name(name)) is not None])
    for name, function in REFERENCES.items():
        _register(name, kernel(name, typed(name, function)), _REFERENCE)
    for name, plain in DIFFERENTIABLE.items():
        function = typed(name, plain)
        _register(name, function, "AutogradPrivateUse1")
        _register(name, function, "PrivateUse1")  # in inference mode there is no autograd key
        if name in FACTORIES:
            _register(name, function, "CompositeImplicitAutograd")


def typed(name: str, function: Any) -> Any:
    """Return a reference that refuses what its operator's documentation does not name."""
    full = full_name(name)
    signature = schema(full) if full is not None else None
    return function if signature is None else documented.typed(name, signature, function)


def schema(name: str) -> torch.FunctionSchema | None:
    """Return the schema of an operator by its full name; None if only a kernel is registered under this name."""
    namespace, _, rest = name.partition("::")
    operator, _, overload = rest.partition(".")
    try:
        return torch._C._get_schema(f"{namespace}::{operator}", overload)
    except RuntimeError:
        return None


def computes(name: str) -> bool:
    """Whether an aten operator has to run on the CPU: all but views and those that only handle memory."""
    signature = schema(name) if name.startswith("aten::") else None
    base = name[6:].partition(".")[0]
    if signature is None or base in _MEMORY or base in _ON_BOTH or name[6:] in {**REFERENCES, **DIFFERENTIABLE}:
        return False
    return not any(
        argument.alias_info is not None and not argument.alias_info.is_write for argument in signature.arguments
    )


def composed(name: str) -> bool:
    """Whether torch composes an aten operator from others although torch_npu has an autograd kernel for it."""
    own = {"matmul", "contiguous", "scaled_dot_product_attention", "one_hot"}
    return (
        schema(name) is not None
        and name[6:].partition(".")[0] not in own
        and torch._C._dispatch_has_kernel_for_dispatch_key(name, "CompositeImplicitAutograd")
    )


def has_kernel(name: str) -> bool:
    """Whether an operator can run: an aten one if the CPU has it, torch_npu's if it has a reference or needs none."""
    namespace, _, rest = name.partition("::")
    if computes(name):
        return any(torch._C._dispatch_has_kernel_for_dispatch_key(name, key) for key in _COMPUTED)
    ours = namespace not in FUSED or schema(name) is None
    known = {**REFERENCES, **DIFFERENTIABLE}
    return ours or rest in known or name in known or rest.partition(".")[0] in _HOST


def full_name(name: str) -> str | None:
    """Return the name of a reference's operator with its namespace; None if this torch_npu has no such operator."""
    named = (name,) if "::" in name else (f"npu::{name}", f"aten::{name}")
    return next((full for full in named if schema(full) is not None), None)


def _register(name: str, function: Any, key: str) -> None:
    full = full_name(name)
    if full is None:
        return
    namespace, _, rest = full.partition("::")
    library = torch.library.Library(namespace, "IMPL")
    library.impl(rest, function, key)
    _libraries.append(library)  # its kernels live as long as it does
