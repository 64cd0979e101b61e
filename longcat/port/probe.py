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
        self.names.add(function.name())
        return function(*args, **(kwargs or {}))


def judged() -> tuple[set[str], set[str]]:
    """Return the overloads of aten for which the device has no kernel, and the operators for which it has one."""
    has = torch._C._dispatch_has_kernel_for_dispatch_key
    device = set(torch._C._dispatch_get_registrations_for_dispatch_key("PrivateUse1"))
    autograd = set(torch._C._dispatch_get_registrations_for_dispatch_key("AutogradPrivateUse1"))
    states: dict[str, str] = {}
    on_host, on_device = set[str](), set[str]()
    for schema in torch._C._jit_get_all_schemas():
        name = schema.name + (f".{schema.overload_name}" if schema.overload_name else "")
        if not schema.name.startswith("aten::"):
            continue
        try:
            if name in device or name in autograd:
                states[name] = "registered"
            elif has(name, "CompositeImplicitAutograd"):
                states[name] = "composed"
            elif has(name, "CompositeExplicitAutograd") or has(name, "CompositeExplicitAutogradNonFunctional"):
                states[name] = "by another form"
            elif has(name, "CPU"):
                states[name] = "on hosts only"
        except RuntimeError:
            continue  # no operator of the dispatcher
        # the form that writes into a given tensor is the one that computes, where it has a kernel of its own
        if any(one.kwarg_only and one.alias_info is not None and one.alias_info.is_write for one in schema.arguments):
            if states.get(name) == "registered":
                on_device.add(schema.name)
            elif states.get(name) == "on hosts only":
                on_host.add(schema.name)
    lacking = set()
    for name, state in states.items():
        base = name.partition(".")[0].removesuffix("_")
        other = state == "by another form" and base in on_host and base not in on_device
        if (state == "on hosts only" or other) and base != "aten::_efficientzerotensor":  # made of nothing
            lacking.add(name)
    return lacking, {name.partition(".")[0] for name, state in states.items() if state == "registered"}


def called(missing: set[str]) -> dict[str, list[str]]:
    """Return the functions of torch that call operators which are missing."""
    from torch.testing._internal.common_methods_invocations import op_db
    from torch.utils._pytree import tree_leaves

    def late(*_: object) -> None:
        raise TimeoutError

    signal.signal(signal.SIGPROF, late)  # by processor time: a busy machine finds as much
    result: dict[str, list[str]] = {}
    for op in op_db:
        grad = op.supports_autograd and torch.float32 in op.supported_backward_dtypes("cpu")
        dtype = torch.float32 if torch.float32 in op.supported_dtypes("cpu") else torch.int64
        signal.setitimer(signal.ITIMER_PROF, _SAMPLE_S)
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
            signal.setitimer(signal.ITIMER_PROF, 0)
        needed = sorted({name.partition(".")[0] for name in watch.names & missing})
        if needed:
            result.setdefault(f"torch.{op.name}", needed)
    return result


missing, registered = judged()
try:
    calls = called(missing)
except ImportError:
    calls = {}
bases = {name.partition(".")[0] for name in missing}
answer = {
    "absent": sorted(name.removeprefix("aten::") for name in bases - registered),
    "registered": sorted(name.removeprefix("aten::") for name in registered),
    "calls": calls,
}
print(json.dumps(answer))
sys.stdout.flush()
os._exit(0)
