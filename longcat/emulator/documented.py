"""Types that the documentation names for the tensors of torch_npu's operators; a device refuses others.

The table is made by `benchmarks/documented_types.py` from the wheel's texts and op-plugin's pages. An argument that is not
in it has no documented types, or such as torch has not; `=` and a name is of that tensor's type.
"""

from __future__ import annotations

import json
from functools import cache, wraps
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from longcat.emulator.reference import Function, check_types

TABLE = Path(__file__).with_name("documented_types.json")


@cache
def _table() -> dict[str, dict[str, list[str]]]:
    loaded: dict[str, dict[str, list[str]]] = json.loads(TABLE.read_text(encoding="utf-8"))
    return loaded


def _tensors(value: Any) -> list[Tensor]:
    return [one for one in (value if isinstance(value, (list, tuple)) else [value]) if isinstance(one, Tensor)]


def typed(name: str, signature: torch.FunctionSchema, function: Function) -> Function:
    """Return a reference that refuses tensors of types that the documentation of its operator does not name.

    Args:
        name: the reference's, such as `npu_rms_norm` or `npu_apply_adam_w.out`.
        signature: schema of the operator.
        function: the reference.
    """
    base = name.rpartition("::")[2].partition(".")[0]
    documented = _table().get(base, _table().get(base.lstrip("_"), {}))  # the public operator calls the other one
    order = [argument.name for argument in signature.arguments]
    if not documented:
        return function

    @wraps(function)
    def run(*positional: Any, **named: Any) -> Any:
        given = dict(zip(order, positional, strict=False)) | named
        for argument, types in documented.items():
            for tensor in _tensors(given.get(argument)):
                if named_types := [getattr(torch, one) for one in types if not one.startswith("=")]:
                    check_types(name, named_types, **{argument: tensor})
                for other in (of for one in types if one.startswith("=") for of in _tensors(given.get(one[1:]))):
                    check_types(name, [other.dtype], **{argument: tensor})
        return function(*positional, **named)

    return run
