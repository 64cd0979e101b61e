"""Run in the wheel's environment: prints, as JSON, which aten operators torch_npu has kernels for, and which functions need others.

The dispatcher says what is registered. torch's own operator samples (OpInfo) say which operators a function calls, on a CPU,
forwards and backwards, as their names are others than the function's.
"""

# ruff: noqa: E402
import json
import os
import signal
import sys
import warnings
from typing import Any

warnings.filterwarnings("ignore")
os.environ["TORCH_DEVICE_BACKEND_AUTOLOAD"] = "0"
import torch
import torch_npu  # noqa: F401 # registers
from torch.utils._python_dispatch import TorchDispatchMode

_SAMPLE_S = 5


class Watch(TorchDispatchMode):
    """Collects the names of the operators that are called."""

    def __init__(self) -> None:
        super().__init__()
        self.names = set[str]()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.add(function._schema.name.removeprefix("aten::"))
        return function(*args, **(kwargs or {}))


def states() -> dict[str, set[tuple[str, bool]]]:
    """Return the kinds of kernels that each aten operator has, over its overloads."""
    has = torch._C._dispatch_has_kernel_for_dispatch_key
    device = set(torch._C._dispatch_get_registrations_for_dispatch_key("PrivateUse1"))
    autograd = set(torch._C._dispatch_get_registrations_for_dispatch_key("AutogradPrivateUse1"))
    found: dict[str, set[tuple[str, bool]]] = {}
    schemas = torch._C._jit_get_all_schemas()
    writers = _writers(schemas, has)
    for schema in schemas:
        if not schema.name.startswith("aten::"):
            continue
        name = schema.name + (f".{schema.overload_name}" if schema.overload_name else "")
        try:
            if name in device or name in autograd:
                state = "registered"
            elif (
                has(name, "CompositeImplicitAutograd")
                or has(name, "CompositeExplicitAutograd")
                or (
                    has(name, "CompositeExplicitAutogradNonFunctional") and schema.name.removesuffix("_") not in writers
                )
            ):
                state = "composed"
            elif has(name, "CPU"):
                state = "absent"
            else:
                continue  # of a functional form that calls another one, or of other devices
        except RuntimeError:
            continue  # no operator of the dispatcher
        written = schema.overload_name == "out" or schema.overload_name.endswith("_out")
        found.setdefault(schema.name[6:], set()).add((state, written))
    return found


def _writers(schemas: Any, has: Any) -> set[str]:
    """Return the operators whose form that writes into a given tensor, which the others call, is the CPU's own."""
    found = set()
    for schema in schemas:
        written = any(
            one.kwarg_only and one.alias_info is not None and one.alias_info.is_write for one in schema.arguments
        )
        if written and schema.name.startswith("aten::"):
            try:
                if has(f"{schema.name}.{schema.overload_name}", "CPU"):
                    found.add(schema.name)
            except RuntimeError:
                continue
    return found


def absent(kinds: set[tuple[str, bool]]) -> bool:
    """Whether what an operator computes with has a kernel on hosts only."""
    names = {state for state, _ in kinds}
    if "registered" in names:
        return False
    plain = {state for state, written in kinds if not written}
    return "absent" in names and "composed" not in plain


def called(missing: set[str]) -> dict[str, list[str]]:
    """Return the functions of torch that call operators which are missing."""
    from torch.testing._internal.common_methods_invocations import op_db
    from torch.utils._pytree import tree_leaves

    def late(*_: object) -> None:
        raise TimeoutError

    signal.signal(signal.SIGALRM, late)
    result: dict[str, list[str]] = {}
    for op in op_db:
        grad = op.supports_autograd and torch.float32 in op.supported_backward_dtypes("cpu")
        dtype = torch.float32 if torch.float32 in op.supported_dtypes("cpu") else torch.int64
        signal.alarm(_SAMPLE_S)
        try:
            sample = next(iter(op.sample_inputs("cpu", dtype, requires_grad=grad and dtype is torch.float32)))
            with Watch() as watch:
                value = op(sample.input, *sample.args, **sample.kwargs)
                roots = [one for one in tree_leaves(value) if isinstance(one, torch.Tensor) and one.requires_grad]
                if roots:
                    torch.autograd.backward([one.abs().sum() for one in roots])
        except (Exception, TimeoutError):  # torch cannot make it here
            continue
        finally:
            signal.alarm(0)
        needed = sorted(f"aten::{name}" for name in watch.names & missing)
        if needed:
            result.setdefault(f"torch.{op.name}", needed)
    return result


found = states()
missing = {name for name, kinds in found.items() if absent(kinds)}
missing -= {name for name in missing if name.endswith("_") and name[:-1] in found and name[:-1] not in missing}
missing -= {name for name in missing if name.startswith("_efficientzero")}  # made of nothing
registered = sorted(name for name, kinds in found.items() if any(state == "registered" for state, _ in kinds))
try:
    calls = called(missing)
except ImportError:
    calls = {}
print(json.dumps({"absent": sorted(missing), "registered": registered, "calls": calls}))
sys.stdout.flush()
os._exit(0)
