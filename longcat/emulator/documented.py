"""Types that the documentation names for the tensors of torch_npu's operators; a device refuses others.

The table is made by `benchmarks/documented_types.py` from the wheel's texts and op-plugin's pages. An argument that is not
in it has no documented types, or such as torch has not.
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


def typed(name: str, signature: torch.FunctionSchema, function: Function) -> Function:
    """Return a reference that refuses tensors of types that the documentation of its operator does not name.

    Args:
        name: the reference's, such as `npu_rms_norm` or `npu_apply_adam_w.out`.
        signature: schema of the operator.
        function: the reference.
    """
    base = name.rpartition("::")[2].partition(".")[0]
    documented = _table().get(base, _table().get(base.lstrip("_"), {}))  # the public operator calls the other one
    allowed = {one: tuple(getattr(torch, each) for each in types) for one, types in documented.items()}
    order = [argument.name for argument in signature.arguments]
    if not allowed:
        return function

    @wraps(function)
    def run(*positional: Any, **named: Any) -> Any:
        for argument, value in (*zip(order, positional, strict=False), *named.items()):
            if argument in allowed:
                for tensor in value if isinstance(value, (list, tuple)) else (value,):
                    if isinstance(tensor, Tensor):
                        check_types(name, allowed[argument], **{argument: tensor})
        return function(*positional, **named)

    return run
