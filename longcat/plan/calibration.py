"""Efficiencies as `longcat benchmark` has measured them, instead of those of a generation of devices."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from longcat.errors import DataError
from longcat.plan.device import Device
from longcat.unpacking import read_json

_FEWEST = 3
"""Products of which a curve can be made."""
_LEAST_SPREAD = 0.06


def calibrated(device: Device, run: Path) -> Device:
    """Return a device with the efficiencies of a benchmark's result.

    Products, attention and the memory's bandwidth are those of its kernels; links those of its largest collectives.

    Args:
        device: the device that was measured.
        run: result.json of `longcat benchmark`, or the folder with it.

    Raises:
        DataError: it is no such file, measured no kernels, was measured on another device, or at speeds that cannot be.
    """
    path = run / "result.json" if run.is_dir() else run
    try:
        result = read_json(path)
    except OSError as error:
        raise DataError(f"--calibration {run}: {error.strerror or error}") from None
    except ValueError as error:
        raise DataError(f"--calibration {run}: {error}") from None
    try:
        operators: Mapping[str, Any] = result["operators"] or {}
        kernels = operators.get("kernels", [])
        speeds = [
            (one.get("product"), one["name"], _positive(one["flops"]) / _positive(one["seconds"])) for one in kernels
        ]
        products = [(shape, speed) for shape, _, speed in speeds if shape]
        if len(products) < _FEWEST:
            raise DataError(f"--calibration {run}: no kernels in it, which longcat benchmark measures by default")
        share, half = _curve(products, device.flops)
        both = [speed for _, name, speed in speeds if name == "attention, both passes"]
        fastest, bandwidth = max([*both, *(speed for _, speed in products)]), operators.get("bandwidth")
        if fastest > device.flops or (bandwidth and _positive(bandwidth) > device.bandwidth):
            raise DataError(
                f"--calibration {run}: {fastest / 1e12:.4g} TFLOP/s and {(bandwidth or 0) / 1e9:.4g} GB/s were measured, and "
                f"{device.name} has {device.flops / 1e12:.4g} and {device.bandwidth / 1e9:.4g} only"
            )
        of = replace(
            device.efficiency,
            products=share,
            half_size=half,
            attention=both[0] / device.flops if both else device.efficiency.attention,
            memory=bandwidth / device.bandwidth if bandwidth else device.efficiency.memory,
            spread=max(_LEAST_SPREAD, device.efficiency.spread / 2),
            fitted_on=f"measured on {result.get('device_name', 'this machine')}: {path.resolve().parent.name}",
            confidence="measured",
        )
        of = replace(of, **cast(Any, _links(result, device)))
    except (KeyError, TypeError, ValueError, ArithmeticError, AttributeError):
        raise DataError(f"--calibration {run}: not the result of longcat benchmark") from None
    measured = str(result.get("device_name", "an unnamed device"))
    if measured.lower() not in {name.lower() for name in (device.row.name, *device.row.aliases)}:
        raise DataError(f"--calibration {run} was measured on {measured}, not on {device.name}")
    return replace(device, efficiency=of)


def _positive(number: float) -> float:
    if not 0 < number < math.inf:
        raise ValueError(f"{number} is no size, time or speed")
    return number


def _curve(products: Sequence[tuple[Sequence[float], float]], peak: float) -> tuple[float, float]:
    """Return share and half size that fit best: of each half size the share is the median of what is left, at most all."""

    def left(half: float) -> list[float]:
        return [math.log(speed / peak / math.prod(size / (size + half) for size in shape)) for shape, speed in products]

    def error(half: float) -> float:
        logs = left(half)
        middle = min(0.0, statistics.median(logs))
        return sum(abs(one - middle) for one in logs)

    half = min((2**power for power in (step / 2 for step in range(2, 22))), key=error)
    return math.exp(min(0.0, statistics.median(left(half)))), half


def _links(result: Mapping[str, Any], device: Device) -> dict[str, float]:
    """Return the shares of links that the largest collectives of each level reach."""
    found: dict[str, float] = {}
    measured = (result.get("collectives") or {}).get("measured", [])
    for scope, name, speed in (
        ("inside a node", "inside", device.inside),
        ("between nodes", "between", device.between),
    ):
        of_scope = [one for one in measured if one["scope"] == scope and one["link_bytes"]]
        if of_scope:
            largest = max(of_scope, key=lambda one: one["link_bytes"])
            found[name] = _positive(largest["link_bytes"]) / _positive(largest["seconds"]) / speed
    if measured:
        found["message_s"] = min(_positive(one["seconds"]) for one in measured)
    return found
