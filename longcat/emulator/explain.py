"""Where an operator's numbers come from on the emulated device, and what they were checked against.

    longcat emulate --explain npu_rms_norm

Run under the emulator: everything is read from the registrations of this process, not from a list.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module, metadata
from pathlib import Path
from shutil import get_terminal_size
from textwrap import fill
from typing import Any

import torch

from longcat.emulator import kernels
from longcat.emulator.reference import DIFFERENTIABLE, REFERENCES
from longcat.printable import did_you_mean

_ROOT = Path(__file__).resolve().parents[2]
_NAMESPACES = (*kernels.FUSED, "aten")


@dataclass(frozen=True)
class Explanation:
    """What is known of one overload of an operator."""

    name: str
    """Full name, such as `npu::npu_rms_norm`."""
    schema: str
    numbers: str
    gradient: str
    shapes: str
    checked: str


def overloads(name: str) -> list[str]:
    """Return the full names of an operator's overloads; its name may carry namespace and overload.

    Raises:
        LookupError: no such operator; the message names the nearest ones.
    """
    namespace, rest = _parts(name)
    known = [one for one in sorted(torch._C._dispatch_get_all_op_names()) if kernels.schema(one) is not None]
    wanted = [f"{one}::{rest}" for one in ([namespace] if namespace else _NAMESPACES)]
    found = [one for one in known if one in wanted or one.partition(".")[0] in wanted]
    if not found:
        plain = sorted({one.rpartition("::")[2].partition(".")[0] for one in known if one.startswith(_NAMESPACES)})
        raise LookupError(f"no operator {name} in torch {torch.__version__} or torch_npu{did_you_mean(rest, plain)}")
    return found


def _parts(name: str) -> tuple[str, str]:
    """Take the namespace, empty if none is named, from a name as in C++ (`npu::npu_swiglu`) or Python (`torch.ops.`)."""
    found = re.match(rf"(?:torch\.ops\.)?(?:(\w+)::|({'|'.join(_NAMESPACES)})\.|torch_npu\.|torch\.)?(.*)", name)
    assert found is not None
    return found[1] or found[2] or "", found[3]


def explain(name: str) -> Explanation:
    """Explain one overload by its full name."""
    signature = kernels.schema(name)
    assert signature is not None, name
    namespace, _, rest = name.partition("::")
    known = {**REFERENCES, **DIFFERENTIABLE}
    function = next((known[key] for key in (name, rest) if key in known and kernels.full_name(key) == name), None)
    if function is not None:
        numbers = f"ours, plain torch on the CPU: {_place(function)}"
    elif namespace not in kernels.FUSED:
        numbers = _numbers_of_aten(name)
    elif kernels.has_kernel(name):
        numbers = "torch_npu's own code, which needs no kernel"
    else:
        numbers = (
            f"none: a call raises NotImplementedError. To add it, write a function of CPU tensors in a module of "
            f"longcat/emulator/operators with @reference({rest!r}). {_documented(rest)}"
        )
    return Explanation(name, str(signature), numbers, _gradient(name), _shapes(name), "; ".join(_checks(name)))


def _documented(rest: str) -> str:
    base = rest.partition(".")[0]
    text = getattr(getattr(import_module("torch_npu"), base, None), "__doc__", None)
    return f"The wheel documents it: help(torch_npu.{base})" if text else "The wheel does not document it"


def _device(name: str) -> bool:
    return torch._C._dispatch_has_kernel_for_dispatch_key(name, "PrivateUse1")


def _place(function: Any) -> str:
    inner = inspect.unwrap(function)
    file, line = Path(inspect.getfile(inner)).resolve(), inspect.getsourcelines(inner)[1]
    said = (inspect.getdoc(inner) or "").partition("\n")[0]
    shown = file.relative_to(_ROOT) if file.is_relative_to(_ROOT) else file
    return f"{shown}:{line}" + (f', "{said}"' if said else "")


def _numbers_of_aten(name: str) -> str:
    if not _device(name):
        if torch._C._dispatch_has_kernel_for_dispatch_key(name, "CompositeImplicitAutograd"):
            return "torch composes it from other operators"
        return "torch's own code for every device, or none"
    if not kernels.computes(name):
        return "torch_npu's own code: a view, or memory without a kernel"
    if kernels.has_kernel(name):
        return "the CPU's kernel of torch, on the same memory"
    return "none: the CPU has no kernel of it; a call raises NotImplementedError"


def _gradient(name: str) -> str:
    has = torch._C._dispatch_has_kernel_for_dispatch_key
    rest = name.partition("::")[2]
    if rest in DIFFERENTIABLE or kernels.composed(name):
        return "torch's, of what it is composed of"
    if has(name, "AutogradPrivateUse1"):
        return "torch_npu's formula" + (f", computed by {', '.join(_backward(rest))}" if _backward(rest) else "")
    if has(name, "Autograd"):
        return "torch's formula"
    return "none, as on a device"


def _backward(rest: str) -> list[str]:
    """Name the references that are, by their names, the operator's gradient, in its version or in all that there are."""
    base, version = re.findall(r"^(.+?)((?:_v\d+)?)$", rest.partition(".")[0].strip("_"))[0]
    word = re.compile(rf"_?{re.escape(base)}_?(backward|grad)" + (version or r"(_v\d+)?") + r"(\.\w+)?")
    return sorted(one for one in REFERENCES if word.fullmatch(one))


def _shapes(name: str) -> str:
    if torch._C._dispatch_has_kernel_for_dispatch_key(name, "Meta"):
        return "a meta kernel says the results' shapes and types, on a device as here"
    return "no meta kernel: shapes and types are the reference's"


def _checks(name: str) -> Iterator[str]:
    base = name.partition("::")[2].partition(".")[0]
    if name.startswith("aten::"):
        yield f"`python -m longcat.emulator.conformance {base.strip('_')}` runs torch's own tests of it"
        return
    files = sorted((_ROOT / "tests" / "emulator").glob("test_*.py"))
    word = re.compile(rf"\b{re.escape(base)}\b")
    named = [str(file.relative_to(_ROOT)) for file in files if word.search(file.read_text(encoding="utf-8"))]
    if named:
        yield ", ".join(named)
    else:
        yield "no test of ours names it" if files else "the tests are not installed with the package"


def main() -> int:
    """Print what is known of the operators that are named; returns 2 if there is no such operator."""
    columns = max(get_terminal_size().columns, 40)
    versions = f"torch {metadata.version('torch')}, torch_npu {metadata.version('torch_npu')}"
    for name in sys.argv[1:]:
        try:
            found = overloads(name)
        except LookupError as error:
            print(f"error: {error}", file=sys.stderr)
            return 2
        for one in map(explain, found):
            print(f"{one.name}  ({versions})")
            for label in ("schema", "numbers", "gradient", "shapes", "checked"):
                print(fill(getattr(one, label), columns, initial_indent=f"  {label:<10}", subsequent_indent=" " * 12))
    return 0


if __name__ == "__main__":
    sys.exit(main())
